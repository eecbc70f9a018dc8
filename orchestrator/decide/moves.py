"""How a move starts: at once where the active is down or the target runs, else the target is prepared first.

docs/architecture.md, "How a move goes", has the steps. A move is a request in state running; its `epoch` is absent
while the target of a planned move is being prepared, and is the assignment's epoch from then on. How it goes on is
in `progress`.
"""

from __future__ import annotations

from orchestrator.decide.case import Case
from orchestrator.decide.sync import loss_of, sync_unchanged
from orchestrator.decide.writing import create, new_command, of_case, put_assignment
from orchestrator.domain import keys
from orchestrator.domain.decision import Change, Decision, Put
from orchestrator.domain.ids import timed_id
from orchestrator.domain.records import MoveKind, Play, Request, RequestKind, RequestState
from orchestrator.domain.view import Kept

KIND_OF_REQUEST = {
    RequestKind.INITIAL: MoveKind.INITIAL,
    RequestKind.FAILOVER: MoveKind.SWITCHOVER,
    RequestKind.FAILBACK: MoveKind.FAILBACK,
    RequestKind.ROTATION: MoveKind.ROTATION,
}


def rule_request(case: Case, kind: RequestKind, target: str, reason: str, redesignate: bool = False) -> Request:
    """Return the request that a rule of the controller makes for itself."""
    return Request(
        id=timed_id(case.now, case.name, kind.value),
        kind=kind,
        service=case.name,
        target=target,
        reason=reason,
        redesignate=redesignate,
        state=RequestState.RUNNING,
        created=case.now,
        updated=case.now,
        times={"detected": case.view.observed_at or case.now},
    )


def _put_started(kept: Kept[Request] | None, request: Request) -> Put:
    return Put(keys.request(request.id), request, kept.index if kept else 0)


def start(
    case: Case, request: Request, target: str, reason: str, *extra: Change, kept: Kept[Request] | None = None
) -> Decision:
    """Return the first step of a move: at once where the active is down or the target runs, else prepare it.

    `kept` is the pending request of an operator, or None when the rule's request is new. `extra` are writes that
    belong to the same transaction (a consumed trigger, the rotation's state).
    """
    running = request.with_(
        state=RequestState.RUNNING,
        target=target,
        previous=case.active,
        loss=loss_of(case.name, case.service, case.seen, target, case.now) if request.accept_data_loss else None,
        updated=case.now,
        times={**request.times, "decided": case.now},
    )
    if case.is_down or case.is_healthy_on(target):
        return assign(case, kept, running, reason, *extra)
    return _prepare(case, kept, running, reason, *extra)


def _designated_after(case: Case, request: Request, target: str) -> str:
    return target if request.redesignate else case.designated


def kind_of(case: Case, request: Request) -> MoveKind:
    """Return what this move is: any move away from an active that is down is a failover, as is one by a rule."""
    by_rule = request.kind is RequestKind.FAILOVER and request.origin == "rule"
    if by_rule or (case.is_down and request.kind is not RequestKind.INITIAL):
        return MoveKind.FAILOVER
    return KIND_OF_REQUEST.get(request.kind, MoveKind.SWITCHOVER)


def _kind_kept(case: Case, kind: MoveKind, target: str) -> MoveKind:
    """Return the kind for the assignment: data without a record yet, restarted where it is founded, is still founded.

    Only by that its guard knows that no other copy can hold anything.
    """
    unrecorded = case.is_replicated and case.seen.sync is None and target == case.active
    return MoveKind.INITIAL if unrecorded and case.now_assigned.kind is MoveKind.INITIAL else kind


def _prepare(case: Case, kept: Kept[Request] | None, request: Request, reason: str, *extra: Change) -> Decision:
    target = str(request.target)
    standbys = tuple(dict.fromkeys((*case.now_assigned.standbys, target)))
    redesignated = case.now_assigned.with_(designated=_designated_after(case, request, target))
    command = new_command(case, request, Play.ACTIVATE, target, redesignated, kind_of(case, request))
    return of_case(
        case,
        f"{kind_of(case, request).value}_prepare",
        f"Preparing {case.name} on {target} before it takes over from {case.active}: {reason}.",
        put_assignment(case, standbys=standbys),
        _put_started(kept, request),
        create(command),
        *extra,
        request=request,
        vm=target,
    )


def _recent_failovers(case: Case) -> tuple[float, ...]:
    window_s = case.policy.flapping.window_s
    return tuple(t for t in case.now_assigned.failovers if case.now - t < window_s)


def _is_new_to(case: Case, designated: str) -> bool:
    """Say whether the VM that will be designated has not served the service yet, as far as its assignments tell."""
    if designated != case.now_assigned.designated:
        return True
    has_served_now = case.active == designated and case.has_had_traffic
    return case.now_assigned.designated_is_new and not has_served_now


def assign(case: Case, kept: Kept[Request] | None, request: Request, reason: str, *extra: Change) -> Decision:
    """Return the step that makes the target active under the next epoch. A healthy previous active drains."""
    target = str(request.target)
    kind = kind_of(case, request)
    designated = _designated_after(case, request, target)
    wanted = case.standbys_wanted(target, designated)
    drains = () if case.is_down or case.active == target else (case.active,)
    failovers = _recent_failovers(case)
    assignment = case.now_assigned.with_(
        active=target,
        designated=designated,
        standbys=tuple(dict.fromkeys((*wanted, *drains))),
        epoch=case.now_assigned.epoch + 1,
        since=case.now,
        kind=_kind_kept(case, kind, target),
        reason=reason,
        previous=case.active,
        request_id=request.id,
        designated_is_new=_is_new_to(case, designated),
        accepts_data_loss=request.accept_data_loss,
        failovers=(*failovers, case.now) if kind is MoveKind.FAILOVER and request.origin == "rule" else failovers,
        hold_until=case.now_assigned.hold_until if case.hold_is_in_force else None,
    )
    moved = request.with_(epoch=assignment.epoch, times={**request.times, "assigned": case.now})
    changes: list[Change] = [
        Put(keys.assignment(case.name), assignment, case.assignment.index),
        _put_started(kept, moved),
        *(() if request.accept_data_loss else sync_unchanged(case.name, case.seen)),
    ]
    if not case.is_healthy_on(target) and case.command_of(request, Play.ACTIVATE, target) is None:
        changes.append(create(new_command(case, moved, Play.ACTIVATE, target, assignment, kind)))
    return of_case(
        case,
        kind.value,
        f"Moving {case.name} from {case.active} to {target} (epoch {assignment.epoch}): {reason}.",
        *changes,
        *extra,
        request=moved,
        vm=target,
    )


def case_reason(request: Request) -> str:
    """Return why the request was made, for sentences."""
    return request.reason or f"asked for by {request.origin}"
