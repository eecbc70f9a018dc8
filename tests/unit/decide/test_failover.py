"""What happens when the active instance is down."""

from __future__ import annotations

import pytest

from orchestrator.decide.gossip import RETURN_SETTLES_S, SECOND_MUST_LAST_S
from orchestrator.domain import keys
from orchestrator.domain.records import CommandState, MoveKind, Play, RequestKind, RequestState
from tests.unit.decide.fleet import START, WEB, Fleet, policy_of

HOT = policy_of(standby="hot")
THREE = policy_of(order=("home", "second", "third"))


def test_nothing_is_done_while_all_is_well() -> None:
    outcome = Fleet().serving().step()
    assert (outcome.decisions, outcome.sentence) == (
        (),
        "All services are served where they should be; nothing to do.",
    )


def test_a_cold_failover_assigns_and_starts_the_target_in_one_transaction() -> None:
    fleet = Fleet().serving().fails("home")
    (decision,) = fleet.step().decisions
    assert decision.sentence == ("Moving web from home to second (epoch 4): web fails its check on home (HTTP 500).")
    assert [c.play for c in decision.commands] == [Play.ACTIVATE]
    assert (fleet.assignment.active, fleet.assignment.epoch, fleet.assignment.kind) == (
        "second",
        4,
        MoveKind.FAILOVER,
    )
    assert fleet.traffic == ["home"], "no traffic is moved before the lock is held"


def test_a_cold_failover_points_the_traffic_once_the_lock_is_held_and_ends_with_its_plays() -> None:
    fleet = Fleet().serving().fails("home")
    assert fleet.codes() == ["failover"]
    assert fleet.codes() == []
    fleet.play(Play.ACTIVATE, CommandState.RUNNING).runs("second")
    assert fleet.codes() == [], "healthy without the lock gets no traffic"
    fleet.locked("second")
    assert fleet.codes() == ["endpoints"]
    assert fleet.traffic == ["second"]
    assert fleet.codes() == [], "the play still runs"
    fleet.play(Play.ACTIVATE)
    assert fleet.codes() == ["succeeded"]
    assert fleet.request().state is RequestState.SUCCEEDED
    assert fleet.request().outcome.startswith("web is served by second, ")


def test_a_hot_failover_moves_the_traffic_before_any_play() -> None:
    fleet = Fleet(HOT).serving(standbys=("second",)).runs("second").fails("home")
    (decision,) = fleet.step().decisions
    assert (decision.code, decision.commands) == ("failover", ())
    fleet.locked("second")
    (decision,) = fleet.step().decisions
    assert (decision.code, [c.play for c in decision.commands]) == ("endpoints", [Play.ACTIVATE])
    assert fleet.commands()[0].enable_at_boot, "a hot standby runs after a boot too"


def test_a_vm_that_gossip_does_not_reach_is_failed_over() -> None:
    fleet = Fleet().serving().dies("home")
    assert fleet.step().decisions[0].sentence == ("Moving web from home to second (epoch 4): home is not reachable.")


def test_gossip_is_not_believed_just_after_a_lost_quorum() -> None:
    fleet = Fleet().serving().dies("home")
    fleet.quorum_since = START - 1
    outcome = fleet.step()
    assert outcome.decisions == ()
    assert [found.code for found in outcome.diagnoses] == ["gossip_settles"]
    assert outcome.sentence == (
        "home is not reachable, but Consul has had a quorum again for only 1.0 s, "
        "so what it says of VMs may be from before."
    )
    fleet.now = outcome.wake_at or 0.0
    assert fleet.codes() == ["failover"]


def test_a_vm_that_another_ones_return_makes_look_unreachable_is_given_a_second() -> None:
    fleet = Fleet(THREE).serving().dies("third")
    assert fleet.codes() == []
    fleet.now += 30
    fleet.returns("third").dies("home")
    outcome = fleet.step()
    assert outcome.decisions == ()
    assert [found.code for found in outcome.diagnoses] == ["gossip_settles"]
    assert outcome.sentence == (
        "home is not reachable, but third is or was cut off and may be what says so, "
        "so home has 1 s to show that it is there."
    )
    fleet.now = outcome.wake_at or 0.0
    assert fleet.codes() == ["failover"]


def test_one_that_gossip_loses_before_the_other_is_seen_to_return_is_given_a_second_too() -> None:
    fleet = Fleet(THREE).serving().dies("third")
    fleet.codes()
    fleet.now += 30
    fleet.dies("home")
    assert fleet.codes() == []
    fleet.now += 0.1
    fleet.returns("third")
    assert fleet.codes() == []
    fleet.now += 0.1
    fleet.returns("home")
    assert fleet.codes() == []
    fleet.now += 0.1
    fleet.dies("home")
    assert fleet.codes() == [], "it is the first one's return still"
    fleet.now += SECOND_MUST_LAST_S
    assert fleet.codes() == ["failover"]


def test_some_seconds_after_a_return_gossip_is_believed_at_once() -> None:
    fleet = Fleet(THREE).serving().dies("third")
    fleet.codes()
    fleet.returns("third")
    fleet.codes()
    fleet.now += RETURN_SETTLES_S
    assert fleet.codes() == []
    fleet.dies("home")
    assert fleet.codes() == ["failover"]


def test_a_check_that_fails_is_believed_whatever_became_of_the_quorum() -> None:
    fleet = Fleet().serving().fails("home")
    fleet.quorum_since = START
    assert fleet.codes() == ["failover"]


def test_a_stopped_active_without_the_lock_is_failed_over() -> None:
    assert Fleet().serving().stops("home").codes() == ["failover"]


def test_an_active_that_holds_the_lock_is_not_down_while_its_registration_is_not_seen() -> None:
    fleet = Fleet().serving()
    fleet.instances.clear()
    assert fleet.codes() == []


def test_a_healthy_candidate_comes_before_one_that_must_be_started() -> None:
    fleet = Fleet(THREE).serving().runs("third").fails("home")
    fleet.step()
    assert fleet.assignment.active == "third"


def test_the_designated_vm_comes_before_the_others_and_then_the_order_counts() -> None:
    fleet = Fleet(THREE).serving("second", designated="third").fails("second")
    fleet.step()
    assert fleet.assignment.active == "third"
    fleet = Fleet(THREE).serving("home").fails("home")
    fleet.step()
    assert fleet.assignment.active == "second"


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda fleet: fleet.dies("second"), "second is down"),
        (lambda fleet: fleet.in_maintenance.add("second"), "second is in maintenance"),
        (lambda fleet: fleet.without_guard.add("second"), "the guard on second does not run"),
        (lambda fleet: fleet.fails("second"), "web is failing its check on second"),
    ],
)
def test_a_vm_that_cannot_take_the_service_is_no_candidate_and_the_reason_is_said(spoil, why) -> None:
    fleet = Fleet().serving().dies("home")
    spoil(fleet)
    fleet.step()
    fleet.now += SECOND_MUST_LAST_S
    outcome = fleet.step()
    assert outcome.decisions == ()
    assert outcome.sentence == f"home is not reachable, and no other VM can take web: {why}."


def test_without_a_candidate_the_service_is_started_again_in_place() -> None:
    fleet = Fleet().serving().fails("home").dies("second")
    (decision,) = fleet.step().decisions
    assert decision.sentence == (
        "Moving web from home to home (epoch 4): web fails its check on home (HTTP 500), and no other VM can take it "
        "(second is down), so it is started again in place."
    )
    assert fleet.commands()[0].target == "home"


def test_a_check_that_has_not_turned_yet_does_not_fail_a_restart_in_place() -> None:
    fleet = Fleet().serving().fails("home").dies("second")
    fleet.step()
    fleet.play(Play.ACTIVATE)
    assert fleet.codes(0.5) == []
    fleet.runs("home").locked("home")
    assert fleet.codes() == ["endpoints"]


def test_a_check_that_stays_red_after_the_play_fails_the_move() -> None:
    fleet = Fleet().serving().fails("home").dies("second")
    fleet.step()
    fleet.play(Play.ACTIVATE)
    assert fleet.codes(3.1) == ["failed"]
    assert fleet.request().outcome == "web is failing its check on home"


def test_a_hot_target_that_fails_at_once_is_given_up_at_once() -> None:
    fleet = Fleet(HOT).serving(standbys=("second",)).runs("second").fails("home")
    fleet.step()
    fleet.fails("second")
    assert fleet.codes() == ["failed"]


def test_a_target_that_dies_too_ends_the_move_and_the_next_candidate_is_taken() -> None:
    fleet = Fleet(THREE).serving().dies("home")
    fleet.step()
    fleet.dies("second")
    assert fleet.codes() == [], "it may be the first one's return that makes it look so"
    fleet.now += SECOND_MUST_LAST_S
    assert fleet.codes() == ["failed"]
    assert fleet.codes() == ["supersede_command", "failover"]
    assert (fleet.assignment.active, fleet.assignment.epoch) == ("third", 5)


def test_a_failed_play_ends_the_move_with_its_reason() -> None:
    fleet = Fleet().serving().dies("home")
    fleet.step()
    fleet.play(Play.ACTIVATE, CommandState.FAILED, reason="unit web not found")
    assert fleet.codes() == ["failed"]
    assert fleet.request().outcome == "the play activate_web.yml failed: unit web not found"


def test_a_command_that_no_worker_takes_fails_the_move_in_time() -> None:
    fleet = Fleet().serving().dies("home")
    fleet.step()
    outcome = fleet.step(10)
    assert (outcome.decisions, outcome.wake_at) == ((), START + 0.001 + 30)
    assert fleet.codes(20) == ["failed"]
    assert fleet.request().outcome == "no worker took its command within 30 s"


@pytest.mark.parametrize("off_s", [-3600.0, 3600.0])
def test_a_play_is_waited_for_as_long_as_ever_where_the_workers_clock_is_an_hour_off(off_s: float) -> None:
    fleet = Fleet().serving().dies("home")
    fleet.step()
    limits = fleet.policy.dispatch
    fleet.play(Play.ACTIVATE, CommandState.RUNNING, claimed=fleet.now + off_s)
    outcome = fleet.step(1)
    assert outcome.decisions == ()
    assert outcome.wake_at == pytest.approx(START + limits.play_timeout_s + limits.activation_timeout_s, abs=1.0)
    fleet.play(Play.ACTIVATE, CommandState.SUCCEEDED, finished=fleet.now + off_s)
    outcome = fleet.step(1)
    assert outcome.decisions == ()
    assert outcome.wake_at == pytest.approx(START + limits.activation_timeout_s, abs=3.0)


def test_a_play_whose_worker_never_says_anything_again_does_not_hold_the_request_for_ever() -> None:
    fleet = Fleet().serving().dies("home")
    fleet.step()
    fleet.play(Play.ACTIVATE, CommandState.RUNNING)
    outcome = fleet.step(10)
    assert outcome.wake_at is not None
    fleet.now = outcome.wake_at
    assert fleet.codes() == ["failed"]
    assert fleet.request().outcome == "activate_web.yml on second has not ended in time, and no worker says why"


def test_a_target_that_never_takes_the_lock_fails_the_move_in_time() -> None:
    fleet = Fleet().serving().dies("home")
    fleet.step()
    fleet.play(Play.ACTIVATE)
    assert fleet.codes(29) == []
    assert fleet.codes(2) == ["failed"]
    assert fleet.request().outcome == "it did not become healthy with the role lock on second"


def test_a_cancelled_play_ends_the_request_cancelled() -> None:
    fleet = Fleet().serving().dies("home")
    fleet.step()
    fleet.play(Play.ACTIVATE, CommandState.CANCELLED, reason="op said so")
    assert fleet.codes() == ["cancelled"]
    assert fleet.request().state is RequestState.CANCELLED


def test_no_automatic_failover_while_paused() -> None:
    outcome = Fleet().serving().dies("home").pause().step()
    assert (outcome.decisions, outcome.sentence) == (
        (),
        "home is not reachable, but automation is paused by op.",
    )


def test_after_too_many_failovers_the_service_is_held_until_the_hold_is_over() -> None:
    fleet = Fleet().serving(failovers=(START - 30, START - 20, START - 10)).fails("home")
    outcome = fleet.step()
    assert [d.code for d in outcome.decisions] == ["hold"]
    assert outcome.wake_at == fleet.now + 1800
    assert fleet.codes(10) == []
    assert fleet.codes(1790) == ["failover"]
    assert fleet.assignment.hold_until is None


def test_failovers_longer_ago_than_the_window_do_not_count() -> None:
    fleet = Fleet().serving(failovers=(START - 700, START - 20, START - 10)).fails("home")
    assert fleet.codes() == ["failover"]
    assert fleet.assignment.failovers == (START - 20, START - 10, fleet.now)


def test_an_acknowledgement_ends_the_hold_at_once() -> None:
    fleet = Fleet().serving(failovers=(START,) * 3, hold_until=START + 900).fails("home")
    assert fleet.codes() == []
    fleet.asks(RequestKind.ACKNOWLEDGE)
    assert fleet.codes() == ["acknowledged"]
    assert fleet.request().state is RequestState.SUCCEEDED
    assert fleet.codes() == ["failover"]


def test_a_failover_that_an_operator_asked_for_is_not_counted_as_flapping() -> None:
    fleet = Fleet().serving().fails("home").asks(RequestKind.FAILOVER)
    fleet.step()
    assert fleet.assignment.failovers == ()


def test_a_vm_on_which_the_service_failed_is_cleaned_up_where_it_is_not_designated() -> None:
    fleet = Fleet().serving("second", designated="second").fails("second")
    fleet.step()
    fleet.play(Play.ACTIVATE).runs("home").locked("home")
    assert fleet.codes() == ["endpoints"]
    assert fleet.codes() == ["succeeded"], "second is designated, so its unit may go on there"
    fleet = Fleet(THREE).serving("second").fails("second").runs("home")
    fleet.step()
    fleet.locked("home")
    assert [fleet.codes(), fleet.codes()] == [["endpoints"], ["break"]]
    assert [(c.play, c.target) for c in fleet.commands()] == [(Play.ACTIVATE, "home"), (Play.DEACTIVATE, "second")]


def test_an_active_without_lock_traffic_and_guard_is_failed_over() -> None:
    fleet = Fleet().serving().assign("home", epoch=4)
    assert fleet.codes() == [], "its guard will take the lock"
    fleet.without_guard.add("home")
    assert fleet.step().decisions[0].sentence == (
        "Moving web from home to second (epoch 5): the guard on home does not run and cannot take the role lock of web."
    )


def test_an_active_that_lost_its_lock_and_its_guard_keeps_the_traffic_that_it_has() -> None:
    fleet = Fleet().serving().unlocked()
    fleet.without_guard.add("home")
    outcome = fleet.step()
    assert (outcome.decisions, outcome.diagnoses[0].code) == ((), "unlocked")


def test_an_agent_that_restarts_moves_nothing_and_takes_no_traffic_away() -> None:
    fleet = Fleet(HOT).serving(standbys=("second",)).runs("second")
    while fleet.codes():
        pass
    traffic = fleet.traffic
    fleet.has_its_agent_restarted("home")
    outcome = fleet.step()
    assert (outcome.decisions, [found.code for found in outcome.diagnoses]) == ((), ["unlocked"])
    assert fleet.traffic == traffic
    assert fleet.runs("home").locked("home").codes() == []


def test_an_agent_that_restarts_where_the_service_fails_holds_no_failover_up() -> None:
    fleet = Fleet().serving().has_its_agent_restarted("home")
    assert fleet.codes() == []
    assert fleet.fails("home").codes() == ["failover"]


def test_a_failover_is_counted_from_its_detection_to_its_end() -> None:
    fleet = Fleet().serving().dies("home")
    fleet.step()
    fleet.play(Play.ACTIVATE).runs("second").locked("second")
    fleet.step(2)
    fleet.step()
    assert sorted(fleet.request().times) == ["assigned", "decided", "detected", "endpoints", "finished", "locked"]


def test_a_move_whose_assignment_is_not_seen_yet_waits_for_it() -> None:
    fleet = Fleet().serving().dies("home")
    before = fleet.records[keys.assignment(WEB)]
    fleet.step()
    fleet.records[keys.assignment(WEB)] = before
    outcome = fleet.step()
    assert (outcome.decisions, outcome.diagnoses[0].not_actionable_because) == (
        (),
        "its assignment of epoch 4 has not been seen yet",
    )
