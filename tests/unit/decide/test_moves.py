"""Planned moves, step by step: make before break."""

from __future__ import annotations

from orchestrator.domain import keys
from orchestrator.domain.records import CommandState, MoveKind, Play, RequestKind, RequestState
from tests.unit.decide.fleet import WEB, Fleet, policy_of

HOT = policy_of(standby="hot", order=("home", "second", "third"))
TO_SECOND = {"target": "second", "redesignate": True}


def _switchover() -> Fleet:
    """A switchover to second has been asked for and its first step was taken."""
    fleet = Fleet().serving().asks(RequestKind.FAILOVER, **TO_SECOND)
    assert fleet.codes() == ["switchover_prepare"]
    return fleet


def test_preparing_starts_the_target_and_moves_nothing() -> None:
    fleet = _switchover()
    assert (fleet.assignment.active, fleet.assignment.epoch) == ("home", 3)
    assert (fleet.assignment.standbys, fleet.assignment.designated) == (("second",), "home")
    (command,) = fleet.commands()
    assert (command.play, command.target, command.epoch, command.enable_at_boot) == (
        Play.ACTIVATE,
        "second",
        3,
        True,
    )
    assert fleet.request().state is RequestState.RUNNING


def test_a_switchover_goes_prepare_assign_endpoints_drain_break_done() -> None:
    fleet = _switchover()
    fleet.play(Play.ACTIVATE, CommandState.RUNNING)
    assert fleet.codes() == []
    fleet.runs("second")
    assert fleet.codes() == [], "the play is not done"
    fleet.play(Play.ACTIVATE)
    assert fleet.codes() == ["switchover"]
    assert (fleet.assignment.active, fleet.assignment.epoch) == ("second", 4)
    assert fleet.assignment.standbys == ("home",), "the previous active drains"
    assert fleet.assignment.designated == "second"
    fleet.unlocked()
    assert (fleet.codes(), fleet.traffic) == ([], ["home"])
    fleet.locked("second")
    assert (fleet.codes(), fleet.traffic) == (["endpoints"], ["second"])
    pointed = fleet.now
    outcome = fleet.step(0.1)
    assert (outcome.decisions, outcome.wake_at) == ((), pointed + 1.0)
    assert fleet.codes(1.0) == ["break"]
    assert fleet.assignment.standbys == ()
    assert [(c.play, c.target) for c in fleet.commands()] == [(Play.DEACTIVATE, "home")]
    assert fleet.codes() == []
    fleet.play(Play.DEACTIVATE).stops("home").locked("second")
    assert fleet.codes() == ["succeeded"]
    assert fleet.request().state is RequestState.SUCCEEDED
    assert fleet.codes() == []


def test_a_target_that_runs_already_needs_no_preparation() -> None:
    fleet = Fleet().serving().runs("second").asks(RequestKind.FAILOVER, **TO_SECOND)
    assert fleet.codes() == ["switchover"]
    fleet.locked("second")
    assert fleet.codes() == ["endpoints"]
    assert [c.play for c in fleet.commands()] == [Play.ACTIVATE], "the play follows, for what else it does"


def test_a_failed_preparation_ends_the_request_and_nothing_has_moved() -> None:
    fleet = _switchover()
    fleet.play(Play.ACTIVATE, CommandState.FAILED, reason="disk full")
    assert fleet.codes() == ["failed"]
    assert fleet.request().outcome == "the play activate_web.yml failed: disk full; it stays on home"
    assert fleet.codes() == ["standbys"], "second may not run it any more"
    assert fleet.assignment.standbys == ()
    assert fleet.assignment.epoch == 3


def test_a_target_that_does_not_become_healthy_ends_the_request() -> None:
    fleet = _switchover()
    fleet.play(Play.ACTIVATE)
    assert fleet.codes(29) == []
    assert fleet.codes(2) == ["failed"]
    assert fleet.request().outcome == "second was started but is not healthy; it stays on home"


def test_a_target_that_dies_while_it_is_prepared_ends_the_request() -> None:
    fleet = _switchover().dies("second")
    assert fleet.codes() == ["failed"]
    assert fleet.request().outcome == "second went down while it was being prepared; it stays on home"


def test_maintenance_while_preparing_ends_the_request() -> None:
    fleet = _switchover()
    fleet.in_maintenance.add("second")
    fleet.step()
    assert fleet.request().outcome == "second went into maintenance while it was being prepared; it stays on home"


def test_an_active_that_fails_while_the_target_is_prepared_is_failed_over_to_it() -> None:
    fleet = _switchover().fails("home")
    assert fleet.codes() == ["superseded"]
    assert fleet.codes() == ["supersede_command", "failover"]
    assert (fleet.assignment.active, fleet.assignment.kind) == ("second", MoveKind.FAILOVER)


def test_nobody_is_asked_to_hand_over_while_its_guard_does_not_run() -> None:
    fleet = _switchover()
    fleet.play(Play.ACTIVATE).runs("second").without_guard.add("home")
    assert fleet.codes() == []
    fleet.without_guard.clear()
    assert fleet.codes() == ["switchover"]


def test_the_previous_active_stays_as_a_hot_standby() -> None:
    fleet = Fleet(HOT).serving(standbys=("second", "third")).runs("second").asks(RequestKind.FAILOVER, **TO_SECOND)
    assert fleet.codes() == ["switchover"]
    assert fleet.assignment.standbys == ("home", "third")
    fleet.locked("second")
    assert (fleet.codes(), fleet.traffic) == (["endpoints"], ["second", "home"])
    fleet.play(Play.ACTIVATE)
    assert fleet.codes() == ["succeeded"]


def test_a_previous_active_that_died_while_it_drained_is_not_deactivated() -> None:
    fleet = _switchover()
    fleet.play(Play.ACTIVATE).runs("second")
    fleet.step()
    fleet.locked("second")
    fleet.step()
    fleet.dies("home")
    assert fleet.step(1.1).decisions[0].sentence == "home has drained web: it is down there."
    assert fleet.codes() == ["succeeded"]


def test_the_previous_active_is_never_stopped_before_the_target_has_the_traffic() -> None:
    fleet = _switchover()
    fleet.play(Play.ACTIVATE).runs("second")
    fleet.step()
    assert fleet.codes(31) == ["failed"]
    assert fleet.codes() == [], "home still has the traffic, so it may still run"
    assert fleet.assignment.standbys == ("home",)


def test_a_request_that_was_overtaken_is_superseded() -> None:
    fleet = _switchover()
    fleet.play(Play.ACTIVATE).runs("second")
    fleet.step()
    fleet.assign("home", epoch=9)
    assert fleet.codes()[-1] == "superseded"
    assert fleet.request().outcome == "overtaken by epoch 9"


def test_commands_of_a_past_epoch_are_superseded_where_nobody_runs_them() -> None:
    fleet = Fleet().serving().dies("home")
    fleet.step()
    fleet.assign("home", epoch=9)
    fleet.step()
    assert fleet.commands() == []


def test_a_running_command_of_a_past_epoch_is_left_to_its_worker() -> None:
    fleet = Fleet().serving().dies("home")
    fleet.step()
    fleet.play(Play.ACTIVATE, CommandState.RUNNING)
    fleet.assign("home", epoch=9)
    fleet.step()
    assert [c.state for c in fleet.commands()] == [CommandState.RUNNING]


def test_a_running_command_whose_request_ended_is_asked_to_stop_once() -> None:
    fleet = _switchover()
    fleet.play(Play.ACTIVATE, CommandState.RUNNING).dies("second")
    assert fleet.codes() == ["failed"]
    assert fleet.codes() == ["supersede_command", "standbys"]
    assert fleet.commands()[0].cancel_requested
    assert fleet.codes() == []


def test_commands_of_a_later_epoch_than_the_assignment_seen_are_left_alone() -> None:
    fleet = Fleet().serving().dies("home")
    before = fleet.records[keys.assignment(WEB)]
    fleet.step()
    fleet.records[keys.assignment(WEB)] = before
    fleet.step()
    assert [c.state for c in fleet.commands()] == [CommandState.PENDING]


def test_a_deactivation_that_nobody_runs_does_not_hide_that_the_service_is_served() -> None:
    fleet = _switchover()
    fleet.play(Play.ACTIVATE).runs("second")
    fleet.step()
    fleet.locked("second")
    fleet.step()
    fleet.step(1.1)
    assert fleet.codes(31) == ["failed"]
    assert fleet.request().outcome == ("no worker took its command within 30 s; web is served by second all the same")


def test_a_play_that_failed_after_the_move_is_told_in_the_outcome() -> None:
    fleet = _switchover()
    fleet.play(Play.ACTIVATE).runs("second")
    fleet.step()
    fleet.locked("second")
    fleet.step()
    fleet.step(1.1)
    fleet.play(Play.DEACTIVATE, CommandState.FAILED, reason="unreachable")
    fleet.step()
    assert fleet.request().outcome.endswith("; but deactivate_web.yml on home failed: unreachable")


def test_endpoints_that_cannot_be_read_are_written_anew() -> None:
    fleet = Fleet().serving().put(keys.endpoints(WEB), "garbage")
    assert (fleet.codes(), fleet.traffic) == (["endpoints"], ["home"])


def test_endpoints_are_left_as_they_are_while_the_active_does_not_serve() -> None:
    fleet = Fleet(HOT).serving(standbys=("second", "third")).runs("second").unlocked()
    assert (fleet.codes(), fleet.traffic) == ([], ["home"])


def test_healthy_hot_standbys_are_backups_and_those_in_maintenance_are_not() -> None:
    fleet = Fleet(HOT).serving(standbys=("second", "third")).runs("second").runs("third")
    fleet.in_maintenance.add("second")
    assert (fleet.codes(), fleet.traffic) == (["endpoints"], ["home", "third"])


def test_standbys_are_not_changed_while_paused() -> None:
    fleet = Fleet().serving(standbys=("third",)).pause()
    assert fleet.codes() == []
