"""How a running move goes on, step by step, each derived from what is seen: a leader that dies leaves nothing behind.

In: the case and its running request. Out: the next step (None: wait), what the matter is, when to look again.
Every wait has its end, whatever dies meanwhile.
"""

from __future__ import annotations

from orchestrator.decide.case import Case
from orchestrator.decide.endpoints import endpoints_are_current, put_endpoints
from orchestrator.decide.moves import assign, case_reason
from orchestrator.decide.plays import told_by_worker, trouble_of, wait_for
from orchestrator.decide.sync import loss_told
from orchestrator.decide.writing import create, finished, new_command, of_case, put_assignment, put_request
from orchestrator.domain.decision import Change, Decision, Diagnosis
from orchestrator.domain.records import Command, CommandState, Play, Request, RequestState
from orchestrator.domain.view import Kept

Step = tuple[Decision | None, Diagnosis, float | None]


def progress(case: Case, kept: Kept[Request]) -> Step:
    """Return the next step of the running move (None: wait), what the matter is, and when to look again."""
    request = kept.value
    epoch = case.now_assigned.epoch
    if request.epoch is not None and request.epoch > epoch:
        waits = f"its assignment of epoch {request.epoch} has not been seen yet"
        return None, _moving(case, request, None, waits), None
    if request.epoch is not None and request.epoch < epoch:
        ended = of_case(
            case,
            "superseded",
            f"The {request.kind.value} of {case.name} to {request.target} was overtaken by epoch {epoch}.",
            finished(case, kept, RequestState.SUPERSEDED, f"overtaken by epoch {epoch}"),
            request=request,
        )
        return ended, _moving(case, request, "superseded"), None
    if request.epoch is None:
        return _progress_preparing(case, kept)
    if not case.is_serving:
        return _progress_taking_over(case, kept)
    return _progress_settling(case, kept)


def _moving(case: Case, request: Request, action: str | None, waits: str | None = None) -> Diagnosis:
    sentence = f"{case.name} is moving to {request.target} ({request.kind.value})"
    return Diagnosis("moving", case.name, f"{sentence}: {waits}." if waits else f"{sentence}.", action, waits)


def _fail(case: Case, kept: Kept[Request], why: str, state: RequestState = RequestState.FAILED) -> Decision:
    request = kept.value
    stays = ""
    if request.epoch is None:
        stays = f"; it stays on {case.active}"
    elif case.is_serving:
        stays = f"; {case.name} is served by {case.active} all the same"
    return of_case(
        case,
        state.value,
        f"The {request.kind.value} of {case.name} to {request.target} ended: {why}{stays}.",
        finished(case, kept, state, f"{why}{stays}"),
        request=request,
        vm=request.target,
    )


def _end_of(command: Command) -> RequestState:
    return RequestState.CANCELLED if command.state is CommandState.CANCELLED else RequestState.FAILED


def _play_trouble(case: Case, kept: Kept[Request], command: Command | None) -> Decision | None:
    """Return the request's end where its activate play ended badly."""
    trouble = trouble_of(command) if command is not None else None
    return _fail(case, kept, trouble, _end_of(command)) if command is not None and trouble is not None else None


def _healthy_until(case: Case, request: Request, command: Command | None) -> float:
    """Until when the target must be healthy with the lock."""
    return _began(case, request, command) + case.policy.dispatch.activation_timeout_s


def _began(case: Case, request: Request, command: Command | None) -> float:
    """Since when nothing but the target itself is waited for."""
    assigned = request.times.get("assigned", request.updated)
    return max(assigned, told_by_worker(case, command, command.finished)) if command else assigned


def _believed_from(case: Case, request: Request, command: Command | None) -> float:
    """From when a failing check of the target counts: after a play its checks need a while to turn passing."""
    check = case.service.check
    return _began(case, request, command) + (
        check.interval_s * (check.failures_before_critical + 1) if command else 0.0
    )


def _waiting_for_play(case: Case, kept: Kept[Request], command: Command) -> Step:
    wait = wait_for(case, command)
    if case.now >= wait.until:
        return _fail(case, kept, wait.why), _moving(case, kept.value, "failed"), None
    return None, _moving(case, kept.value, None, wait.words), wait.until


def _progress_preparing(case: Case, kept: Kept[Request]) -> Step:
    request, target = kept.value, str(kept.value.target)
    command = case.command_of(request, Play.ACTIVATE, target)
    if case.is_down and case.active not in case.doubts:
        why = f"{case.active} failed while {target} was being prepared"
        return _fail(case, kept, why, RequestState.SUPERSEDED), _moving(case, request, "superseded"), None
    if case.is_lost(target) or case.in_maintenance(target):
        why = f"{target} {'went down' if case.is_lost(target) else 'went into maintenance'} while it was being prepared"
        return _fail(case, kept, why), _moving(case, request, "failed"), None
    trouble = _play_trouble(case, kept, command)
    if trouble is not None:
        return trouble, _moving(case, request, trouble.code), None
    if command is not None and not command.is_final:
        return _waiting_for_play(case, kept, command)
    ready, hands_over = case.is_healthy_on(target), case.has_guard(case.active)
    if ready and hands_over:
        moved = assign(case, kept, request, case_reason(request))
        return moved, _moving(case, request, moved.code), None
    until = _healthy_until(case, request, command)
    if case.now >= until:
        why = f"the guard on {case.active} does not run" if ready else f"{target} was started but is not healthy"
        return _fail(case, kept, why), _moving(case, request, "failed"), None
    waits = f"the guard on {case.active} to run again" if ready else f"{target} to become healthy"
    return None, _moving(case, request, None, f"waiting for {waits}"), until


def _progress_taking_over(case: Case, kept: Kept[Request]) -> Step:
    request, target = kept.value, case.active
    command = case.command_of(request, Play.ACTIVATE, target)
    if case.is_lost(target):
        return _fail(case, kept, f"{target} went down too"), _moving(case, request, "failed"), None
    trouble = _play_trouble(case, kept, command)
    if trouble is not None and not case.is_healthy_on(target):
        return trouble, _moving(case, request, trouble.code), None
    if command is not None and not command.is_final:
        return _waiting_for_play(case, kept, command)
    failing = case.is_failed_on(target)
    until = _believed_from(case, request, command) if failing else _healthy_until(case, request, command)
    if case.now >= until:
        trouble_is = f"{case.name} is failing its check" if failing else "it did not become healthy with the role lock"
        return _fail(case, kept, f"{trouble_is} on {target}"), _moving(case, request, "failed"), None
    waits = "pass its check" if failing else "take the role lock"
    return None, _moving(case, request, None, f"waiting for {target} to {waits}"), until


def _progress_settling(case: Case, kept: Kept[Request]) -> Step:
    """The target serves: point the traffic at it, let the previous active drain, stop it, be done."""
    request = kept.value
    if not endpoints_are_current(case):
        return _point_traffic(case, kept), _moving(case, request, "endpoints"), None
    broke = _break(case, kept)
    if isinstance(broke, float):
        return None, _moving(case, request, None, f"{request.previous} is draining"), broke
    if broke is not None:
        return broke, _moving(case, request, "break"), None
    waiting = next((command for command in case.commands_of(request) if not command.is_final), None)
    if waiting is not None:
        return _waiting_for_play(case, kept, waiting)
    return _succeed(case, kept), _moving(case, request, "succeeded"), None


def _point_traffic(case: Case, kept: Kept[Request]) -> Decision:
    request = kept.value
    lock = case.seen.lock
    locked = lock.value.at if lock and lock.value and lock.value.at else case.now
    times = {**request.times, "locked": locked, "endpoints": case.now}
    changes: list[Change] = [
        put_endpoints(case),
        put_request(kept, times=times, updated=case.now),
    ]
    if case.command_of(request, Play.ACTIVATE, case.active) is None:
        kind = case.now_assigned.kind
        changes.append(create(new_command(case, request, Play.ACTIVATE, case.active, case.now_assigned, kind)))
    return of_case(
        case,
        "endpoints",
        f"{case.active} holds the role lock of {case.name} at epoch {case.now_assigned.epoch}: "
        "traffic is pointed at it.",
        *changes,
        request=request,
        vm=case.active,
    )


def _break(case: Case, kept: Kept[Request]) -> Decision | float | None:
    """Return the decision that stops the previous active, or when its drain ends, or None when nothing is left."""
    request, previous = kept.value, kept.value.previous
    if previous is None or previous == case.active:
        return None
    wanted = case.standbys_wanted(case.active, case.designated)
    is_welcome = previous in wanted or previous == case.designated
    already = case.command_of(request, Play.DEACTIVATE, previous) is not None
    if already or (is_welcome and case.now_assigned.standbys == wanted):
        return None
    if previous not in case.now_assigned.standbys and not case.is_up(previous):
        return None
    drained_at = request.times.get("endpoints", request.updated) + case.policy.drain_s
    if previous in case.now_assigned.standbys and case.now < drained_at:
        return drained_at
    changes: list[Change] = []
    if case.now_assigned.standbys != wanted:
        changes.append(put_assignment(case, standbys=wanted))
    stops_it = not is_welcome and case.is_up(previous)
    if stops_it:
        kind = case.now_assigned.kind
        changes.append(create(new_command(case, request, Play.DEACTIVATE, previous, case.now_assigned, kind)))
    does = "it is stopped there" if stops_it else "it stays as a standby" if is_welcome else "it is down there"
    sentence = f"{previous} has drained {case.name}: {does}."
    return of_case(case, "break", sentence, *changes, request=request, vm=previous) if changes else None


def _succeed(case: Case, kept: Kept[Request]) -> Decision:
    request = kept.value
    took_s = request.times.get("endpoints", case.now) - request.times.get("decided", request.created)
    bad = [c for c in case.commands_of(request) if c.state is not CommandState.SUCCEEDED]
    remark = "".join(f"; but {c.playbook} on {c.target} {c.state.value}: {c.reason}" for c in bad)
    told = loss_told(request, case.seen)
    lost = f"; {told}" if told else ""
    outcome = f"{case.name} is served by {case.active}, {took_s:.2f} s after the decision{lost}{remark}"
    return of_case(
        case,
        "succeeded",
        f"The {case.now_assigned.kind.value} of {case.name} is done: {outcome}.",
        finished(case, kept, RequestState.SUCCEEDED, outcome),
        request=request,
        vm=case.active,
    )
