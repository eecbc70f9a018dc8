"""Hot standbys on the four machines: they run because the policy says so, and traffic moves to them without a play."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.machines.lab import Lab
from deploy.trials.policy import EITHER, apply_policy, policy_with
from deploy.trials.status import WITNESS, fleet_status, settle, wait_until
from deploy.trials.timeline import command_of, kv_of, request_since
from deploy.trials.trial import BACKEND_URL, FRONTEND_URL
from tests.lab.browser import LOADED_MS, all_green, browser_page, ui
from tests.lab.fleet import (
    HOME,
    MOVED_WITHIN_S,
    SECOND,
    UNIT,
    mend_and_settle,
    reasons,
    service,
    traffic,
    unit_state,
    wait_client,
)


@pytest.fixture(scope="module")
def hot_lab(quick_lab: Lab) -> Iterator[tuple[Lab, dict[str, Any], float]]:
    """The fleet with hot standbys, settled; with its policy and when that was applied."""
    since = time.time()
    with policy_with(quick_lab, standby="hot") as policy:
        yield quick_lab, policy, since


@pytest.fixture
def hot(hot_lab: tuple[Lab, dict[str, Any], float]) -> Iterator[Lab]:
    """The settled fleet with hot standbys; what a test breaks is mended after it."""
    lab, _, _ = hot_lab
    settle(lab)
    yield lab
    mend_and_settle(lab)


def backups(lab: Lab, name: str) -> list[str]:
    """Return the VMs that traffic goes to when the active does not answer."""
    return [endpoint["vm"] for endpoint in service(lab, name)["endpoints"] if endpoint["backup"]]


def test_a_policy_that_turns_hot_has_the_standbys_started_beside_the_active(
    hot_lab: tuple[Lab, dict[str, Any], float],
) -> None:
    lab, _, since = hot_lab
    said = " ".join(reasons(lab, since))
    for name, vm in ((name, SECOND[name]) for name in EITHER):
        seen = service(lab, name)
        assert (seen["active"], seen["instances"][vm], seen["standbys_missing"]) == (HOME[name], "healthy", [])
        assert backups(lab, name) == [vm]
        assert unit_state(lab, vm, UNIT[name]) == "active"
        assert f"{name} does not run on {vm}, where it stands by hot: it is started there." in said
    assert "Moving" not in said


def test_the_ui_tells_a_standby_from_the_active(hot: Lab) -> None:
    with browser_page() as page:
        for name, vm in SECOND.items():
            page.goto(ui(hot, f"services/orch-{name}/instances"))
            for role, at in (("standby", vm), ("active", HOME[name])):
                instance = page.get_by_role("listitem").filter(has_text=at)
                instance.get_by_text(role, exact=True).wait_for(timeout=LOADED_MS)
            # Of each instance: its own checks, and those of its VM.
            all_green(page, 4)


@pytest.mark.parametrize("kind", ["kill", "cut"])
def test_a_backend_that_fails_costs_no_request_that_can_be_sent_again(hot: Lab, tmp_path: Path, kind: str) -> None:
    with traffic(hot, BACKEND_URL, tmp_path) as client:
        fault = hot.fault(kind, HOME["backend"], "backend" if kind == "kill" else None)
        struck = time.time()
        wait_until("the backend has moved", lambda: has_moved(hot, "backend", fault.at), MOVED_WITHIN_S, 0.3)
        wait_client(client, time.time())
    failed = [sample for sample in client.samples() if not sample.ok]
    if kind == "cut":
        # What was under way on the link in that moment is never answered.
        failed = [sample for sample in failed if sample.at > struck]
    assert failed == []
    assert_traffic_moved_before_any_play(hot, "backend", fault.at)


@pytest.mark.parametrize("kind", ["kill", "cut"])
def test_a_frontend_that_fails_has_its_traffic_moved_before_any_play_runs(hot: Lab, tmp_path: Path, kind: str) -> None:
    with traffic(hot, FRONTEND_URL, tmp_path) as client:
        fault = hot.fault(kind, HOME["frontend"], "frontend" if kind == "kill" else None)
        wait_until("the frontend has moved", lambda: has_moved(hot, "frontend", fault.at), MOVED_WITHIN_S, 0.3)
        wait_client(client, time.time())
    assert_traffic_moved_before_any_play(hot, "frontend", fault.at)


def has_moved(lab: Lab, name: str, fault_at: float) -> bool:
    """Say whether a failover since the fault is done."""
    seen = fleet_status(lab).get("services", {}).get(name, {})
    if seen.get("active") != SECOND[name] or seen.get("lock_holder") != SECOND[name]:
        return False
    request = request_since(kv_of(lab, WITNESS), name, fault_at)
    return request is not None and request["state"] == "succeeded"


def assert_traffic_moved_before_any_play(lab: Lab, name: str, fault_at: float) -> None:
    """The records tell the order: lock, endpoints, and only then a command for a worker to take."""
    kv = kv_of(lab, WITNESS)
    request = request_since(kv, name, fault_at)
    assert request is not None
    command = command_of(kv, request["id"])
    times = request["times"]
    assert times["locked"] <= times["endpoints"] <= command["created"] < command["claimed"]


def test_a_policy_that_turns_cold_takes_the_traffic_away_and_stops_the_standbys(
    hot: Lab, hot_lab: tuple[Lab, dict[str, Any], float]
) -> None:
    _, policy, _ = hot_lab
    cold = copy.deepcopy(policy)
    for name in EITHER:
        cold["services"][name]["standby"] = "cold"
    try:
        apply_policy(hot, cold)
        for name, vm in ((name, SECOND[name]) for name in EITHER):
            wait_until(f"{vm} gets no traffic of {name}", lambda n=name: gets_no_traffic(hot, n), 10)
            assert unit_state(hot, vm, UNIT[name]) == "active", "what is being stopped must get no traffic"
        for name, vm in ((name, SECOND[name]) for name in EITHER):
            wait_until(f"{name} is stopped on {vm}", lambda n=name, v=vm: unit_state(hot, v, UNIT[n]) != "active", 20)
            assert backups(hot, name) == []
            enabled = hot.run(vm, ["systemctl", "is-enabled", UNIT[name]], check=False).stdout.strip()
            assert enabled == "disabled"
    finally:
        apply_policy(hot, policy)


def gets_no_traffic(lab: Lab, name: str) -> bool:
    """Say whether the service has no backup, neither in its endpoints nor (the backend) in what nginx was given."""
    upstream = lab.run(HOME["frontend"], ["cat", "/etc/nginx/orch/backend-upstream.conf"]).stdout
    return not backups(lab, name) and (name != "backend" or " backup " not in upstream)
