"""May this request be carried out now? Asked by the CLI before it writes and by the leader before it acts.

In: the request, the view, the policy, the time. Out: one plain sentence that says why not and what would be
possible, or None. Pure. An operator's explicit request is admitted while automation is paused, while the service
is held by anti-flapping and where it is excluded from rotation: these bind only what orch does by itself.
"""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.decide.candidates import (
    candidates_for,
    next_in_rotation,
    obstacle_for,
    obstacle_to_rotation,
    obstacle_to_running,
    why_none,
)
from orchestrator.decide.case import Case, reachable_vms
from orchestrator.decide.standbys import standby_meant
from orchestrator.domain.policy import Policy
from orchestrator.domain.records import Request, RequestKind, RequestState
from orchestrator.domain.view import InstanceState, Unreadable, View


def refusal_of(request: Request, view: View, policy: Policy, now: float) -> str | None:
    """Say in one sentence why the request cannot be carried out now, or return None when it can.

    The request itself may or may not be in the view already; another running move of its service refuses it.
    """
    name = request.service
    if name not in policy.services:
        return f"{name} is not a service of this fleet; its services are {', '.join(policy.services)}."
    seen = view.services.get(name)
    kept = seen.assignment if seen else None
    if isinstance(kept, Unreadable):
        return f"the assignment of {name} in KV cannot be read ({kept.problem}); put that right first."
    if seen is None or kept is None:
        return f"{name} has no assignment yet; the leading controller makes the first one."
    if request.kind is RequestKind.INITIAL:
        return f"{name} is assigned already, to {kept.value.active}."
    case = Case(name, view, seen, policy, policy.services[name], kept, now, reachable_vms(view, policy))
    if request.kind is RequestKind.MEMBER:
        return f"the leading controller changes the cluster of {name} by itself; nobody asks for that."
    if request.kind is RequestKind.STANDBY:
        return _clone_refusal(request, case)
    return _acknowledge_refusal(case) if request.kind is RequestKind.ACKNOWLEDGE else _move_refusal(request, case)


def running_move(service: str, view: View, *, other_than: str = "") -> Request | None:
    """Return the running request that moves the service, if there is one besides `other_than`."""
    for kept in view.requests:
        request = kept.value
        if request.service == service and request.is_move and _runs(request) and request.id != other_than:
            return request
    return None


def _runs(request: Request) -> bool:
    return request.state is RequestState.RUNNING


def _acknowledge_refusal(case: Case) -> str | None:
    return None if case.hold_is_in_force else f"{case.name} is not held, so there is nothing to acknowledge."


def _clone_refusal(request: Request, case: Case) -> str | None:
    if not case.is_replicated:
        return f"{case.name} has no data whose copy could be replaced."
    vm = standby_meant(case, request)
    if vm == case.active:
        return f"{case.name} is active on {vm}: its copy there is the one that the other is cloned from."
    if vm not in case.hot_standbys:
        return f"{case.name} has no copy on {vm}; it has one on {' and '.join(case.service.order)}."
    busy = running_move(case.name, case.view, other_than=request.id) or running_start(case.name, vm, case.view)
    if busy is not None and busy.id != request.id:
        return (
            f"{case.name} is busy with the {busy.kind.value} on {busy.target} (request {busy.id}); its copy can be "
            "replaced when that one has ended."
        )
    if case.is_healthy_on(vm):
        return f"the copy of {case.name} on {vm} replicates; there is nothing to replace."
    if not case.is_serving:
        return f"{case.name} is not served by {case.active} now, so nothing can be cloned from there."
    obstacle = obstacle_to_running(case, vm)
    return f"{obstacle}, so the copy there cannot be replaced." if obstacle is not None else None


def running_start(service: str, vm: str, view: View) -> Request | None:
    """Return the running request that has the service's standby on the VM started, if there is one."""
    for kept in view.requests:
        request = kept.value
        is_start = request.kind is RequestKind.STANDBY and (request.service, request.target) == (service, vm)
        if is_start and _runs(request):
            return request
    return None


def _move_refusal(request: Request, case: Case) -> str | None:
    busy = running_move(case.name, case.view, other_than=request.id)
    if busy is not None:
        return (
            f"{case.name} is being moved already ({busy.kind.value}, request {busy.id}); "
            "it can be moved again when that one has ended."
        )
    why = _REFUSAL_BY_KIND[request.kind](request, case)
    if why is None and not case.is_down and not case.has_guard(case.active):
        why = f"the guard on {case.active} does not run, so {case.active} could not hand {case.name} over."
    return why


def _failover_refusal(request: Request, case: Case) -> str | None:
    if request.failed_instance and request.failed_instance != case.active:
        return (
            f"{case.name} is not active on {request.failed_instance} (it is on {case.active}), "
            "so there is nothing to move."
        )
    if request.accept_data_loss and not case.is_replicated:
        return f"{case.name} has no data that could be lost; ask without accepting any loss."
    if request.target is not None:
        return _target_refusal(request.target, case, request)
    obstacle = obstacle_for(request)
    if not candidates_for(case, obstacle):
        return f"{case.name} has no VM to go to: {why_none(case, obstacle)}."
    return None


def _failback_refusal(request: Request, case: Case) -> str | None:
    home = case.service.home
    target = request.target or home
    if target != case.active or target != home:
        return _target_refusal(target, case, request)
    if case.now_assigned.designated == home:
        return f"{case.name} is at home already: active and designated on {home}."
    return None


def _rotation_refusal(request: Request, case: Case) -> str | None:
    if next_in_rotation(case) is not None:
        return None
    return f"{case.name} cannot be rotated away from {case.active}: {why_none(case, obstacle_to_rotation)}."


_REFUSAL_BY_KIND: dict[RequestKind, Callable[[Request, Case], str | None]] = {
    RequestKind.FAILOVER: _failover_refusal,
    RequestKind.FAILBACK: _failback_refusal,
    RequestKind.ROTATION: _rotation_refusal,
}


def _target_refusal(target: str, case: Case, request: Request) -> str | None:
    if target not in case.policy.vms:
        return f"{target} is not a VM of this fleet; {_possible(case)}."
    if target not in case.service.order:
        order = ", ".join(case.service.order)
        return f"{case.name} may not run on {target}, its order is {order}; {_possible(case)}."
    # A copy that nobody knows to be whole is promoted where it is, too, on an operator's word.
    if target == case.active and not (request.accept_data_loss and case.is_unready):
        return f"{case.name} is already active on {target}; {_possible(case)}."
    obstacle = obstacle_for(request)(case, target)
    if obstacle is not None:
        return f"{obstacle}{_output_of_check(target, case)}, so {case.name} cannot go there; {_possible(case)}."
    return None


def _possible(case: Case) -> str:
    """What would be possible instead, as the second half of a refusal."""
    able = candidates_for(case)
    if able:
        return f"it can go from {case.active} to {' or '.join(able)}"
    return f"it can go nowhere from {case.active}: {why_none(case)}"


def _output_of_check(vm: str, case: Case) -> str:
    """The failing check's own words in one line, so that the reader need not look them up."""
    instance = case.seen.instances.get(vm)
    if instance is None or instance.state is not InstanceState.FAILED or not instance.output.strip():
        return ""
    return f" ({' '.join(instance.output.split())[:200]})"
