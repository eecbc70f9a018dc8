"""Two VMs lost at once: no quorum, so nothing moves; clients go on being served; all is well after mending."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from deploy.machines.lab import Lab
from deploy.trials.outage import outage_from
from deploy.trials.trial import FRONT_DOOR, settle, wait_until
from tests.lab.fleet import (
    HOME,
    SECOND,
    UNIT,
    epochs,
    has_address,
    orch,
    reasons,
    role_of,
    service,
    traffic,
    unit_state,
    wait_client,
)

WITHOUT_QUORUM_S = 10.0
# What needs no data: a database that cannot confirm its role lock takes no write, wherever the majority would be.
HEALTH_URL = f"{FRONT_DOOR}/api/health"
CUT = ("messaging-server", "database-server")
UPSTREAM = "/etc/nginx/orch/backend-upstream.conf"


def what_serves(lab: Lab) -> dict[str, Any]:
    """Return what a move would change, each as the VMs themselves know it."""
    return {
        "roles": {name: role_of(lab, name, HOME["frontend"], stale=True) for name in HOME},
        "address": [vm for vm in (HOME["frontend"], SECOND["frontend"]) if has_address(lab, vm)],
        "nginx": unit_state(lab, HOME["frontend"], UNIT["frontend"]),
        "upstream": lab.run(HOME["frontend"], ["cat", UPSTREAM]).stdout,
        "second backend": unit_state(lab, SECOND["backend"], UNIT["backend"]),
        "second upstream": lab.run(SECOND["frontend"], ["cat", UPSTREAM]).stdout,
    }


def own_checks(lab: Lab) -> set[str]:
    """Return what the agent on the backend's VM thinks of the backend."""
    told = lab.run(HOME["backend"], ["curl", "-s", "-m", "5", "http://127.0.0.1:8500/v1/agent/checks"], timeout_s=20)
    return {check["Status"] for check in json.loads(told.stdout).values() if check["ServiceID"] == "orch-backend"}


def test_without_quorum_nothing_moves_and_clients_are_served(fleet: Lab, tmp_path: Path) -> None:
    before, serving = epochs(fleet), what_serves(fleet)
    assert None not in serving["roles"].values()
    with traffic(fleet, HEALTH_URL, tmp_path) as client:
        at = time.time()
        # Neither is active for anything: what serves is left alone in a minority.
        for vm in CUT:
            fleet.fault("cut", vm)
        wait_client(client, at + WITHOUT_QUORUM_S, within_s=WITHOUT_QUORUM_S + 30)
        told = orch(fleet, "status", vm=HOME["frontend"], check=False)
        assert told.returncode == 7
        assert outage_from(client.samples(), at).failed == 0

        # Not even what fails now: there is nobody who could say that the other half has not moved it.
        struck = fleet.fault("kill", HOME["backend"], "backend").at
        while time.time() < struck + WITHOUT_QUORUM_S:
            assert what_serves(fleet) == serving
            time.sleep(0.5)
        fleet.mend(HOME["backend"])
        # Else what the others learn first of it is that it fails.
        wait_until("its own agent finds it well", lambda: own_checks(fleet) == {"passing"}, 60)
        wait_client(client, time.time(), within_s=60)
        served_again = time.time()

        fleet.mend()
        settle(fleet)
        wait_client(client, time.time())
        assert outage_from(client.samples(), served_again).failed == 0
    assert epochs(fleet) == before, reasons(fleet, at)
    assert what_serves(fleet) == serving
    assert {name: service(fleet, name)["active"] for name in HOME} == HOME
