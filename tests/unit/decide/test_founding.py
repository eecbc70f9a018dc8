"""A service without a readable assignment."""

from __future__ import annotations

from orchestrator.domain import keys
from orchestrator.domain.records import MoveKind, Play, RequestKind, RequestState
from tests.unit.decide.fleet import WEB, Fleet, policy_of

KEY = keys.assignment(WEB)


def _garbled(fleet: Fleet) -> Fleet:
    return fleet.put(KEY, "{not json")


def test_a_new_service_is_assigned_to_its_home_and_started_there() -> None:
    fleet = Fleet()
    assert fleet.codes() == ["initial"]
    assert (fleet.assignment.active, fleet.assignment.designated, fleet.assignment.epoch) == ("home", "home", 1)
    assert [(c.play, c.target, c.enable_at_boot) for c in fleet.commands()] == [(Play.ACTIVATE, "home", True)]
    fleet.runs("home").locked("home").play(Play.ACTIVATE)
    assert [fleet.codes(), fleet.codes()] == [["endpoints"], ["succeeded"]]
    assert fleet.request().state is RequestState.SUCCEEDED


def test_where_home_is_down_the_next_vm_is_taken_and_home_stays_designated() -> None:
    fleet = Fleet().dies("home")
    fleet.step()
    assert (fleet.assignment.active, fleet.assignment.designated) == ("second", "home")


def test_a_new_hot_service_is_started_on_all_its_vms() -> None:
    fleet = Fleet(policy_of(standby="hot", order=("home", "second", "third"))).dies("third")
    fleet.step()
    assert [(c.target, c.kind, c.enable_at_boot) for c in fleet.commands()] == [
        ("home", MoveKind.INITIAL, True),
        ("second", MoveKind.STANDBY, True),
    ]
    assert fleet.assignment.standbys == ("second", "third")


def test_a_new_service_waits_while_paused_or_while_no_vm_is_up() -> None:
    assert Fleet().pause().step().sentence == "web has no assignment yet, and automation is paused by op."
    fleet = Fleet().dies("home").dies("second").dies("third")
    assert fleet.step().sentence == "web has no assignment yet, and no VM of its order is up."


def test_an_overwritten_assignment_is_written_back_as_it_was() -> None:
    fleet = Fleet().serving("second", designated="second")
    fleet.step()
    good = fleet.assignment
    (decision,) = _garbled(fleet).step().decisions
    assert decision.sentence == (
        "The assignment of web in KV cannot be read (it is no JSON); it is restored from the holder of its role lock: "
        "active second, epoch 3."
    )
    assert fleet.assignment == good
    assert fleet.codes() == []


def test_it_stays_known_for_as_long_as_it_takes() -> None:
    fleet = Fleet().serving().unlocked()
    fleet.step()
    _garbled(fleet)
    for _ in range(3):
        fleet.records[KEY] = ("{}", fleet.records[KEY][1])
        assert fleet.codes() == ["repaired"]


def test_a_new_leader_restores_an_overwritten_assignment_from_the_role_lock() -> None:
    fleet = _garbled(Fleet().serving("second"))
    assert fleet.codes() == ["repaired"]
    assert (fleet.assignment.active, fleet.assignment.epoch) == ("second", 3)


def test_a_new_leader_restores_it_from_the_running_move() -> None:
    fleet = Fleet().serving().dies("home")
    fleet.step()
    fleet.memory = type(fleet.memory)()
    assert _garbled(fleet).codes() == ["repaired"]
    assert (fleet.assignment.active, fleet.assignment.epoch) == ("second", 4)
    fleet.play(Play.ACTIVATE).runs("second").locked("second")
    assert [fleet.codes(), fleet.codes()] == [["endpoints"], ["succeeded"]]


def test_a_new_leader_restores_it_from_the_endpoints_under_a_later_epoch() -> None:
    fleet = _garbled(Fleet().serving("second").unlocked())
    assert fleet.codes() == ["repaired"]
    assert (fleet.assignment.active, fleet.assignment.epoch) == ("second", 4)


def test_the_epoch_never_goes_back_when_what_the_leader_remembers_is_old() -> None:
    fleet = Fleet().serving()
    fleet.step()
    fleet.assign("second", epoch=7).runs("second").locked("second")
    _garbled(fleet)
    assert fleet.codes() == ["repaired"]
    assert (fleet.assignment.active, fleet.assignment.epoch) == ("second", 7)


def test_where_nothing_is_known_an_unreadable_assignment_stays_and_requests_are_refused() -> None:
    fleet = _garbled(Fleet()).asks(RequestKind.FAILOVER)
    outcome = fleet.step()
    assert [d.code for d in outcome.decisions] == ["refused"]
    assert fleet.request().outcome == (
        "The assignment of web in KV cannot be read (it is no JSON), and no good one is known: nothing moves until an "
        "operator writes it back."
    )


def test_a_deleted_assignment_is_restored_and_not_founded_anew() -> None:
    fleet = Fleet().serving("second")
    fleet.step()
    del fleet.records[KEY]
    assert fleet.codes() == ["repaired"]
    assert (fleet.assignment.active, fleet.assignment.epoch) == ("second", 3)


def test_an_overwritten_assignment_is_restored_while_paused_too() -> None:
    assert _garbled(Fleet().serving().pause()).codes() == ["repaired"]
