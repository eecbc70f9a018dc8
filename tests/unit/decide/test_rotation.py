"""Rotation, on schedule and when asked."""

from __future__ import annotations

import pytest

from orchestrator.domain import keys
from orchestrator.domain.records import MoveKind, Play, RequestKind, RequestState, Rotation
from tests.unit.decide.fleet import DAY_S, START, WEB, Fleet, policy_of

THREE = policy_of(order=("home", "second", "third"))
ASKED = keys.rotate(WEB)


def _due(policy=None, **fields) -> Fleet:
    fleet = Fleet(policy).serving(**fields)
    fleet.now = START + DAY_S
    return fleet


def _state(fleet: Fleet) -> Rotation:
    return fleet.get(keys.rotation(WEB), Rotation)


def test_a_rotation_is_due_after_the_interval_and_moves_the_designation() -> None:
    fleet = Fleet().serving()
    assert fleet.step().wake_at == START + DAY_S
    fleet.now = START + DAY_S
    assert fleet.codes() == ["rotation_prepare"]
    assert (_state(fleet).index, _state(fleet).last) == (1, fleet.now)
    fleet.play(Play.ACTIVATE).runs("second")
    assert fleet.codes() == ["rotation"]
    assert (fleet.assignment.active, fleet.assignment.designated) == ("second", "second")


def test_a_rotated_service_stays_where_it_is() -> None:
    fleet = Fleet().serving("second", designated="second").runs("home")
    assert (fleet.codes(), fleet.codes(3600)) == ([], [])


def test_the_first_cycle_schedules_the_rotation() -> None:
    fleet = Fleet().assign("home").runs("home").locked("home").pointed_at("home")
    assert fleet.codes() == ["schedule"]
    assert _state(fleet).next_due == fleet.now + DAY_S


def test_a_shorter_interval_or_another_order_schedules_anew() -> None:
    for policy in (policy_of(rotation={"interval_hours": 1.0}), THREE):
        fleet = Fleet(policy).serving()
        fleet.put(keys.rotation(WEB), Rotation(service=WEB, order=("home", "second"), next_due=START + DAY_S))
        assert fleet.codes() == ["schedule"]
        assert fleet.codes() == []


def test_rotation_state_that_cannot_be_read_is_written_anew() -> None:
    fleet = Fleet().serving().put(keys.rotation(WEB), "garbage")
    assert fleet.codes() == ["schedule"]


def test_rotation_goes_round_the_order() -> None:
    fleet = _due(THREE).runs("second")
    fleet.step()
    assert fleet.assignment.active == "second"
    fleet = _due(THREE, vm="third", designated="third").runs("home")
    fleet.step()
    assert fleet.assignment.active == "home"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda fleet: fleet.dies("second"),
        lambda fleet: fleet.in_maintenance.add("second"),
        lambda fleet: fleet.overloaded.add("second"),
        lambda fleet: fleet.fails("second"),
    ],
)
def test_rotation_passes_over_a_vm_that_is_down_in_maintenance_overloaded_or_failing(spoil) -> None:
    fleet = _due(THREE).runs("third")
    spoil(fleet)
    fleet.step()
    assert fleet.assignment.active == "third"


def test_a_due_rotation_without_a_target_is_put_off_by_one_interval_and_says_why() -> None:
    fleet = _due()
    fleet.overloaded.add("second")
    (decision,) = fleet.step().decisions
    assert (decision.code, decision.sentence) == (
        "rotation_skipped",
        "The rotation of web is due, but second is overloaded; it is put off by one interval.",
    )
    assert _state(fleet).next_due == fleet.now + DAY_S


def test_no_scheduled_rotation_while_paused_or_held_or_excluded_or_switched_off() -> None:
    for fleet in (
        _due().pause(),
        _due(hold_until=START + 2 * DAY_S),
        _due(policy_of(rotation={"exclude_services": [WEB]})),
        _due(policy_of(rotation={"enabled": False})),
        _due(policy_of(order=("home",))),
    ):
        outcome = fleet.step()
        assert (outcome.decisions, outcome.wake_at) == ((), None)


def test_a_key_under_rotate_forces_a_rotation_and_is_consumed_even_while_paused_or_excluded() -> None:
    for fleet in (
        Fleet().serving(),
        Fleet().serving().pause(),
        Fleet(policy_of(rotation={"exclude_services": [WEB]})).serving(),
    ):
        fleet.put(ASKED, "anything")
        assert fleet.codes() == ["rotation_prepare"]
        assert ASKED not in fleet.records
        assert (fleet.request().origin, fleet.request().kind) == ("key", RequestKind.ROTATION)


def test_a_forced_rotation_without_a_target_is_refused_with_the_reason_and_consumed() -> None:
    fleet = Fleet().serving().put(ASKED, "now").dies("second")
    (decision,) = fleet.step().decisions
    assert decision.sentence == (
        "The rotation of web that was asked for by orch/rotate/web is refused: second is down."
    )
    assert ASKED not in fleet.records


def test_a_forced_rotation_waits_for_a_running_move_and_for_a_failover() -> None:
    fleet = Fleet().serving().put(ASKED, "now").fails("home")
    assert fleet.codes() == ["failover"]
    fleet.play(Play.ACTIVATE).runs("second").locked("second").runs("home")
    assert [fleet.codes(), fleet.codes()] == [["endpoints"], ["succeeded"]]
    fleet.unlocked().locked("second")
    assert fleet.codes() == ["rotation"]
    assert (fleet.assignment.active, fleet.assignment.kind) == ("home", MoveKind.ROTATION)


def test_a_rotation_that_an_operator_asks_for_moves_the_designation() -> None:
    fleet = Fleet().serving().runs("second").asks(RequestKind.ROTATION)
    assert fleet.codes() == ["rotation"]
    assert (fleet.assignment.designated, _state(fleet).index) == ("second", 1)


def test_a_rotation_without_a_guard_that_hands_over_is_refused() -> None:
    fleet = Fleet().serving().asks(RequestKind.ROTATION)
    fleet.without_guard.add("home")
    fleet.step()
    assert fleet.request().state is RequestState.REFUSED


def test_every_strange_rotate_key_is_removed_with_its_own_entry() -> None:
    fleet = Fleet().serving()
    view = fleet.view()
    for name in ("nonsense", "more/nonsense"):
        fleet.put(keys.rotate(name), "x")
    triggers = tuple((name, fleet.records[keys.rotate(name)][1]) for name in ("nonsense", "more/nonsense"))
    object.__setattr__(view, "strange_triggers", triggers)
    fleet.view = lambda: view  # type: ignore[method-assign]
    assert fleet.codes() == ["refused", "refused"]
    assert not [key for key in fleet.records if key.startswith(keys.ROTATE)]
