"""What operators and messages ask for is started or refused, with the reason."""

from __future__ import annotations

import pytest

from orchestrator.domain.records import MoveKind, RequestKind, RequestState
from tests.unit.decide.fleet import START, Fleet, policy_of

FAILOVER, FAILBACK, ROTATION = RequestKind.FAILOVER, RequestKind.FAILBACK, RequestKind.ROTATION
SERVED = "web is at home already: active and designated on home."


def _refusal(fleet: Fleet, ident: str = "asked") -> str:
    fleet.step()
    assert fleet.request(ident).state is RequestState.REFUSED
    return fleet.request(ident).outcome


def test_a_request_that_can_be_carried_out_is_started() -> None:
    fleet = Fleet().serving().asks(FAILOVER)
    assert fleet.codes() == ["switchover_prepare"]
    assert (fleet.request().state, fleet.request().target) == (RequestState.RUNNING, "second")


def test_an_operators_request_is_carried_out_while_paused_and_while_held() -> None:
    assert Fleet().serving().pause().asks(FAILOVER).codes() == ["switchover_prepare"]
    assert Fleet().serving(hold_until=START + 100).asks(FAILOVER).codes() == ["switchover_prepare"]


def test_an_operators_request_for_a_service_that_is_down_is_a_failover_at_once() -> None:
    fleet = Fleet().serving().dies("home").pause().asks(FAILOVER)
    assert fleet.codes() == ["failover"]
    assert fleet.assignment.request_id == "asked"


@pytest.mark.parametrize(
    ("spoil", "asked", "why"),
    [
        (lambda f: f.dies("second"), {"target": "second"}, "second is down, so web cannot go there"),
        (lambda f: f.in_maintenance.add("second"), {"target": "second"}, "second is in maintenance"),
        (lambda f: f.fails("second"), {"target": "second"}, "web is failing its check on second (HTTP 500)"),
        (lambda f: f.dies("second"), {}, "web has no VM to go to: second is down."),
        (lambda f: None, {"target": "home"}, "web is already active on home; it can go from home to second."),
        (lambda f: None, {"target": "nowhere"}, "nowhere is not a VM of this fleet"),
        (lambda f: None, {"target": "third"}, "web may not run on third, its order is home, second"),
        (lambda f: None, {"failed_instance": "second"}, "web is not active on second (it is on home)"),
        (lambda f: f.without_guard.add("home"), {}, "the guard on home does not run, so home could not hand web over."),
    ],
)
def test_a_failover_that_cannot_be_is_refused_with_the_reason_and_what_is_possible(spoil, asked, why) -> None:
    fleet = Fleet().serving()
    spoil(fleet)
    assert _refusal(fleet.asks(FAILOVER, **asked)).startswith(why)


def test_a_failback_goes_home_and_makes_home_designated() -> None:
    fleet = Fleet().serving("second", designated="second").runs("home").asks(FAILBACK)
    assert fleet.codes() == ["failback"]
    assert (fleet.assignment.active, fleet.assignment.designated) == ("home", "home")


def test_a_failback_of_a_service_that_is_at_home_is_refused() -> None:
    assert _refusal(Fleet().serving().asks(FAILBACK)) == SERVED


def test_a_failback_to_where_it_is_already_active_only_moves_the_designation() -> None:
    fleet = Fleet().serving("home", designated="second").asks(FAILBACK)
    assert fleet.codes() == ["failback"]
    assert (fleet.assignment.active, fleet.assignment.designated, fleet.assignment.epoch) == ("home", "home", 4)


def test_a_rotation_without_another_vm_is_refused() -> None:
    fleet = Fleet(policy_of(order=("home",))).serving().asks(ROTATION)
    assert _refusal(fleet) == "web cannot be rotated away from home: no other VM is in the order of web."


def test_an_acknowledgement_of_nothing_is_refused() -> None:
    assert _refusal(Fleet().serving().asks(RequestKind.ACKNOWLEDGE)) == (
        "web is not held, so there is nothing to acknowledge."
    )


def test_an_initial_request_by_anybody_is_refused() -> None:
    assert _refusal(Fleet().serving().asks(RequestKind.INITIAL)) == "web is assigned already, to home."


def test_a_second_request_is_refused_with_the_id_of_the_running_one() -> None:
    fleet = Fleet().serving().asks(FAILOVER, "first")
    fleet.step()
    assert _refusal(fleet.asks(FAILOVER, "late"), "late") == "a move of web is running (request first)."


def test_of_two_pending_requests_the_older_is_started_and_the_other_refused() -> None:
    fleet = Fleet().serving().asks(FAILOVER, "b-first").asks(FAILBACK, "a-later", created=START + 1)
    fleet.step()
    assert fleet.request("b-first").state is RequestState.RUNNING
    assert _refusal(fleet, "a-later") == "a move of web is running (request b-first)."


def test_every_request_for_an_unknown_service_is_refused_in_one_cycle() -> None:
    fleet = Fleet().serving()
    for n, name in enumerate(("nonsense", "nonsense", "../../x\n")):
        fleet.asks(FAILOVER, f"r{n}", service=name)
    assert fleet.codes() == ["refused"] * 3
    assert fleet.request("r1").outcome == "nonsense is not a service of this fleet; its services are web."


def test_a_running_request_of_a_service_that_left_the_policy_is_cancelled() -> None:
    fleet = Fleet().serving().asks(FAILOVER, service="gone", state=RequestState.RUNNING)
    assert fleet.codes() == ["cancelled"]
    assert fleet.request("asked").outcome == "gone is not a service of this fleet any more"


def test_requests_are_refused_while_the_service_has_no_assignment() -> None:
    fleet = Fleet().pause().asks(FAILOVER)
    assert _refusal(fleet) == "web has no assignment yet, and automation is paused by op."


def test_a_message_in_the_old_format_that_names_the_recovered_instance_goes_there() -> None:
    fleet = Fleet().serving("second", kind=MoveKind.FAILOVER).runs("home")
    fleet.asks(FAILBACK, origin="message", target="home")
    assert fleet.codes() == ["failback"]
    assert fleet.assignment.active == "home"
