"""KV prefixes are watched apart: a record may be seen before the others of its transaction. Nothing is concluded."""

from __future__ import annotations

from orchestrator.decide.case import UNHEARD_S
from orchestrator.domain import keys
from orchestrator.domain.records import RequestKind, RequestState
from tests.unit.decide.fleet import START, WEB, Fleet


def _failed_over() -> Fleet:
    fleet = Fleet().serving().fails("home")
    assert fleet.codes() == ["failover"]
    return fleet


def test_an_assignment_seen_before_its_request_is_no_new_failover() -> None:
    fleet = _failed_over()
    key = keys.request(fleet.request().id)
    late = fleet.records.pop(key)
    outcome = fleet.step()
    assert outcome.decisions == ()
    assert outcome.wake_at is not None
    fleet.records[key] = late
    assert fleet.codes() == []
    assert fleet.request().state is RequestState.RUNNING


def test_a_request_that_never_appears_holds_up_nothing_for_long() -> None:
    fleet = _failed_over()
    del fleet.records[keys.request(fleet.request().id)]
    assert "failover" in fleet.codes(UNHEARD_S)


def test_a_request_seen_before_its_assignment_is_not_overtaken() -> None:
    fleet = Fleet().serving().fails("home")
    key = keys.assignment(WEB)
    before = fleet.records[key]
    assert fleet.codes() == ["failover"]
    late, fleet.records[key] = fleet.records[key], before
    assert fleet.codes() == []
    fleet.records[key] = late
    assert fleet.request().state is RequestState.RUNNING


def test_a_command_seen_before_its_request_is_not_superseded() -> None:
    fleet = Fleet().serving().asks(RequestKind.FAILOVER, target="second", redesignate=True)
    assert fleet.codes() == ["switchover_prepare"]
    late = fleet.records.pop(keys.request("asked"))
    assert "supersede_command" not in fleet.codes()
    fleet.records[keys.request("asked")] = late
    assert fleet.now > START
