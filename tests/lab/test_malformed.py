"""Malformed values in KV are reported and ignored, and every daemon stays up."""

from __future__ import annotations

import time
from pathlib import Path

from deploy.machines.lab import Lab
from deploy.trials.outage import outage_from
from deploy.trials.status import WITNESS, settle, wait_until
from deploy.trials.timeline import kv_of
from deploy.trials.trial import BACKEND_URL
from tests.lab.fleet import (
    CONTROLLERS,
    HOME,
    SECOND,
    epochs,
    kv_by_force,
    kv_get,
    kv_put,
    reasons,
    service,
    traffic,
    wait_client,
    wait_served_by,
)

DAEMONS = ("orch-guard", "orch-controller", "orch-worker", "consul-template")


def restarts(lab: Lab) -> dict[str, str]:
    """Return how often systemd restarted each daemon on a VM that runs them all."""
    show = ["systemctl", "show", "--property=NRestarts", "--property=ActiveState"]
    return {unit: lab.run("messaging-server", [*show, unit]).stdout for unit in DAEMONS}


def journal_says(lab: Lab, unit: str, text: str) -> bool:
    """Say whether the unit's journal on either controller holds the text."""
    vms = ("messaging-server", "frontend-server")
    return any(text in lab.run(vm, ["journalctl", "-u", unit, "--no-pager", "-n", "200"]).stdout for vm in vms)


def test_a_malformed_assignment_is_reported_and_written_back_from_the_last_good_one(fleet: Lab, tmp_path: Path) -> None:
    before, since, daemons = epochs(fleet), time.time(), restarts(fleet)
    with traffic(fleet, BACKEND_URL, tmp_path) as client:
        kv_by_force(fleet, "put", "orch/services/backend/assignment", '{"active": 7')
        wait_until("it is repaired", lambda: service(fleet, "backend").get("active") == HOME["backend"], 15)
        wait_client(client, time.time())
        assert outage_from(client.samples(), since).failed == 0
    assert any("cannot be read" in reason for reason in reasons(fleet, since))
    assert epochs(fleet) == before
    assert restarts(fleet) == daemons


def test_a_malformed_config_is_reported_and_the_last_good_one_stays_in_force(fleet: Lab) -> None:
    good, daemons = kv_get(fleet, "orch/config"), restarts(fleet)
    assert good is not None
    kv_put(fleet, "orch/config", '{"version": 1, "services": "none"}')
    try:
        wait_until("it is reported", lambda: journal_says(fleet, "orch-controller", "not a valid policy"), 15, 0.5)
        fleet.fault("kill", HOME["backend"], "backend")
        wait_until(
            "the backend fails over under the last good policy",
            lambda: kv_of(fleet, WITNESS)["orch/services/backend/assignment"]["active"] == SECOND["backend"],
            30,
        )
    finally:
        kv_put(fleet, "orch/config", good.rstrip("\n"))
    wait_served_by(fleet, "backend", SECOND["backend"])
    assert restarts(fleet) == daemons


def test_a_malformed_command_is_reported_and_ignored(fleet: Lab) -> None:
    daemons = restarts(fleet)
    kv_put(fleet, "orch/commands/0000000000001-backend-nonsense", "{]")
    kv_put(fleet, "orch/requests/0000000000001-backend-nonsense", "null")
    try:
        wait_until(
            "it is reported", lambda: journal_says(fleet, "orch-controller", "0000000000001-backend-nonsense"), 15, 0.5
        )
        fleet.fault("kill", HOME["backend"], "backend")
        wait_served_by(fleet, "backend", SECOND["backend"])
    finally:
        for prefix in ("commands", "requests"):
            fleet.run(WITNESS, ["consul", "kv", "delete", f"orch/{prefix}/0000000000001-backend-nonsense"])
    assert restarts(fleet) == daemons


UNUSABLE = {
    None: "the key is absent or empty",
    "": "the key is absent or empty",
    "{}": "there is no list of endpoints",
    '{"endpoints": []}': "no endpoint takes traffic",
    '{"endpoints": [{}]}': "an address is none",
    "not JSON": "the value is no JSON object",
}


def test_with_nothing_to_render_the_last_good_upstream_stays(fleet: Lab, tmp_path: Path) -> None:
    key, vm = "orch/services/backend/endpoints", HOME["frontend"]
    rendered, live = "/run/consul-template/backend-upstream.conf", "/etc/nginx/orch/backend-upstream.conf"
    good, before = kv_get(fleet, key), fleet.run(vm, ["cat", live]).stdout
    assert good is not None
    assert "server " in before

    def refused(why: str) -> int:
        said = fleet.run(vm, ["journalctl", "-u", "consul-template", "--no-pager", "-o", "cat"]).stdout
        return said.count(f"backend: {key} is not used: {why}; the last good endpoints stay")

    with traffic(fleet, BACKEND_URL, tmp_path) as client:
        at = time.time()
        for controller in CONTROLLERS:
            # It would write the endpoints anew before they were rendered.
            fleet.fault("stop", controller, "orch-controller")
        for value, why in UNUSABLE.items():
            seen = refused(why)
            kv_by_force(fleet, "put", key, good.rstrip("\n"))
            wait_until("the good ones are rendered", lambda: fleet.run(vm, ["cat", rendered]).stdout == before, 30)
            if value is None:
                kv_by_force(fleet, "delete", key)
            else:
                kv_by_force(fleet, "put", key, value)
            wait_until(f"{value!r} is refused", lambda seen=seen, why=why: refused(why) > seen, 30)
            assert fleet.run(vm, ["cat", live]).stdout == before
        fleet.mend()
        wait_until("the leader restores them", lambda: '"vm":"backend-server"' in (kv_get(fleet, key) or ""), 60)
        wait_client(client, time.time())
        assert outage_from(client.samples(), at).failed == 0
    assert fleet.run(vm, ["cat", live]).stdout == before
    settle(fleet)
