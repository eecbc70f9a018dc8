"""`refusal_of`: what the CLI and the leader refuse alike. What an operator can ask for is tested in tests/unit/cli."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import pytest

from orchestrator.decide.admission import refusal_of
from orchestrator.domain import keys
from orchestrator.domain.policy import Policy
from orchestrator.domain.records import Assignment, MoveKind, Paused, Request, RequestKind, RequestState
from orchestrator.domain.view import InstanceState, InstanceView, Kept, Reach, ServiceView, Unreadable, View, VmView

NOW = 1_700_000_000.0
CHECK = {"kind": "tcp"}
ROLES = {"roles": ["controller", "worker"]}
POLICY = Policy.model_validate(
    {
        "vms": {vm: {"address": f"10.0.0.{n}", **ROLES} for n, vm in enumerate(("home", "second"))},
        "services": {
            "web": {
                "order": ["home", "second"],
                "unit": "web",
                "port": 80,
                "check": CHECK,
                "activate": "activate_web.yml",
                "deactivate": "deactivate_web.yml",
            }
        },
        "rotation": {"exclude_services": ["web"]},
    }
)


def assigned(active: str = "home", **changes: Any) -> Kept[Assignment]:
    fields: dict[str, Any] = {"service": "web", "active": active, "designated": "home", "epoch": 1, "since": NOW}
    return Kept(Assignment(**(fields | {"kind": MoveKind.INITIAL, "reason": "r"} | changes)), 5)


def view_of(
    assignment: Kept[Assignment] | Unreadable | None, *requests: Request, paused: Paused | None = None, **reach: Reach
) -> View:
    vms = {vm: VmView(vm, reach.get(vm, Reach.UP)) for vm in ("home", "second")}
    active = assignment.value.active if isinstance(assignment, Kept) else "home"
    instances = {active: InstanceView(active, InstanceState.HEALTHY)}
    web = ServiceView("web", assignment=assignment, instances=MappingProxyType(instances))
    kept = tuple(Kept(request, 1) for request in requests)
    return View(MappingProxyType(vms), MappingProxyType({"web": web}), requests=kept, paused=paused)


def asked(kind: RequestKind, **changes: Any) -> Request:
    fields: dict[str, Any] = {"id": "1", "kind": kind, "service": "web", "created": NOW, "updated": NOW}
    return Request(**(fields | changes))


def test_a_message_about_an_instance_that_is_not_active_is_refused() -> None:
    request = asked(RequestKind.FAILOVER, failed_instance="second", origin="message")
    assert refusal_of(request, view_of(assigned("home")), POLICY, NOW) == (
        "web is not active on second (it is on home), so there is nothing to move."
    )


def test_a_message_about_the_active_instance_is_admitted() -> None:
    request = asked(RequestKind.FAILOVER, failed_instance="home", origin="message")
    assert refusal_of(request, view_of(assigned("home")), POLICY, NOW) is None


def test_a_message_may_bring_a_service_back_to_a_recovered_instance_that_is_not_home() -> None:
    request = asked(RequestKind.FAILBACK, target="second", origin="message")
    assert refusal_of(request, view_of(assigned("home")), POLICY, NOW) is None


def test_a_failback_of_a_service_that_is_home_but_designated_elsewhere_is_admitted() -> None:
    assert refusal_of(asked(RequestKind.FAILBACK), view_of(assigned("home", designated="second")), POLICY, NOW) is None


@pytest.mark.parametrize("kind", [RequestKind.FAILOVER, RequestKind.ROTATION])
def test_pause_hold_and_exclusion_bind_no_explicit_request(kind: RequestKind) -> None:
    view = view_of(assigned("home", hold_until=NOW + 600), paused=Paused(by="ana", at=NOW))
    assert refusal_of(asked(kind), view, POLICY, NOW) is None


def test_a_held_service_can_be_acknowledged_until_the_hold_is_over() -> None:
    request, view = asked(RequestKind.ACKNOWLEDGE), view_of(assigned("home", hold_until=NOW + 600))
    assert refusal_of(request, view, POLICY, NOW) is None
    assert refusal_of(request, view, POLICY, NOW + 600) == "web is not held, so there is nothing to acknowledge."


def test_a_request_is_not_refused_because_of_itself() -> None:
    running = asked(RequestKind.FAILOVER, state=RequestState.RUNNING)
    assert refusal_of(running, view_of(assigned("home"), running), POLICY, NOW) is None


def test_a_service_without_an_assignment_cannot_be_moved_yet() -> None:
    assert refusal_of(asked(RequestKind.FAILOVER), view_of(None), POLICY, NOW) == (
        "web has no assignment yet; the leading controller makes the first one."
    )


def test_an_assignment_that_cannot_be_read_is_never_taken_for_absent() -> None:
    broken = Unreadable(keys.assignment("web"), 5, "it is no JSON")
    assert refusal_of(asked(RequestKind.FAILOVER), view_of(broken), POLICY, NOW) == (
        "the assignment of web in KV cannot be read (it is no JSON); put that right first."
    )


def test_a_service_whose_active_vm_is_down_can_be_moved_although_its_guard_cannot_hand_over() -> None:
    assert refusal_of(asked(RequestKind.FAILOVER), view_of(assigned("home"), home=Reach.DOWN), POLICY, NOW) is None


def test_with_every_other_vm_down_the_refusal_says_so() -> None:
    view = view_of(assigned("home"), second=Reach.DOWN)
    assert refusal_of(asked(RequestKind.FAILOVER), view, POLICY, NOW) == "web has no VM to go to: second is down."
