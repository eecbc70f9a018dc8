"""Hot standbys: a service whose policy wants them has its unit started wherever one could run and does not.

In: the case of a service. Out: the starts that are due, the ends of those that run, and what is missing and why.
A start is a request of its own kind (`standby`) with one `activate` command. It is no move: the active goes on
serving, the epoch stays, and whatever moves the service supersedes it at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from orchestrator.decide.beside import (
    ENDED,
    LOOK_AGAIN_S,
    RECENT_S,
    End,
    Tended,
    ends_of,
    overtaken,
    pause_after,
    unfinished,
)
from orchestrator.decide.candidates import obstacle_to_running
from orchestrator.decide.case import Case, readable
from orchestrator.decide.diagnose import diagnosis
from orchestrator.decide.moves import case_reason, rule_request
from orchestrator.decide.plays import told_by_worker, trouble_of, wait_for
from orchestrator.decide.sync import whole_copies
from orchestrator.decide.writing import create, finished, new_command, of_case
from orchestrator.domain import keys
from orchestrator.domain.decision import Decision, Diagnosis, Put
from orchestrator.domain.records import CommandState, MoveKind, Play, Request, RequestKind, RequestState
from orchestrator.domain.view import Kept

# An instance that is being registered anew is absent for a moment, and a VM that boots starts its units by itself.
ABSENT_GRACE_S = 3.0
# systemd has its own try first: it may take as long to bring a unit back (`node.duty.RESTART_LIMIT_S`).
FAILED_GRACE_S = 10.0
STABLE_S = 30.0
"""A standby that stays healthy this long after its start shows that starting it works: what stops it later (its VM
that is cut off, an operator) is something new. One that dies sooner may do so each time."""


def missing_standbys(case: Case) -> tuple[str, ...]:
    """Return the VMs where a hot standby should be ready to take over, and is not.

    Ready is healthy and among the endpoints as a backup; of a replicated service: healthy and in sync.
    """
    there = case.healthy & (whole_copies(case.seen) if case.is_replicated else _backups(case))
    return tuple([vm for vm in case.hot_standbys if vm not in there and not case.in_maintenance(vm)])


def _backups(case: Case) -> frozenset[str]:
    endpoints = readable(case.seen.endpoints)
    return frozenset(row.vm for row in endpoints.value.endpoints if row.backup) if endpoints else frozenset()


def lacking_standbys(case: Case) -> tuple[str, ...]:
    """Return the VMs where a hot standby could run now and does not. Nothing lacks while the service is on the move."""
    if not case.hot_standbys or case.move is not None or not case.is_serving:
        return ()
    absent = [vm for vm in case.hot_standbys if vm not in case.healthy]
    return tuple([vm for vm in absent if obstacle_to_running(case, vm) is None and case.now_assigned.may_run_on(vm)])


def standby_meant(case: Case, request: Request) -> str:
    """Return the VM whose copy an operator wants replaced: of an order of two, the one that is not active."""
    return request.target or next(iter(case.hot_standbys), case.active)


def tend_standbys(case: Case, *, idle: bool) -> Tended:
    """Return what is done about the service's hot standbys, what is the matter with them, and when to look again.

    `idle`: nothing else is decided for the service in this cycle. Only then a start begins.
    """
    if not case.starts and not missing_standbys(case):
        return Tended()
    ended, wake_at = ends_of(
        case.starts,
        lambda request: _past(case, request) or _come_of(case, request),
        lambda kept, state, why: _ending(case, kept, state, why),
    )
    wakes = [] if wake_at is None else [wake_at]
    busy = {kept.value.target for kept in case.starts}
    due_now: list[str] = []
    for vm in case.lacking_since:
        if vm in busy or case.view.paused is not None:
            continue
        due = start_due_at(case, vm)
        if case.now < due or not idle:
            wakes.append(max(due, case.now + LOOK_AGAIN_S))
        else:
            due_now.append(vm)
    decisions = (*ended, *(_start(case, vm) for vm in due_now))
    return Tended(decisions, tuple(_diagnoses(case, due_now)), min(wakes, default=None))


# -- when ------------------------------------------------------------------------------------------------------------


def _vain_starts(case: Case, vm: str) -> tuple[Request, ...]:
    """Return the latest starts, oldest first, since the last that did good; without those that something cut short."""
    vain: list[Request] = []
    missed_at = case.lacking_since.get(vm, case.now)
    for request in reversed(case.view.ended_starts):
        is_start = request.kind is RequestKind.STANDBY and (request.service, request.target) == (case.name, vm)
        if not is_start or case.now - request.updated >= RECENT_S:
            continue
        if request.state not in (RequestState.SUCCEEDED, RequestState.FAILED):
            continue
        if request.state is RequestState.SUCCEEDED and missed_at - request.updated >= STABLE_S:
            break
        vain.insert(0, request)
        missed_at = request.times.get("detected", request.created)
    return tuple(vain)


def start_due_at(case: Case, vm: str) -> float:
    """Return when the missing standby is to be started: after a grace, and later each time it was started in vain.

    The starts are counted from their records, so a new leader waits as long as the one before.
    """
    grace_s = FAILED_GRACE_S if case.is_failed_on(vm) else ABSENT_GRACE_S
    due = case.lacking_since.get(vm, case.now) + grace_s
    vain = _vain_starts(case, vm)
    if not vain:
        return due
    return max(due, vain[-1].updated + pause_after(len(vain)))


# -- a start, from its beginning to its end ----------------------------------------------------------------------------


def _start(case: Case, vm: str) -> Decision:
    state = "fails its check" if case.is_failed_on(vm) else "does not run"
    reason = f"{case.name} {state} on {vm}, where it stands by hot"
    request = rule_request(case, RequestKind.STANDBY, vm, reason)
    request = request.with_(
        id=f"{request.id}-{vm}",
        epoch=case.now_assigned.epoch,
        times={"detected": case.lacking_since.get(vm, case.now), "decided": case.now},
    )
    command = new_command(case, request, Play.ACTIVATE, vm, case.now_assigned, MoveKind.STANDBY)
    command = command.with_(id=f"{command.id}-{vm}")
    return of_case(
        case,
        "standby",
        f"{reason}: it is started there.",
        Put(keys.request(request.id), request, 0),
        create(command),
        request=request,
        vm=vm,
        about=vm,
    )


def start_asked(case: Case, kept: Kept[Request]) -> Decision:
    """Return the start of the standby that an operator asked for, its copy being replaced where it must be.

    `admission` has said before that it may begin.
    """
    vm = standby_meant(case, kept.value)
    request = kept.value.with_(
        state=RequestState.RUNNING,
        target=vm,
        epoch=case.now_assigned.epoch,
        updated=case.now,
        times={**kept.value.times, "decided": case.now},
    )
    command = new_command(case, request, Play.ACTIVATE, vm, case.now_assigned, MoveKind.STANDBY)
    sentence = f"The copy of {case.name} on {vm} is replaced by a clone from {case.active}: {case_reason(request)}."
    put = Put(keys.request(request.id), request, kept.index)
    return of_case(case, "clone", sentence, put, create(command), request=request, vm=vm)


def _ending(case: Case, kept: Kept[Request], state: RequestState, why: str) -> Decision:
    vm = str(kept.value.target)
    sentence = f"The start of {case.name} as a hot standby on {vm} {ENDED[state]}: {why}."
    put = finished(case, kept, state, why)
    # By its request: two starts on one VM (a leader that died, a record put there by hand) may end in one cycle.
    about = kept.value.id
    return of_case(case, f"standby_{state.value}", sentence, put, request=kept.value, vm=vm, about=about)


def _past(case: Case, request: Request) -> End | float | None:
    """Say why nobody wants the start any more, or when to look again; None while it is wanted."""
    if (found := overtaken(case, request)) is not None:
        return found
    vm = str(request.target)
    if vm not in case.hot_standbys:
        return RequestState.CANCELLED, f"the policy has no hot standby of {case.name} on {vm}"
    if case.is_up(vm) and not case.in_maintenance(vm):
        # A guard that restarts meanwhile is no fault: the health that only it can tell of has its own limit.
        return None
    # Nothing that the start did: it is no reason to wait longer with the next one.
    return RequestState.CANCELLED, str(obstacle_to_running(case, vm))


def _come_of(case: Case, request: Request) -> End | float:
    """Say what came of the start, or until when it goes on at the latest."""
    vm = str(request.target)
    command = case.command_of(request, Play.ACTIVATE, vm)
    if command is None or not command.is_final:
        return unfinished(case, request, command)
    trouble = trouble_of(command)
    if trouble is not None:
        cancelled = command.state is CommandState.CANCELLED
        return RequestState.CANCELLED if cancelled else RequestState.FAILED, trouble
    if case.is_healthy_on(vm):
        return RequestState.SUCCEEDED, f"{case.name} is healthy there, {case.now - request.created:.1f} s after"
    until = told_by_worker(case, command, command.finished) + case.policy.dispatch.activation_timeout_s
    why = f"{command.playbook} succeeded, but {case.name} is not healthy on {vm}"
    return (RequestState.FAILED, why) if case.now >= until else until


# -- what is the matter ------------------------------------------------------------------------------------------------


def _diagnoses(case: Case, started: Sequence[str]) -> Iterator[Diagnosis]:
    """Say for each missing standby what is done, or why nothing is. While the service moves, the move is the matter."""
    if case.move is not None or not case.is_serving:
        return
    running = {kept.value.target: kept.value for kept in case.starts}
    for vm in missing_standbys(case):
        missing = f"{case.name} has no hot standby on {vm}"
        obstacle = obstacle_to_running(case, vm)
        begun = running.get(vm)
        if obstacle is not None:
            yield diagnosis("standby_missing", case.name, f"{missing}: {obstacle}.", because=obstacle)
        elif case.is_healthy_on(vm):
            doing = "replicates and is not in sync yet" if case.is_replicated else "is healthy and joins the endpoints"
            yield diagnosis("standby_missing", case.name, f"{missing} yet: it {doing}.")
        elif vm in started:
            yield diagnosis("standby_missing", case.name, f"{missing}: it is started there.", action="standby")
        elif begun is not None:
            yield diagnosis("standby_missing", case.name, f"{missing}: {_doing(case, begun)}.")
        elif case.view.paused is not None:
            why = f"automation is paused by {case.view.paused.by}"
            yield diagnosis("standby_missing", case.name, f"{missing}, and {why}.", because=why)
        else:
            yield _about_start(case, vm, missing)


def _about_start(case: Case, vm: str, missing: str) -> Diagnosis:
    left_s = max(0.0, start_due_at(case, vm) - case.now)
    vain = _vain_starts(case, vm)
    last = f"; start {len(vain)} {ENDED[vain[-1].state]} ({vain[-1].outcome})" if vain else ""
    return diagnosis("standby_missing", case.name, f"{missing}{last}; it is started in {left_s:.0f} s.")


def _doing(case: Case, request: Request) -> str:
    vm = str(request.target)
    command = case.command_of(request, Play.ACTIVATE, vm)
    if command is None or command.is_final:
        return f"it was started and is awaited to become healthy on {vm}"
    return wait_for(case, command).words
