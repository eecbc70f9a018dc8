"""How a service comes home."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.decide import decide
from orchestrator.decide.failback import LOOK_AGAIN_S
from orchestrator.domain import keys
from orchestrator.domain.records import CommandState, MoveKind, Play, RequestKind, Rotation
from tests.unit.decide.fleet import GRACE_S, WEB, Fleet, policy_of


def _away() -> Fleet:
    """web is served by second and designated on home, where it has just recovered."""
    return Fleet().serving("second", kind=MoveKind.FAILOVER).runs("home")


def test_the_start_of_the_grace_is_reported_once() -> None:
    fleet = _away()
    outcome = fleet.step()
    assert outcome.decisions[0].sentence == "web has recovered on home; the grace of 60 s has started."
    assert outcome.wake_at == fleet.now + GRACE_S
    assert fleet.codes() == []


def test_the_service_comes_home_when_the_grace_is_over() -> None:
    fleet = _away()
    fleet.step()
    assert fleet.codes(GRACE_S - 1) == []
    (decision,) = fleet.step(1).decisions
    assert (decision.code, decision.sentence) == (
        "failback",
        "Moving web from second to home (epoch 4): home has been healthy for 60 s, failback triggered.",
    )
    fleet.locked("home")
    assert fleet.codes() == ["endpoints"]
    assert fleet.codes(1.1) == ["break"]
    fleet.play(Play.ACTIVATE).play(Play.DEACTIVATE)
    assert fleet.codes() == ["succeeded"]


def test_a_break_in_its_health_starts_the_grace_anew() -> None:
    fleet = _away()
    fleet.step()
    fleet.fails("home")
    assert fleet.step(30).diagnoses[0].not_actionable_because == "web is failing its check on home"
    fleet.runs("home")
    assert fleet.codes() == ["grace"]
    assert fleet.codes(GRACE_S - 1) == []
    assert fleet.codes(1) == ["failback"]


def test_a_vm_that_was_unreachable_starts_the_grace_anew() -> None:
    fleet = _away()
    fleet.step()
    fleet.dies("home")
    fleet.step(30)
    fleet.returns("home")
    assert fleet.codes(31) == ["grace"]


def test_a_new_leader_starts_the_grace_anew() -> None:
    fleet = _away()
    fleet.step()
    fleet.memory = type(fleet.memory)()
    assert fleet.codes(GRACE_S) == ["grace"]


def test_a_failback_that_failed_starts_the_grace_anew() -> None:
    fleet = _away()
    fleet.step()
    assert fleet.codes(GRACE_S) == ["failback"]
    assert fleet.codes(31) == ["failed"], "home did not take the lock"
    fleet = _away()
    fleet.step()
    fleet.asks(RequestKind.FAILBACK, created=fleet.now)
    assert fleet.codes(1) == ["failback"]


def test_a_cancelled_failback_starts_the_grace_anew() -> None:
    fleet = Fleet().serving("second", designated_is_new=True)
    assert fleet.codes() == ["grace"]
    assert fleet.codes(GRACE_S) == ["failback_prepare"]
    fleet.play(Play.ACTIVATE, CommandState.CANCELLED, reason="op")
    assert fleet.codes() == ["cancelled"]
    assert fleet.codes() == ["standbys"]
    assert fleet.codes() == ["grace"]


def test_the_grace_counts_from_when_the_service_went_away_not_from_before() -> None:
    fleet = Fleet().serving()
    fleet.step()
    fleet.asks(RequestKind.FAILOVER, target="second").runs("second")
    fleet.step(1000)
    fleet.locked("second")
    fleet.step()
    fleet.play(Play.ACTIVATE)
    assert [fleet.codes(2), fleet.codes()] == [["break"], ["succeeded"]]
    assert fleet.codes() == ["grace"]


def test_there_is_no_failback_while_paused_held_or_switched_off() -> None:
    off = policy_of(failback={"automatic": False})
    for fleet, why in (
        (_away().pause(), "automation is paused by op"),
        (
            Fleet().serving("second", hold_until=1_800_000_000.0).runs("home"),
            "it is held for flapping (acknowledge with `orch resume web`)",
        ),
        (Fleet(off).serving("second").runs("home"), "automatic failback is off"),
    ):
        fleet.step()
        outcome = fleet.step(GRACE_S)
        assert outcome.decisions == ()
        assert outcome.diagnoses[0].not_actionable_because == why


def test_there_is_no_failback_to_a_vm_in_maintenance() -> None:
    fleet = _away()
    fleet.in_maintenance.add("home")
    fleet.step()
    assert fleet.step(GRACE_S).diagnoses[0].not_actionable_because == "home is in maintenance"


def test_a_service_that_was_stopped_at_home_is_not_started_there() -> None:
    fleet = Fleet().serving("second", kind=MoveKind.FAILOVER)
    assert fleet.codes() == []
    outcome = fleet.step(10 * GRACE_S)
    assert (outcome.decisions, outcome.diagnoses[0].not_actionable_because) == (
        (),
        "web does not run on home",
    )


def test_a_service_founded_elsewhere_is_started_at_home_when_home_has_been_up_for_the_grace() -> None:
    fleet = Fleet().serving("second", designated_is_new=True).dies("home")
    assert fleet.codes() == []
    fleet.returns("home")
    outcome = fleet.step()
    assert outcome.decisions[0].sentence == "home can take web; the grace of 60 s has started."
    assert fleet.codes(GRACE_S) == ["failback_prepare"]
    (command,) = fleet.commands()
    assert (command.target, command.enable_at_boot) == ("home", True)


def test_a_new_home_in_the_policy_is_started_too() -> None:
    fleet = Fleet(policy_of(order=("third", "second"))).serving("second", designated="home")
    fleet.step()
    assert fleet.codes(GRACE_S) == ["failback_prepare"]
    assert fleet.commands()[0].target == "third"


def test_a_home_that_died_before_it_ever_served_is_started_when_it_is_back() -> None:
    fleet = Fleet()
    assert fleet.codes() == ["initial"]
    fleet.dies("home")
    assert [fleet.codes(), fleet.codes()] == [["failed"], ["supersede_command", "failover"]]
    fleet.play(Play.ACTIVATE).runs("second").locked("second")
    assert [fleet.codes(), fleet.codes()] == [["endpoints"], ["succeeded"]]
    fleet.returns("home")
    fleet.put(keys.rotation(WEB), Rotation(service=WEB, order=("home", "second"), next_due=fleet.now + 9999))
    assert [fleet.codes(), fleet.codes(GRACE_S)] == [["grace"], ["failback_prepare"]]


def test_a_home_that_has_served_before_is_not_started_by_a_failback() -> None:
    fleet = Fleet().serving(designated_is_new=True).fails("home")
    fleet.step()
    assert not fleet.assignment.designated_is_new


def test_a_grace_that_could_not_be_announced_in_time_is_announced_before_the_failback() -> None:
    fleet = Fleet().serving("second").runs("home")
    unanswered = decide(fleet.view(), fleet.memory, fleet.policy, fleet.now)
    assert [made.code for made in unanswered.decisions] == ["grace"]
    fleet.memory = replace(unanswered.memory, announced=frozenset())
    late = fleet.step(GRACE_S + 1)
    assert [made.code for made in late.decisions] == ["grace"]
    assert late.wake_at == fleet.now + LOOK_AGAIN_S, "nothing that is watched changes, so nothing else wakes the leader"
    assert fleet.codes() == ["failback"]
