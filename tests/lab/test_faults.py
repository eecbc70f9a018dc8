"""Each fault of the lab against each service: clients are served again, and the service comes home by itself."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from deploy.machines.lab import Lab
from deploy.trials.outage import outage_from
from deploy.trials.status import settle, wait_until
from tests.lab.fleet import (
    HOME,
    HOME_WITHIN_S,
    SECOND,
    UNIT,
    URL,
    epochs,
    has_address,
    history,
    traffic,
    unit_state,
    wait_client,
    wait_served_by,
    watch_the_return,
)


@pytest.mark.parametrize("name", ["backend", "frontend"])
@pytest.mark.parametrize("kind", ["kill", "stop", "poweroff", "cut", "freeze"])
def test_a_service_that_fails_is_served_by_the_next_vm_and_comes_home(
    fleet: Lab, tmp_path: Path, name: str, kind: str
) -> None:
    with traffic(fleet, URL[name], tmp_path) as client:
        fault = fleet.fault(kind, HOME[name], name if kind in ("kill", "stop") else None)
        wait_served_by(fleet, name, SECOND[name])
        moved_at = time.time()
        wait_client(client, moved_at)
        fleet.mend()
        watch_the_return(fleet, name)
        wait_served_by(fleet, name, HOME[name], within_s=HOME_WITHIN_S)
        settle(fleet)
        wait_client(client, time.time())
        samples = client.samples()
    told = history(fleet, fault.at)
    said = " ".join(entry["reason"] for entry in told)
    assert f"Moving {name} from {HOME[name]} to {SECOND[name]}" in said
    assert f"{name} has recovered on {HOME[name]}; the grace of" in said
    home_from = min(entry["at"] for entry in told if "failback triggered" in entry["reason"])
    # Answered before the way home began: what was only asked before it may be answered there.
    away = [sample for sample in samples if moved_at + 0.5 < sample.at and sample.end < home_from]
    meanwhile = {sample.by for sample in away if sample.ok}
    assert meanwhile == {SECOND[name]}, "a VM that returns is no second active"
    assert [sample for sample in samples if not sample.ok and sample.at >= home_from] == [], "coming home costs nothing"
    if name == "frontend":
        assert [vm for vm in (HOME[name], SECOND[name]) if has_address(fleet, vm)] == [HOME[name]]
    wait_until(
        "the former active is stopped",
        lambda: unit_state(fleet, SECOND[name], UNIT[name]) in ("inactive", "failed"),
        15,
    )


@pytest.mark.parametrize("name", ["backend", "frontend"])
def test_a_crash_is_mended_by_systemd_on_the_spot(fleet: Lab, tmp_path: Path, name: str) -> None:
    before = epochs(fleet)
    with traffic(fleet, URL[name], tmp_path) as client:
        fault = fleet.fault("crash", HOME[name], name)
        wait_client(client, fault.at + 1.0)
        outage = outage_from(client.samples(), fault.at)
    settle(fleet)
    assert epochs(fleet) == before
    assert outage.served_at is not None


@pytest.mark.parametrize("name", ["backend", "frontend"])
def test_a_slow_link_moves_nothing(fleet: Lab, tmp_path: Path, name: str) -> None:
    before = epochs(fleet)
    with traffic(fleet, URL[name], tmp_path) as client:
        fault = fleet.fault("slow", HOME[name], latency_ms=40, loss_percent=1)
        wait_client(client, fault.at + 5.0, within_s=40)
    assert epochs(fleet) == before
