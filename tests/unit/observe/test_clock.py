"""The time that a leader decides by, while somebody sets the VM's clock."""

from __future__ import annotations

import pytest

from orchestrator.domain import keys
from orchestrator.observe.clock import LONGEST_LEAD_S, SLEW, LeaderClock, newest_moment
from orchestrator.store.port import KvPair
from tests.unit.node.build import assignment

NOON, HOUR_S = 1_700_000_000.0, 3600.0


class Vm:
    """A VM's two clocks, and a leader's on it."""

    def __init__(self) -> None:
        self.wall, self.monotonic = NOON, 50.0
        self.clock = LeaderClock(lambda: self.wall, lambda: self.monotonic)

    def after(self, seconds: float) -> float:
        """Let time pass, a second at a time, as the loop looks; return what the leader's clock shows."""
        for _ in range(int(seconds)):
            self.wall += 1.0
            self.monotonic += 1.0
            shown = self.clock.now()
        return shown


def test_it_is_the_vms_clock_as_long_as_nobody_sets_that() -> None:
    assert Vm().after(100) == pytest.approx(NOON + 100)


@pytest.mark.parametrize("jump", [HOUR_S, -HOUR_S])
def test_a_clock_that_jumps_makes_no_minute_longer_or_shorter_than_it_says(jump: float) -> None:
    vm = Vm()
    before = vm.after(10)
    vm.wall += jump
    passed = vm.after(60) - before
    assert passed == pytest.approx(60 + 60 * SLEW * (1 if jump > 0 else -1))
    # In the end it is what the VM's clock shows.
    assert vm.after(HOUR_S / SLEW) == pytest.approx(vm.wall)


def test_who_begins_to_lead_goes_on_where_the_former_leader_was_ahead() -> None:
    vm = Vm()
    vm.clock.begin(NOON + HOUR_S)
    assert vm.clock.now() == NOON + HOUR_S
    assert vm.after(10) == pytest.approx(NOON + HOUR_S + 10 * (1 - SLEW))


@pytest.mark.parametrize("newest", [0.0, NOON - 5, NOON + LONGEST_LEAD_S + 1, 1e300])
def test_records_that_are_old_or_of_no_believable_time_change_nothing(newest: float) -> None:
    vm = Vm()
    vm.clock.begin(newest)
    assert vm.clock.now() == NOON


def test_who_begins_to_lead_after_its_clock_was_set_begins_by_that() -> None:
    vm = Vm()
    vm.wall += HOUR_S
    vm.clock.begin(0.0)
    assert vm.clock.now() == NOON + HOUR_S


def test_the_newest_moment_is_that_of_an_assignment_or_a_command_that_can_be_read() -> None:
    def pair(key: str, text: str) -> KvPair:
        return KvPair(key, text.encode(), 1, None)

    given = assignment().with_(since=NOON)
    pairs = [pair(keys.assignment("backend"), given.to_json()), pair(keys.assignment("frontend"), "{")]
    assert newest_moment(pairs) == NOON
    assert newest_moment([pair(keys.request("1-x"), given.to_json()), pair(keys.command("1-x"), "[]")]) == 0.0
