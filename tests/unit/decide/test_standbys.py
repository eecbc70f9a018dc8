"""How hot standbys are started where they should run and do not."""

from __future__ import annotations

from orchestrator.decide.beside import FIRST_PAUSE_S, LONGEST_PAUSE_S, RECENT_S
from orchestrator.decide.standbys import ABSENT_GRACE_S, FAILED_GRACE_S, STABLE_S
from orchestrator.domain import keys
from orchestrator.domain.decision import Memory
from orchestrator.domain.records import CommandState, Endpoints, MoveKind, Play, RequestKind, RequestState
from tests.unit.decide.fleet import WEB, Fleet, policy_of

HOT = policy_of(standby="hot")
ALL_HOT = policy_of(standby="hot", order=("home", "second", "third"))


def _lacking(policy=HOT) -> Fleet:
    """web is hot and served by home; nobody has started it on second."""
    return Fleet(policy).serving(standbys=policy.services[WEB].order[1:])


def _started(fleet: Fleet | None = None) -> Fleet:
    """The standby on second is being started."""
    fleet = fleet or _lacking()
    fleet.step()
    assert fleet.codes(ABSENT_GRACE_S) == ["standby"]
    return fleet


def _failed_start(fleet: Fleet) -> Fleet:
    fleet.play(Play.ACTIVATE, CommandState.FAILED, reason="rc 2")
    assert fleet.codes() == ["standby_failed"]
    return fleet


def test_a_hot_standby_that_is_absent_is_started_after_a_short_grace() -> None:
    fleet = _lacking()
    outcome = fleet.step()
    assert outcome.decisions == ()
    assert outcome.wake_at == fleet.now + ABSENT_GRACE_S
    assert outcome.sentence == "web has no hot standby on second; it is started in 3 s."
    (decision,) = fleet.step(ABSENT_GRACE_S).decisions
    assert decision.sentence == "web does not run on second, where it stands by hot: it is started there."
    (command,) = fleet.commands()
    assert (command.play, command.target, command.kind, command.epoch) == (
        Play.ACTIVATE,
        "second",
        MoveKind.STANDBY,
        3,
    )
    assert command.enable_at_boot
    assert fleet.request().kind is RequestKind.STANDBY


def test_the_active_goes_on_serving_and_the_standby_becomes_its_backup() -> None:
    fleet = _started()
    fleet.play(Play.ACTIVATE).runs("second")
    assert fleet.codes() == ["endpoints", "standby_succeeded"]
    assert (fleet.assignment.active, fleet.assignment.epoch) == ("home", 3)
    rows = fleet.get(keys.endpoints(WEB), Endpoints).endpoints
    assert [(row.vm, row.backup) for row in rows] == [("home", False), ("second", True)]
    assert fleet.request().outcome == "web is healthy there, 0.0 s after"
    assert [found.code for found in fleet.step().diagnoses] == ["fine"]


def test_only_one_start_at_a_time_for_a_vm() -> None:
    fleet = _started()
    assert fleet.codes(20) == []
    assert len(fleet.commands()) == 1


def test_each_vm_of_the_order_has_its_own_start() -> None:
    fleet = _lacking(ALL_HOT)
    fleet.step()
    assert fleet.codes(ABSENT_GRACE_S) == ["standby", "standby"]
    assert [command.target for command in fleet.commands()] == ["second", "third"]


def test_one_that_fails_its_check_is_started_again_after_systemd_had_its_time() -> None:
    fleet = _lacking().fails("second")
    fleet.step()
    assert fleet.codes(FAILED_GRACE_S - 1) == []
    assert fleet.codes(1) == ["standby"]
    assert fleet.request().reason == "web fails its check on second, where it stands by hot"


def test_one_that_comes_back_by_itself_starts_the_grace_anew() -> None:
    fleet = _lacking().fails("second")
    fleet.step()
    fleet.runs("second")
    assert fleet.codes(FAILED_GRACE_S) == ["endpoints"]
    fleet.fails("second")
    assert fleet.codes() == ["endpoints"]
    assert fleet.codes(FAILED_GRACE_S - 1) == []
    assert fleet.codes(1) == ["standby"]


def test_a_start_that_fails_is_repeated_after_pauses_that_grow() -> None:
    fleet = _failed_start(_started())
    pause_s = FIRST_PAUSE_S
    for number in range(1, 8):
        found = fleet.step(pause_s - 0.5).diagnoses[0]
        assert found.code == "standby_missing"
        assert f"; start {number} failed (the play activate_web.yml failed: rc 2)" in found.sentence
        assert fleet.codes(0.5) == ["standby"], f"pause {number}"
        _failed_start(fleet)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def test_a_new_leader_waits_as_long_as_the_one_before() -> None:
    fleet = _failed_start(_started())
    fleet.memory = Memory()
    assert fleet.codes(FIRST_PAUSE_S - 1) == []
    assert fleet.codes(ABSENT_GRACE_S) == ["standby"]


def test_a_standby_that_was_well_after_its_start_is_started_again_without_a_pause() -> None:
    fleet = _started()
    for _ in range(6):
        fleet.play(Play.ACTIVATE).runs("second").step()
        fleet.step(STABLE_S)
        fleet.stops("second").step()
        assert fleet.codes(ABSENT_GRACE_S) == ["standby"]


def test_a_standby_that_dies_soon_after_each_start_is_started_after_pauses_that_grow() -> None:
    fleet = _started()
    pause_s = FIRST_PAUSE_S
    for number in range(1, 5):
        fleet.play(Play.ACTIVATE).runs("second").step()
        fleet.stops("second").step(1)
        assert "standby" not in fleet.codes(pause_s - 1.5), f"pause {number}"
        assert fleet.codes(0.5) == ["standby"], f"pause {number}"
        pause_s *= 2


def test_a_standby_that_failed_long_ago_is_started_without_a_pause() -> None:
    fleet = _started()
    fleet.play(Play.ACTIVATE).runs("second").step()
    fleet.stops("second").step(RECENT_S)
    assert fleet.codes(ABSENT_GRACE_S) == ["standby"]


def test_a_start_that_does_no_good_ends_with_its_reason() -> None:
    fleet = _started().play(Play.ACTIVATE)
    fleet.step()
    (decision,) = fleet.step(HOT.dispatch.activation_timeout_s).decisions
    assert decision.sentence == (
        "The start of web as a hot standby on second failed: activate_web.yml succeeded, but web is not healthy on "
        "second."
    )


def test_a_start_that_no_worker_takes_ends_with_its_reason() -> None:
    fleet = _started()
    assert fleet.codes(HOT.dispatch.activation_timeout_s) == ["standby_failed"]
    assert fleet.request().outcome == "no worker took its command within 30 s"
    assert fleet.codes() == ["supersede_command"]


def test_a_failover_is_neither_refused_nor_delayed_by_a_start() -> None:
    fleet = _started(_lacking(ALL_HOT).runs("third").pointed_at("home"))
    fleet.fails("home")
    (decision,) = fleet.step().decisions
    assert decision.code == "failover"
    assert fleet.assignment.active == "third"
    assert fleet.codes() == ["supersede_command", "standby_superseded"]
    assert fleet.request(f"{int(fleet.request().created * 1000):013d}-web-failover").state is RequestState.RUNNING


def test_a_request_of_an_operator_overtakes_a_start() -> None:
    fleet = _started().asks(RequestKind.FAILOVER, target="second", redesignate=True)
    assert fleet.codes() == ["switchover_prepare"]
    assert fleet.codes() == ["standby_superseded"]
    assert fleet.codes() == ["supersede_command"]
    assert [command.kind for command in fleet.commands()] == [MoveKind.SWITCHOVER]


def test_nothing_is_started_while_paused_but_what_runs_goes_on() -> None:
    fleet = _lacking().pause()
    fleet.step()
    outcome = fleet.step(ABSENT_GRACE_S)
    assert outcome.decisions == ()
    assert outcome.diagnoses[0].not_actionable_because == "automation is paused by op"
    fleet = _started().pause().play(Play.ACTIVATE).runs("second")
    assert "standby_succeeded" in fleet.codes()


def test_a_vm_that_could_not_run_it_is_left_alone_and_told() -> None:
    for harm, why in (
        (lambda fleet: fleet.dies("second"), "second is down"),
        (lambda fleet: fleet.without_guard.add("second"), "the guard on second does not run"),
    ):
        fleet = _lacking()
        harm(fleet)
        fleet.step()
        outcome = fleet.step(60)
        assert outcome.decisions == ()
        assert [found.not_actionable_because for found in outcome.diagnoses] == [why]


def test_a_vm_in_maintenance_has_no_standby_and_misses_none() -> None:
    fleet = _lacking()
    fleet.in_maintenance.add("second")
    fleet.step()
    outcome = fleet.step(60)
    assert outcome.decisions == ()
    assert [found.code for found in outcome.diagnoses] == ["fine"]


def test_a_guard_that_restarts_ends_no_start() -> None:
    fleet = _started()
    fleet.without_guard.add("second")
    assert fleet.codes() == []
    fleet.without_guard.clear()
    fleet.play(Play.ACTIVATE).runs("second")
    assert "standby_succeeded" in fleet.codes()


def test_a_vm_that_goes_down_ends_its_start_and_has_the_next_one_as_soon_as_it_is_back() -> None:
    fleet = _started()
    for _ in range(5):
        fleet.dies("second")
        assert fleet.codes() == ["standby_cancelled"]
        assert fleet.request().outcome == "second is down"
        fleet.returns("second").step()
        assert fleet.codes(ABSENT_GRACE_S) == ["standby"]


def test_the_designated_vm_of_a_hot_service_is_started_as_a_standby_too() -> None:
    fleet = Fleet(HOT).serving("second", kind=MoveKind.FAILOVER)
    fleet.step()
    assert fleet.codes(ABSENT_GRACE_S) == ["standby"]
    assert fleet.commands()[0].target == "home"


def test_the_designated_vm_of_a_cold_service_that_was_stopped_is_left_alone() -> None:
    fleet = Fleet().serving("second", kind=MoveKind.FAILOVER)
    fleet.step()
    assert fleet.codes(60) == []


def test_a_service_that_turns_cold_loses_its_backup_then_its_standbys() -> None:
    fleet = _lacking().runs("second")
    assert fleet.codes() == ["endpoints"]
    fleet.policy = policy_of()
    assert fleet.codes() == ["endpoints"]
    assert fleet.traffic == ["home"]
    assert fleet.codes() == ["standbys"]
    assert fleet.assignment.standbys == ()


def test_a_start_is_cancelled_where_the_policy_turns_cold() -> None:
    fleet = _started()
    fleet.policy = policy_of()
    assert fleet.codes() == ["standbys", "standby_cancelled"]
    assert fleet.request().outcome == "the policy has no hot standby of web on second"


def test_a_start_whose_command_is_lost_ends() -> None:
    fleet = _started()
    del fleet.records[keys.command(fleet.commands()[0].id)]
    assert fleet.codes(1) == []
    assert fleet.codes(3) == ["standby_failed"]


def test_a_start_tells_nothing_of_where_a_service_is_active() -> None:
    fleet = _started().unlocked()
    del fleet.records[keys.assignment(WEB)]
    fleet.memory = Memory()
    assert fleet.codes() == ["repaired"]
    assert fleet.assignment.active == "home", "its endpoints tell, the start on second does not"


def test_a_request_of_this_kind_made_by_hand_is_refused() -> None:
    fleet = _lacking().asks(RequestKind.STANDBY, target="second")
    assert fleet.codes() == ["refused"]
