"""The clock of a VM is set by an hour, either way: nothing moves for it, and what fails meanwhile moves as ever."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from deploy.machines.lab import Lab
from deploy.trials.accidents import leader_of
from deploy.trials.books import LocalWriter
from deploy.trials.outage import outage_from
from deploy.trials.status import settle
from tests.lab.clocks import DAEMONS, HOUR_S, MARIADB, OwnClock, own_clock
from tests.lab.fleet import (
    HOME,
    HOME_WITHIN_S,
    SECOND,
    URL,
    answer,
    epochs,
    have_lead,
    ledger,
    orch,
    reasons,
    traffic,
    wait_client,
    wait_served_by,
    wait_whole,
    wait_written,
)
from tests.lab.test_daemons import main_pid
from tests.lab.test_database import BOTH, assert_nothing_lost

PRIMARY, STANDBY = HOME["database"], SECOND["database"]
THERE_AND_BACK = (HOUR_S, 0.0, -HOUR_S, 0.0)
# Longer than any check needs to turn critical, and than what a database waits for its lock's confirmation.
STAYS_S = 3.0


def main_pids(lab: Lab, clock: OwnClock) -> dict[str, str]:
    """Return the main process of each unit that has the clock."""
    return {unit: main_pid(lab, clock.vm, unit) for unit in clock.units}


def told_of_the_backend(lab: Lab) -> list[dict[str, Any]]:
    """Return what the journal says of it, in the order in which `orch history` tells it."""
    return [dict(entry) for entry in answer(lab, "history", "backend", "--limit", "100")]


def test_a_leader_whose_clock_is_set_by_an_hour_moves_nothing_and_moves_what_fails(fleet: Lab, tmp_path: Path) -> None:
    with own_clock(fleet, leader_of(fleet), tuple(DAEMONS), tmp_path) as clock:
        # Its restart had the other one lead.
        have_lead(fleet, clock.vm)
        settle(fleet)
        before, running, known = epochs(fleet), main_pids(fleet, clock), told_of_the_backend(fleet)
        with traffic(fleet, URL["backend"], tmp_path) as client:
            at = time.time()
            for ahead_s in THERE_AND_BACK:
                clock.set(ahead_s)
                wait_client(client, time.time() + STAYS_S)
            assert outage_from(client.samples(), at).failed == 0
        assert epochs(fleet) == before, reasons(fleet, at)

        clock.set(HOUR_S)
        fleet.fault("kill", HOME["backend"], "backend")
        wait_served_by(fleet, "backend", SECOND["backend"])
        # What was noted of the move is two hours in the future of its own clock now.
        clock.set(-HOUR_S)
        fleet.mend()
        wait_served_by(fleet, "backend", HOME["backend"], within_s=HOME_WITHIN_S)
        settle(fleet)
        told = [entry for entry in told_of_the_backend(fleet) if entry not in known]
        assert [entry["kind"] for entry in told if entry["kind"] in ("failover", "grace", "failback")] == [
            "failover",
            "grace",
            "failback",
        ]
        assert [entry["at"] for entry in told] == sorted(entry["at"] for entry in told)
        assert (leader_of(fleet), main_pids(fleet, clock)) == (clock.vm, running)
        clock.wait_until_even()


def test_a_primary_whose_clock_is_set_by_an_hour_is_not_moved_and_one_that_fails_loses_nothing(
    fleet: Lab, tmp_path: Path
) -> None:
    with own_clock(fleet, STANDBY, ("orch-guard", MARIADB), tmp_path) as clock, ledger(fleet, tmp_path) as writers:
        settle(fleet)
        orch(fleet, "failover", "database", "--wait")
        wait_served_by(fleet, "database", STANDBY)
        wait_whole(fleet, *BOTH)
        wait_written(writers, time.time())
        before, running = epochs(fleet), main_pids(fleet, clock)
        # On the VM itself: what waits in the application for the database to take writes again fails there.
        with LocalWriter(fleet, STANDBY, tmp_path / "local.jsonl") as local:
            wait_written(local, time.time())
            at = time.time()
            for ahead_s in THERE_AND_BACK:
                clock.set(ahead_s)
                wait_written(local, time.time() + STAYS_S)
            assert [outage_from(each.samples(), at).failed for each in (writers, local)] == [0, 0]
        assert epochs(fleet) == before, reasons(fleet, at)
        assert main_pids(fleet, clock) == running

        clock.set(HOUR_S)
        fleet.fault("kill", STANDBY, "database")
        wait_served_by(fleet, "database", PRIMARY)
        wait_written(writers, time.time())
        fleet.mend()
        wait_served_by(fleet, "database", STANDBY, within_s=HOME_WITHIN_S)
        # The copy has changes that were made two hours later by its own clock.
        clock.set(-HOUR_S)
        wait_whole(fleet, *BOTH)
        wait_written(writers, time.time())
        settle(fleet)
        orch(fleet, "failback", "database", "--wait")
        wait_written(writers, time.time())
    settle(fleet)
    assert_nothing_lost(fleet, writers, local)
