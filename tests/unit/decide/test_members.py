"""How the spare takes the place of a cluster's member that stays away, and gives it back."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from orchestrator.decide.beside import FIRST_PAUSE_S, LONGEST_PAUSE_S
from orchestrator.domain import keys
from orchestrator.domain.decision import Memory
from orchestrator.domain.records import CommandState, Members, MoveKind, Play, RequestKind, RequestState
from orchestrator.domain.view import InstanceState
from tests.unit.decide.fleet import GRACE_S, START, WEB, Fleet, policy_of

AFTER_S = 300.0
CLUSTER = {"kind": "rabbitmq", "members": ["home", "second", "third"], "spare": "spare", "change": "change_member.yml"}
MEMBERS = ("home", "second", "third")
WITH_SPARE = ("home", "second", "spare")


def clustered(**cluster: object) -> Fleet:
    """All is well with a cluster of three; web stands by hot on second."""
    fleet = Fleet(policy_of(standby="hot", cluster={**CLUSTER, **cluster}))
    fleet.serving(standbys=("second",)).runs("second")
    for vm in MEMBERS:
        fleet.has_broker(vm)
    assert fleet.codes() == ["endpoints"]
    return fleet


def away(fleet: Fleet | None = None) -> Fleet:
    """third has just been lost."""
    fleet = (fleet or clustered()).dies("third")
    assert fleet.codes() == []
    return fleet


def replacing() -> Fleet:
    """third has stayed away: the spare is about to take its place."""
    fleet = away()
    assert fleet.codes(AFTER_S) == ["member"]
    return fleet


def replaced() -> Fleet:
    """The spare has the place of third."""
    fleet = replacing().has_broker("spare")
    fleet.play(Play.MEMBER)
    assert fleet.codes() == ["member_succeeded"]
    return fleet


def members(fleet: Fleet) -> Members:
    return fleet.get(keys.members(WEB), Members)


def told(fleet: Fleet) -> list[tuple[str, str]]:
    """What is the matter with the members."""
    return [(d.code, d.sentence) for d in fleet.step().diagnoses if d.code.startswith("member")]


# -- the spare takes the place ----------------------------------------------------------------------------------------


def test_a_member_that_stays_away_is_replaced_by_the_spare_and_the_record_says_so_before_the_play_runs() -> None:
    fleet = away()
    assert fleet.step().sentence == (
        "third is away from the cluster of web; spare takes its place in 300 s at most if it stays away."
    )
    assert fleet.codes(AFTER_S - 1) == []
    (decision,) = fleet.step(1).decisions
    assert decision.sentence == ("spare takes the place of third in the cluster of web: third has been away for 300 s.")
    record = members(fleet)
    assert (record.members, record.joining, record.leaving) == (WITH_SPARE, "spare", "third")
    (command,) = decision.commands
    assert (command.play, command.playbook, command.kind) == (Play.MEMBER, "change_member.yml", MoveKind.MEMBER)
    assert (command.target, command.leaves) == ("spare", "third")


def test_when_the_play_has_succeeded_nothing_is_left_to_be_done() -> None:
    fleet = replaced()
    record = members(fleet)
    assert (record.members, record.joining, record.leaving) == (WITH_SPARE, None, None)
    assert fleet.request().state is RequestState.SUCCEEDED
    assert fleet.codes(AFTER_S) == []
    assert told(fleet) == [
        ("member_replaced", "spare has the place of third in the cluster of web: third is down."),
    ]


def test_nobody_moves_for_it() -> None:
    fleet = replaced()
    assert (fleet.assignment.active, fleet.assignment.epoch, fleet.traffic) == ("home", 3, ["home", "second"])


def test_a_member_whose_vm_is_up_and_whose_broker_fails_is_away_too() -> None:
    fleet = clustered().has_broker("third", InstanceState.FAILED)
    fleet.step()
    assert fleet.codes(AFTER_S) == ["member"]


@pytest.mark.parametrize("state", [InstanceState.UNKNOWN, InstanceState.ABSENT])
def test_a_broker_that_nobody_could_ask_is_not_away(state: InstanceState) -> None:
    fleet = clustered().has_broker("third", state)
    assert told(fleet) == []
    assert fleet.codes(AFTER_S) == []


def test_one_that_returns_in_time_starts_the_time_anew() -> None:
    fleet = away()
    assert fleet.codes(AFTER_S - 1) == []
    fleet.returns("third").step()
    fleet.dies("third").step()
    assert fleet.codes(AFTER_S - 1) == []
    assert fleet.codes(1) == ["member"]


def test_a_new_leader_and_a_regained_quorum_start_the_time_anew() -> None:
    fleet = away()
    fleet.step(AFTER_S - 1)
    fleet.memory = Memory()
    assert fleet.codes(1) == []
    fleet.quorum_since = fleet.now + AFTER_S - 10
    assert fleet.codes(AFTER_S) == []
    assert fleet.codes(AFTER_S - 10) == ["member"]


# -- why not ----------------------------------------------------------------------------------------------------------

IN_THE_WAY: dict[str, tuple[Callable[[Fleet], object], str]] = {
    "paused": (lambda fleet: fleet.pause(), "automation is paused by op"),
    "the member is in maintenance": (lambda fleet: fleet.in_maintenance.add("third"), "third is in maintenance"),
    "the spare is in maintenance": (lambda fleet: fleet.in_maintenance.add("spare"), "spare is in maintenance"),
    "the spare is down": (lambda fleet: fleet.dies("spare"), "spare is down"),
    "the spare has no guard": (lambda fleet: fleet.without_guard.add("spare"), "the guard on spare does not run"),
    "another broker fails": (
        lambda fleet: fleet.has_broker("second", InstanceState.FAILED),
        "only 1 of the other members are well, and it takes 2",
    ),
    "another broker is unknown": (
        lambda fleet: fleet.has_broker("second", InstanceState.UNKNOWN),
        "only 1 of the other members are well, and it takes 2",
    ),
}


@pytest.mark.parametrize("case", IN_THE_WAY)
def test_nobody_is_replaced_while_something_is_in_the_way_and_the_reason_is_told(case: str) -> None:
    fleet = away()
    change, why = IN_THE_WAY[case]
    change(fleet)
    fleet.step(AFTER_S)
    assert keys.members(WEB) not in fleet.records
    assert (
        "member_away",
        f"third is away from the cluster of web, and spare does not take its place: {why}.",
    ) in told(fleet)


def test_the_vm_where_the_service_is_active_is_not_replaced() -> None:
    fleet = clustered().has_broker("home", InstanceState.FAILED)
    fleet.step()
    assert fleet.codes(AFTER_S) == []
    assert "spare does not take its place: web is active on home." in fleet.step().sentence


@pytest.mark.parametrize(
    ("cluster", "why"),
    [
        ({"spare": None}, "the policy has no spare"),
        ({"replace_after_s": None}, "the policy has members replaced never"),
    ],
)
def test_a_policy_may_have_nobody_replaced(cluster: dict[str, object], why: str) -> None:
    fleet = away(clustered(**cluster))
    assert fleet.codes(10 * AFTER_S) == []
    assert told(fleet) == [
        ("member_away", f"third is away from the cluster of web, and nobody takes its place: {why}.")
    ]


def test_with_the_spare_in_use_a_second_member_waits_for_one_to_return() -> None:
    fleet = replaced().fails("second").has_broker("second", InstanceState.FAILED)
    fleet.step(AFTER_S)
    assert (
        "member_away",
        "second is away from the cluster of web, and nobody takes its place: spare has the place of third.",
    ) in told(fleet)
    assert members(fleet).members == WITH_SPARE


@pytest.mark.parametrize(
    "record",
    [
        "{",
        Members(service=WEB, members=("home", "second", "elsewhere"), since=START, reason="by hand"),
        Members(service=WEB, members=("home", "spare"), since=START, reason="by hand"),
        Members(service=WEB, members=MEMBERS, joining="third", leaving="third", since=START, reason="by hand"),
        Members(service=WEB, members=MEMBERS, joining="third", since=START, reason="by hand"),
    ],
)
def test_a_record_that_cannot_be_read_or_contradicts_the_policy_has_nobody_replaced(record: Members | str) -> None:
    fleet = clustered().put(keys.members(WEB), record).dies("third")
    fleet.step()
    assert fleet.codes(AFTER_S) == []
    ((code, sentence),) = told(fleet)
    assert (code, sentence[:50]) == (
        "members_unknown",
        f"Nobody can tell who is in the cluster of web: {keys.members(WEB)}"[:50],
    )
    assert "web is served by home" not in sentence


# -- attempts that fail -----------------------------------------------------------------------------------------------


def test_a_change_that_fails_is_tried_again_after_pauses_that_grow_also_by_a_new_leader() -> None:
    fleet = replacing()
    pause_s = FIRST_PAUSE_S
    for number in range(1, 8):
        fleet.play(Play.MEMBER, CommandState.FAILED, reason="rc 2")
        assert fleet.codes() == ["member_failed"]
        fleet.memory = Memory()
        assert f"attempt {number} failed (the play change_member.yml failed: rc 2)" in told(fleet)[0][1]
        assert fleet.codes(pause_s - 1) == [], f"pause {number}"
        assert fleet.codes(1) == ["member"], f"pause {number}"
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def test_a_failover_overtakes_a_change_which_goes_on_after_it() -> None:
    fleet = replacing().fails("home")
    fleet.step()
    request = fleet.request(next(k.value.id for k in fleet.view().requests if k.value.kind is RequestKind.FAILOVER))
    assert request.state is RequestState.RUNNING
    fleet.locked("second").step()
    for play in (Play.ACTIVATE, Play.MEMBER):
        if fleet.commands(play):
            fleet.play(play, CommandState.SUCCEEDED if play is Play.ACTIVATE else CommandState.SUPERSEDED)
    codes = [code for _ in range(6) for code in fleet.codes(0.1)]
    assert "member" in codes
    (command,) = fleet.commands(Play.MEMBER)
    assert (command.target, command.leaves, command.epoch) == ("spare", "third", 4)
    assert {k.value.state for k in fleet.view().requests} == {RequestState.RUNNING}


def test_while_a_move_runs_no_change_is_begun_which_it_would_overtake_at_once() -> None:
    fleet = away()
    assert fleet.codes(AFTER_S - 1) == []
    fleet.fails("home").step()
    codes = [code for _ in range(20) for code in fleet.codes(0.3)]
    assert [code for code in codes if code.startswith("member")] == []
    ((code, sentence),) = told(fleet)
    assert code == "member_away"
    assert sentence.endswith(", and spare does not take its place: the failover of web goes on first.")


def test_one_that_returns_before_the_change_is_done_keeps_its_place() -> None:
    fleet = replacing()
    fleet.play(Play.MEMBER, CommandState.FAILED, reason="third runs")
    fleet.step()
    fleet.in_maintenance.add("spare")
    fleet.returns("third").step()
    fleet.in_maintenance.clear()
    assert fleet.codes(GRACE_S) == ["member"]
    record = members(fleet)
    assert (record.members, record.joining, record.leaving) == (MEMBERS, "third", "spare")


# -- the member is taken back -----------------------------------------------------------------------------------------


def test_a_member_that_is_back_is_taken_back_after_the_grace_and_the_spare_released() -> None:
    fleet = replaced().returns("third").has_broker("third", InstanceState.FAILED)
    fleet.step()
    assert told(fleet) == [
        (
            "member_replaced",
            "spare has the place of third in the cluster of web; third is taken back in 60 s at most if it stays up.",
        ),
    ]
    assert fleet.codes(GRACE_S - 1) == []
    (decision,) = fleet.step(1).decisions
    assert decision.sentence == "third takes the place of spare in the cluster of web: third is back."
    (command,) = decision.commands
    assert (command.target, command.leaves) == ("third", "spare")
    assert members(fleet).members == MEMBERS
    fleet.has_broker("third").play(Play.MEMBER)
    fleet.brokers.pop("spare")
    assert fleet.codes() == ["member_succeeded"]
    assert [d.code for d in fleet.step().diagnoses] == ["fine"]


@pytest.mark.parametrize("still", ["down", "maintenance", "guard"])
def test_while_its_vm_is_not_fit_the_spare_keeps_the_place(still: str) -> None:
    fleet = replaced()
    if still != "down":
        fleet.returns("third")
    {"down": set(), "maintenance": fleet.in_maintenance, "guard": fleet.without_guard}[still].add("third")
    fleet.step()
    assert fleet.codes(10 * GRACE_S) == []
    assert members(fleet).members == WITH_SPARE


def test_one_that_dies_again_while_it_is_taken_back_is_replaced_again() -> None:
    fleet = replaced().returns("third")
    fleet.step()
    assert fleet.codes(GRACE_S) == ["member"]
    fleet.dies("third").play(Play.MEMBER, CommandState.FAILED, reason="unreachable")
    assert fleet.codes() == ["member_failed"]
    assert fleet.codes(AFTER_S - 1) == []
    assert fleet.codes(1) == ["member"]
    record = members(fleet)
    assert (record.members, record.joining, record.leaving) == (WITH_SPARE, "spare", "third")


def test_a_hot_standby_whose_place_the_spare_has_is_started_by_nobody_else() -> None:
    fleet = clustered().dies("second").stops("second")
    fleet.step()
    assert fleet.codes(AFTER_S) == ["member"]
    fleet.has_broker("spare").play(Play.MEMBER)
    fleet.step()
    fleet.returns("second").has_broker("second", InstanceState.FAILED).fails("second")
    fleet.step()
    outcome = fleet.step(GRACE_S - 1)
    assert outcome.decisions == ()
    assert "web has no hot standby on second: spare has the place of second in the cluster of web." in outcome.sentence
    assert fleet.codes(1) == ["member"]
    assert fleet.codes(20) == [], "the play that takes it back starts it"


def test_an_operators_request_to_change_members_is_refused() -> None:
    fleet = clustered().asks(RequestKind.MEMBER, target="spare")
    assert fleet.codes() == ["refused"]
    assert fleet.request("asked").outcome.startswith("the leading controller changes the cluster of web by itself")
