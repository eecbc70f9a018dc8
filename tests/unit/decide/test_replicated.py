"""A service with data goes only where the copy is whole, and nobody promotes on a guess."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.domain import keys
from orchestrator.domain.decision import Unchanged
from orchestrator.domain.policy import Policy
from orchestrator.domain.records import Command, CommandState, MoveKind, Play, RequestKind, RequestState
from tests.unit.decide.fleet import START, WEB, Fleet, policy_of

REPLICATED = policy_of(standby="hot", replication={"kind": "mariadb"})


def in_sync(active: str = "home", **fields: object) -> Fleet:
    """web is served by the active, and the copy of the other VM is whole."""
    other = "second" if active == "home" else "home"
    standbys = ("second",) if active == "home" else ()
    return Fleet(REPLICATED).serving(active, standbys=standbys, **fields).runs(other).whole_on(active, other)


def test_in_the_steady_state_nothing_is_decided_and_the_standby_gets_no_traffic() -> None:
    fleet = in_sync()
    assert fleet.step().sentence == "All services are served where they should be; nothing to do."
    assert fleet.traffic == ["home"]


def test_a_failure_moves_it_to_the_copy_that_is_whole() -> None:
    fleet = in_sync().fails("home")
    (decision,) = fleet.step().decisions
    assert decision.code == "failover"
    assert (fleet.assignment.active, fleet.assignment.epoch) == ("second", 4)


def test_the_choice_holds_only_while_the_record_of_the_copies_is_the_one_seen() -> None:
    fleet = in_sync().fails("home")
    (decision,) = fleet.step().decisions
    index = fleet.records[keys.sync(WEB)][1]
    assert Unchanged(keys.sync(WEB), index) in decision.changes


@pytest.mark.parametrize("lost", ["fails", "dies"])
def test_a_copy_that_is_not_whole_is_never_promoted_by_itself(lost: str) -> None:
    fleet = in_sync().whole_on("home")
    getattr(fleet, lost)("home")
    fleet.step()
    assert fleet.assignment.active == "home"
    sentence = fleet.step().sentence
    if lost == "dies":
        assert sentence == (
            "home is not reachable, and no other VM can take web: the copy of web on second may lack what was "
            "acknowledged since 22:13:20 UTC (0 s): only that of home is whole."
        )


def test_where_only_its_own_copy_is_whole_it_is_started_again_in_place() -> None:
    fleet = in_sync().whole_on("home").fails("home")
    assert fleet.codes() == ["failover"]
    assert (fleet.assignment.active, fleet.assignment.epoch) == ("home", 4)


@pytest.mark.parametrize(
    ("told", "why"),
    [
        (None, "nobody can tell whether the copy of web on second is whole: there is no orch/services/web/sync"),
        (
            "garbage",
            "nobody can tell whether the copy of web on second is whole: orch/services/web/sync cannot be read",
        ),
    ],
)
def test_nobody_is_promoted_on_a_guess(told: str | None, why: str) -> None:
    fleet = in_sync().dies("home")
    if told is None:
        del fleet.records[keys.sync(WEB)]
    else:
        fleet.put(keys.sync(WEB), told)
    assert fleet.codes() == []
    assert why in fleet.step().sentence


def test_an_operator_may_accept_that_data_is_lost() -> None:
    fleet = in_sync().whole_on("home").dies("home")
    fleet.asks(RequestKind.FAILOVER, accept_data_loss=True)
    assert fleet.codes() == ["failover"]
    assert (fleet.assignment.active, fleet.assignment.accepts_data_loss) == ("second", True)


def test_without_that_word_the_request_is_refused_with_the_reason() -> None:
    fleet = in_sync().whole_on("home").asks(RequestKind.FAILOVER, target="second")
    assert fleet.codes(250.0) == ["refused"]
    lacks = (
        "the copy of web on second may lack what was acknowledged since 22:13:20 UTC (4 min 10 s): only that of home "
        "is whole"
    )
    assert fleet.request().outcome == f"{lacks}, so web cannot go there; it can go nowhere from home: {lacks}."


@pytest.mark.parametrize(
    ("later_s", "told"),
    [
        (59.4, "22:13:20 UTC (59 s)"),
        (7262.0, "2023-11-14 22:13:20 UTC (2 h 1 min)"),
        (-5.0, "22:13:20 UTC (0 s)"),
    ],
    ids=["seconds", "the next day", "the clocks of two VMs differ"],
)
def test_how_much_it_lacks_is_told_as_a_time(later_s: float, told: str) -> None:
    fleet = in_sync().whole_on("home").asks(RequestKind.FAILOVER, target="second")
    fleet.step(later_s)
    assert f"may lack what was acknowledged since {told}: only" in fleet.request().outcome


def test_what_was_lost_on_an_operators_word_stands_in_the_outcome() -> None:
    fleet = in_sync().whole_on("home").dies("home")
    fleet.asks(RequestKind.FAILOVER, accept_data_loss=True)
    fleet.step(250.0)
    fleet.whole_on("second").locked("second")
    fleet.step()
    fleet.play(Play.ACTIVATE)
    fleet.step()
    assert fleet.request("asked").outcome == (
        "web is served by second, 0.00 s after the decision; its copy may lack what was acknowledged since "
        "22:13:20 UTC (4 min 10 s); how many transactions that is, is not known: nobody could say where home ended"
    )


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ({"lacks": 12}, "it lacks 12 transactions of what home had"),
        ({"lacks": 1}, "it lacks 1 transaction of what home had"),
        ({"lacks": 0}, "it lacks no transactions of what home had"),
        (
            {"position": "0-1-4711"},
            "how many transactions that is, is not known: nobody could say where home ended; its own ends at 0-1-4711",
        ),
        (
            {"lacks": 12, "lacks_by": START + 60, "position": "0-1-4700"},
            "it lacks at least 12 transactions of what home had reported by 22:14:20 UTC, what home took later nobody "
            "could say; its own ends at 0-1-4700",
        ),
        (
            {"lacks": 0, "lacks_by": START + 60},
            "it lacks no transactions of what home had reported by 22:14:20 UTC, what home took later nobody could say",
        ),
        ({"lacks": 12, "epoch": 3}, "how many transactions that is, is not known"),
    ],
    ids=["some", "one", "none", "nobody knows", "at least some", "none of those", "the record is not this move's"],
)
def test_how_many_transactions_were_lost_is_told_where_it_is_known(record: dict[str, Any], told: str) -> None:
    fleet = in_sync().whole_on("home", position="0-1-4699").dies("home")
    fleet.asks(RequestKind.FAILOVER, accept_data_loss=True)
    fleet.step(250.0)
    fleet.whole_on("second", **record).locked("second")
    fleet.step()
    fleet.play(Play.ACTIVATE)
    fleet.step()
    since = "may lack what was acknowledged since 22:13:20 UTC (4 min 10 s), when home was at 0-1-4699"
    assert (
        fleet.request("asked").outcome
        == f"web is served by second, 0.00 s after the decision; its copy {since}; {told}"
    )


REPORTED = {"position": "0-1-4699", "reported": "0-1-4711", "reported_at": START + 240}


def test_how_much_is_behind_by_the_last_report_is_told_before_anybody_accepts_it() -> None:
    fleet = in_sync().whole_on("home", **REPORTED).dies("home")
    fleet.asks(RequestKind.FAILOVER, target="second")
    refused = fleet.step(250.0)
    assert (
        "the copy of web on second may lack what was acknowledged since 22:13:20 UTC (4 min 10 s), 12 transactions by "
        "the last report of home 10 s ago: only that of home is whole"
    ) in refused.sentence
    fleet.asks(RequestKind.FAILOVER, target="second", accept_data_loss=True)
    fleet.step()
    assert "when home was at 0-1-4699, 12 transactions by the last report of home 10 s ago" in str(fleet.request().loss)


@pytest.mark.parametrize("odd", [{"reported": "x"}, {"reported_at": None}, {"position": None}, {"position": "x"}])
def test_a_report_that_says_nothing_is_left_out(odd: dict[str, Any]) -> None:
    fleet = in_sync().whole_on("home", **{**REPORTED, **odd}).dies("home")
    fleet.asks(RequestKind.FAILOVER, target="second")
    assert "(4 min 10 s): only that of home is whole" in fleet.step(250.0).sentence


def test_a_copy_that_is_promoted_where_the_service_is_lacks_what_the_whole_copy_had() -> None:
    fleet = not_ready("home").asks(RequestKind.FAILOVER, target="second", accept_data_loss=True)
    fleet.step()
    fleet.whole_on("second").locked("second")
    fleet.step()
    fleet.play(Play.ACTIVATE)
    fleet.step()
    assert "not known: nobody could say where the whole copy ended" in fleet.request().outcome


def test_nothing_is_said_to_be_lost_where_the_copy_is_whole() -> None:
    fleet = in_sync().asks(RequestKind.FAILOVER, target="second", accept_data_loss=True)
    fleet.step()
    assert fleet.request("asked").loss is None


def test_a_service_without_data_has_nothing_to_lose() -> None:
    fleet = Fleet(policy_of(standby="hot")).serving().runs("second")
    fleet.asks(RequestKind.FAILOVER, target="second", accept_data_loss=True)
    assert fleet.codes()[-1] == "refused"
    assert fleet.request("asked").outcome == "web has no data that could be lost; ask without accepting any loss."


def test_traffic_waits_until_the_copy_is_promoted() -> None:
    fleet = in_sync().fails("home")
    fleet.step()
    fleet.promoting("second")
    assert fleet.codes() == []
    fleet.locked("second")
    assert fleet.codes() == ["endpoints"]
    assert fleet.traffic == ["second"]


def not_ready(*whole: str) -> Fleet:
    """The second VM holds the role lock after a failover, and its copy of the data does not come to be promoted."""
    fleet = in_sync("second", epoch=4, kind=MoveKind.FAILOVER).whole_on(*whole).pointed_at("home", epoch=3)
    fleet.promoting("second")
    fleet.step()
    return fleet


def test_a_copy_that_does_not_come_to_be_promoted_is_given_up_for_one_that_is_whole() -> None:
    fleet = not_ready("home", "second")
    assert fleet.codes(1.0) == []
    (decision,) = fleet.step(fleet.policy.dispatch.activation_timeout_s).decisions
    assert decision.code == "failover"
    assert (fleet.assignment.active, fleet.assignment.epoch) == ("home", 5)
    assert len(fleet.assignment.failovers) == 1, "it counts, so that it does not go round for ever"


def test_a_holder_that_was_not_ready_for_a_moment_only_stays() -> None:
    fleet = not_ready("home", "second")
    fleet.locked("second")
    fleet.step(1.0)
    fleet.promoting("second")
    assert "failover" not in fleet.codes(fleet.policy.dispatch.activation_timeout_s)


def test_without_another_whole_copy_it_stays_and_says_so() -> None:
    fleet = not_ready("second")
    sentence = fleet.step(fleet.policy.dispatch.activation_timeout_s).sentence
    assert sentence == (
        "second holds the role lock of web and is not ready for traffic, and it stays there: the copy of web on home "
        "may lack what was acknowledged since 22:13:20 UTC (30 s): only that of second is whole."
    )


def test_an_operator_may_have_the_copy_promoted_where_the_service_is() -> None:
    fleet = not_ready("home").asks(RequestKind.FAILOVER, target="second", accept_data_loss=True)
    fleet.dies("home")
    fleet.step()
    assert fleet.request().state is RequestState.RUNNING
    assert (fleet.assignment.active, fleet.assignment.epoch) == ("second", 5)
    assert fleet.assignment.accepts_data_loss


def test_where_it_serves_that_is_refused() -> None:
    fleet = in_sync().asks(RequestKind.FAILOVER, target="home", accept_data_loss=True)
    fleet.step()
    assert fleet.request().outcome.startswith("web is already active on home")


@pytest.mark.parametrize(
    ("recorded", "kind"), [(False, MoveKind.INITIAL), (True, MoveKind.FAILOVER)], ids=["without a record", "with one"]
)
def test_a_first_instance_that_is_restarted_before_there_is_a_record_is_still_founded(
    recorded: bool, kind: MoveKind
) -> None:
    fleet = Fleet(REPLICATED).assign("home", epoch=1, kind=MoveKind.INITIAL).fails("home")
    if recorded:
        fleet.whole_on("home")
    fleet.step()
    assert (fleet.assignment.active, fleet.assignment.epoch, fleet.assignment.kind) == ("home", 2, kind)


def test_a_planned_move_is_refused_while_the_standby_is_not_in_sync_and_done_when_it_is() -> None:
    fleet = in_sync().whole_on("home").asks(RequestKind.ROTATION)
    fleet.step()
    assert fleet.request().state is RequestState.REFUSED
    fleet.whole_on("home", "second").asks(RequestKind.ROTATION, "again")
    assert fleet.codes() == ["rotation"]


def test_it_comes_home_only_when_its_copy_there_is_whole_again() -> None:
    fleet = in_sync("second", epoch=4).whole_on("second")
    fleet.step()
    fleet.step(70.0)
    assert fleet.assignment.active == "second"
    fleet.whole_on("second", "home")
    fleet.step()
    fleet.step(61.0)
    fleet.step(1.0)
    assert fleet.assignment.active == "home"


def test_a_standby_that_is_not_in_sync_yet_is_told_and_not_started_again() -> None:
    fleet = in_sync().whole_on("home")
    assert fleet.step(30.0).sentence == "web has no hot standby on second yet: it replicates and is not in sync yet."
    assert fleet.codes(30.0) == []


def test_a_standby_that_fails_has_its_play_run_with_the_vm_to_copy_from() -> None:
    fleet = in_sync().whole_on("home").fails("second")
    fleet.step()
    assert fleet.codes(11.0) == ["standby"]
    (command,) = fleet.commands(Play.ACTIVATE)
    assert (command.target, command.source) == ("second", "home")


def test_it_is_founded_at_home_only() -> None:
    fleet = Fleet(REPLICATED).dies("home")
    assert fleet.codes() == []
    assert fleet.step().sentence == "web has no assignment yet, and home is not up."
    fleet.returns("home")
    assert fleet.codes() == ["initial"]
    commands = [record for record, _ in fleet.records.values() if isinstance(record, Command)]
    assert {(command.target, command.source) for command in commands} == {("home", None), ("second", "home")}


def test_it_is_not_founded_anew_where_a_record_says_that_it_was_served_before() -> None:
    fleet = in_sync()
    for key in (keys.assignment(WEB), keys.endpoints(WEB)):
        del fleet.records[key]
    fleet.unlocked()
    assert fleet.codes() == []
    assert "says that it has been served before" in fleet.step().sentence


ON_REQUEST = policy_of(standby="hot", replication={"kind": "mariadb", "reclone": "on_request"})


@pytest.mark.parametrize(("policy", "clone"), [(REPLICATED, "auto"), (ON_REQUEST, "never")])
def test_whether_a_standbys_copy_is_replaced_by_itself_is_the_policys_to_say(policy: Policy, clone: str) -> None:
    fleet = in_sync()
    fleet.policy = policy
    fleet.whole_on("home").fails("second").step()
    fleet.step(11.0)
    (command,) = fleet.commands(Play.ACTIVATE)
    assert (command.target, command.source, command.clone) == ("second", "home", clone)
    founded = Fleet(policy)
    founded.step()
    assert {(c.target, c.clone) for c in founded.commands()} == {("home", None), ("second", clone)}


def test_an_operators_word_has_the_copy_replaced_and_ends_when_it_follows() -> None:
    fleet = in_sync().whole_on("home").fails("second").pause()
    fleet.policy = ON_REQUEST
    fleet.asks(RequestKind.STANDBY, reason="diverged")
    assert fleet.codes() == ["clone"]
    (command,) = fleet.commands()
    assert (command.target, command.source, command.clone, command.kind) == ("second", "home", "auto", MoveKind.STANDBY)
    assert fleet.codes() == [], "it is awaited"
    fleet.play(Play.ACTIVATE).runs("second")
    fleet.step()
    assert fleet.request("asked").state is RequestState.SUCCEEDED
    assert (fleet.assignment.active, fleet.assignment.epoch) == ("home", 3)


def test_a_play_that_only_says_that_the_copy_must_be_replaced_ends_the_start_with_that_sentence() -> None:
    fleet = in_sync().whole_on("home").fails("second")
    fleet.policy = ON_REQUEST
    fleet.step()
    fleet.step(11.0)
    why = "the copy on second must be replaced: `orch clone web` has it cloned from home (it has diverged)"
    fleet.play(Play.ACTIVATE, CommandState.FAILED, reason=why)
    fleet.step()
    assert why in fleet.request().outcome
    fleet.asks(RequestKind.STANDBY)
    assert "clone" in fleet.codes(), "a start that has ended is no obstacle"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda fleet: fleet.runs("second"), "the copy of web on second replicates; there is nothing to replace."),
        (lambda fleet: fleet.dies("second"), "second is down, so the copy there cannot be replaced."),
        (lambda fleet: fleet.stops("home"), "web is not served by home now, so nothing can be cloned from there."),
    ],
)
def test_a_copy_is_not_replaced_where_it_need_not_or_cannot_be(change: Callable[[Fleet], Fleet], why: str) -> None:
    fleet = in_sync().whole_on("home").fails("second")
    change(fleet).asks(RequestKind.STANDBY)
    assert fleet.codes() == ["refused"]
    assert fleet.request("asked").outcome == why


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("home", "web is active on home: its copy there is the one that the other is cloned from."),
        ("third", "web has no copy on third; it has one on home and second."),
    ],
)
def test_only_the_standbys_copy_is_replaced(target: str, why: str) -> None:
    fleet = in_sync().whole_on("home").fails("second").asks(RequestKind.STANDBY, target=target)
    fleet.step()
    assert fleet.request("asked").outcome == why


def test_a_copy_that_is_being_started_is_not_replaced_meanwhile() -> None:
    fleet = in_sync().whole_on("home").fails("second")
    fleet.step()
    fleet.step(11.0)
    running = fleet.request().id
    fleet.asks(RequestKind.STANDBY)
    fleet.step()
    assert fleet.request("asked").outcome == (
        f"web is busy with the standby on second (request {running}); its copy can be replaced when that one has ended."
    )


def test_a_service_without_data_has_no_copy() -> None:
    fleet = Fleet(policy_of(standby="hot")).serving().fails("second").asks(RequestKind.STANDBY)
    fleet.step()
    assert fleet.request("asked").outcome == "web has no data whose copy could be replaced."
