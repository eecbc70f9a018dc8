"""Which VM a service may go to, best first, and why the others may not."""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.decide.case import Case
from orchestrator.decide.cluster import obstacle_to_membership
from orchestrator.decide.sync import obstacle_to_promotion
from orchestrator.domain.records import Request

Obstacle = Callable[[Case, str], str | None]
"""Says why a VM may not take the service, or None."""


def obstacle_to_running(case: Case, vm: str) -> str | None:
    """Say why the service's unit should not be started on the VM, or None when it may be."""
    return obstacle_to_work(case, vm) or obstacle_to_membership(case.name, case.service, case.seen, vm)


def obstacle_to_work(case: Case, vm: str) -> str | None:
    """Say why nothing should be started on the VM, or None when it may be."""
    if not case.is_up(vm):
        return f"{vm} is down"
    if case.in_maintenance(vm):
        return f"{vm} is in maintenance"
    if not case.has_guard(vm):
        return f"the guard on {vm} does not run"
    return None


def obstacle_to_serving(case: Case, vm: str) -> str | None:
    """Say why the VM cannot serve now, whatever its copy of the service's data lacks, or None when it can."""
    obstacle = obstacle_to_running(case, vm)
    if obstacle is not None:
        return obstacle
    return f"{case.name} is failing its check on {vm}" if case.is_failed_on(vm) else None


def obstacle_on(case: Case, vm: str) -> str | None:
    """Say why the VM cannot take the service now, or None when it can."""
    return obstacle_to_serving(case, vm) or obstacle_to_promotion(case.name, case.service, case.seen, vm, case.now)


def obstacle_for(request: Request) -> Obstacle:
    """Return the question that decides where the request may go: an operator may accept that data is lost."""
    return obstacle_to_serving if request.accept_data_loss else obstacle_on


def obstacle_to_rotation(case: Case, vm: str) -> str | None:
    """As `obstacle_on`, and an overloaded VM is passed over too."""
    return obstacle_on(case, vm) or (f"{vm} is overloaded" if case.is_overloaded(vm) else None)


def candidates_for(case: Case, obstacle: Obstacle = obstacle_on) -> tuple[str, ...]:
    """Return the VMs other than the active that could take the service, best first.

    Those where it is healthy already come first (no play stands between them and the traffic), the designated VM
    before the others, then the order of the policy.
    """
    able = [vm for vm in case.service.order if vm != case.active and obstacle(case, vm) is None]
    return tuple(sorted(able, key=lambda vm: (not case.is_healthy_on(vm), vm != case.designated)))


def next_in_rotation(case: Case) -> str | None:
    """Return the next VM after the active in the circle of the order that may take the service, or None."""
    order = case.service.order
    start = order.index(case.active) if case.active in order else -1
    circle = [order[(start + step) % len(order)] for step in range(1, len(order) + 1)]
    able = (vm for vm in circle if vm != case.active and obstacle_to_rotation(case, vm) is None)
    return next(able, None)


def why_none(case: Case, obstacle: Obstacle = obstacle_on) -> str:
    """Say why no VM other than the active can take the service."""
    others = [vm for vm in case.service.order if vm != case.active]
    if not others:
        return f"no other VM is in the order of {case.name}"
    return ", ".join(filter(None, (obstacle(case, vm) for vm in others))) or "nothing stands in the way"
