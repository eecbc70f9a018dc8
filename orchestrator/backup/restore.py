"""Go back to a backup: the database of this VM, which is the active one, or Consul's whole content.

Both throw away what came after, so the caller has seen to it that automation is paused and that somebody said yes.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import requests
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from orchestrator.backup.make import CONSUL_S, LONGEST_S, BackupFailed, Tools, consul_options, run_tool
from orchestrator.settings import LocalSettings, read_secret

SYSTEMCTL = "/usr/bin/systemctl"
UNIT_S = 150.0
CALL_S = 10.0
# The servers take the snapshot over one after the other.
SETTLED_S = 30.0
AGAIN_S = 0.5


def restore_database(content: Path, unit: str, tools: Tools) -> str:
    """Put the backup in the place of this VM's copy; returns where that one is now.

    The unit is down from when the backup has been copied and started once until the server runs again. It starts
    read-only like any other; the guard opens it. No GTID is used twice, so that a standby with later writes finds out
    that it cannot follow, and is cloned.
    """
    run_tool([*tools.database_copy, "take", "--folder", str(content)], LONGEST_S)
    run_tool([SYSTEMCTL, "stop", unit], UNIT_S)
    try:
        told = json.loads(run_tool([*tools.database_copy, "swap", "--keep-old"], LONGEST_S))
    finally:
        _start(unit)
    return str(told["old"])


# A guard that has to close the database within its lease, and gets no answer from one that starts, ends it.
@retry(
    retry=retry_if_exception_type(BackupFailed),
    stop=stop_after_delay(SETTLED_S),
    wait=wait_fixed(AGAIN_S),
    reraise=True,
)
def _start(unit: str) -> None:
    run_tool([SYSTEMCTL, "start", unit], UNIT_S)


def let_in(settings: LocalSettings, tools: Tools) -> None:
    """Have a Consul that has lost everything, its tokens too, take the token of this VM's backups for one that may do
    everything: until the snapshot has brought back what each may do. Any other Consul refuses that."""
    token_file = settings.consul_token_file("backup")
    if token_file is not None:
        with contextlib.suppress(BackupFailed):
            run_tool([*tools.consul, "acl", "bootstrap", consul_options(settings)[0], str(token_file)], CONSUL_S)


def restore_consul(content: Path, settings: LocalSettings, tools: Tools) -> None:
    """Have Consul's servers go back to the snapshot: KV, sessions, catalog and tokens."""
    run_tool([*tools.consul, "snapshot", "restore", *consul_options(settings), str(content)], CONSUL_S)
    try:
        _forget_former_agents(settings)
    except (requests.RequestException, ValueError, KeyError) as error:
        raise BackupFailed(
            f"the snapshot is in force, but whether it names agents that are no more could not be found out ({error});"
            " restore it once more"
        ) from None


@retry(
    retry=retry_if_exception_type((requests.RequestException, ValueError, KeyError)),
    stop=stop_after_delay(SETTLED_S),
    wait=wait_fixed(AGAIN_S),
    reraise=True,
)
def _forget_former_agents(settings: LocalSettings) -> None:
    """Take VMs out of the catalog whose agent has begun anew since the snapshot, under another ID.

    Consul keeps a name for the agent that the catalog knows, and would let the present one register nothing. It comes
    back by itself, with all that it watches.
    """
    url = f"http://{settings.consul.host}:{settings.consul.port}/v1"
    token_file = settings.consul_token_file("backup")
    with requests.Session() as http:
        http.trust_env = False
        http.headers["X-Consul-Token"] = read_secret(token_file) if token_file is not None else ""
        members = _answer(http.get(f"{url}/agent/members", timeout=CALL_S))
        present = {member["Name"]: member["Tags"]["id"] for member in members}
        nodes = _answer(http.get(f"{url}/catalog/nodes", timeout=CALL_S))
        # Until the token is known again, which is in the snapshot, the lists are shown empty.
        if settings.vm not in present or settings.vm not in {node["Node"] for node in nodes}:
            raise ValueError("Consul shows nobody in its lists")
        for node in nodes:
            if present.get(node["Node"], node["ID"]) != node["ID"]:
                gone = {"Node": node["Node"]}
                http.put(f"{url}/catalog/deregister", json=gone, timeout=CALL_S).raise_for_status()


def _answer(response: requests.Response) -> Any:
    response.raise_for_status()
    return response.json()
