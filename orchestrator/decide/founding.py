"""A service without a readable assignment: the first one, or the last good one written back."""

from __future__ import annotations

from orchestrator.decide.diagnose import diagnosis
from orchestrator.decide.writing import decision, stamp
from orchestrator.domain import keys
from orchestrator.domain.decision import Decision, Diagnosis, Memory, Put
from orchestrator.domain.policy import Policy
from orchestrator.domain.records import (
    Assignment,
    Command,
    MoveKind,
    Play,
    Request,
    RequestKind,
    RequestState,
)
from orchestrator.domain.view import Reach, ServiceView, Unreadable, View

Step = tuple[Decision | None, Diagnosis]


def _first_vm(view: View, order: tuple[str, ...]) -> str | None:
    return next(
        (vm for vm in order if view.vms[vm].reach is Reach.UP and view.vms[vm].maintenance is None),
        None,
    )


def consider_founding(name: str, view: View, policy: Policy, now: float) -> Step:
    """Return the first assignment of the service: its home, or the first VM of the order that is up."""
    service = policy.services[name]
    if view.paused is not None:
        why = f"automation is paused by {view.paused.by}"
        return None, diagnosis("unassigned", name, f"{name} has no assignment, and {why}.", because=why)
    vm = _first_vm(view, service.order)
    if vm is None:
        why = "no VM of its order is up"
        return None, diagnosis("unassigned", name, f"{name} has no assignment, and {why}.", because=why)
    standbys = tuple(v for v in service.order[1:] if v != vm) if service.standby == "hot" else ()
    sentence = f"{name} is assigned for the first time, to {vm} (epoch 1)."
    request = Request(
        id=f"{stamp(now)}-{name}-initial",
        kind=RequestKind.INITIAL,
        service=name,
        target=vm,
        reason="first assignment",
        state=RequestState.RUNNING,
        created=now,
        updated=now,
        epoch=1,
        times={"decided": now, "assigned": now},
    )
    assignment = Assignment(
        service=name,
        active=vm,
        designated=service.home,
        standbys=standbys,
        epoch=1,
        since=now,
        kind=MoveKind.INITIAL,
        reason="first assignment",
        request_id=request.id,
    )
    command = Command(
        id=f"{stamp(now)}-{name}-{Play.ACTIVATE.value}-e1",
        request_id=request.id,
        service=name,
        kind=MoveKind.INITIAL,
        play=Play.ACTIVATE,
        playbook=service.activate,
        target=vm,
        enable_at_boot=vm == service.home,
        unit=service.unit,
        epoch=1,
        created=now,
    )
    changes = (
        Put(keys.assignment(name), assignment, 0),
        Put(keys.request(request.id), request, 0),
        Put(keys.command(command.id), command, 0),
    )
    made = decision("initial", now, sentence, changes, service=name, epoch=1, request_id=request.id, vm=vm)
    return made, diagnosis("unassigned", name, sentence, action="initial")


def consider_repair(name: str, bad: Unreadable, seen: ServiceView, memory: Memory, policy: Policy, now: float) -> Step:
    """Return the restoration of an assignment that cannot be read: the last good one, else what the lock tells."""
    good = memory.last_good.get(name) or _from_lock(name, seen, policy, now)
    problem = f"the assignment of {name} in KV cannot be read ({bad.problem})"
    if good is None:
        why = "no good one is known: nothing moves until an operator writes it back"
        return None, diagnosis("assignment_unreadable", name, f"{problem}, and {why}.", because=why)
    sentence = f"{problem}; the last good one (active {good.active}, epoch {good.epoch}) is written back."
    put = Put(keys.assignment(name), good, bad.index)
    made = decision("repaired", now, sentence, (put,), service=name, epoch=good.epoch)
    return made, diagnosis("assignment_unreadable", name, sentence, action="repaired")


def _from_lock(name: str, seen: ServiceView, policy: Policy, now: float) -> Assignment | None:
    lock, service = seen.lock, policy.services[name]
    if lock is None or lock.holder is None or lock.value is None or lock.value.epoch < 1:
        return None
    return Assignment(
        service=name,
        active=lock.holder,
        designated=service.home,
        epoch=lock.value.epoch,
        since=now,
        kind=MoveKind.INITIAL,
        reason="restored from the role lock",
    )
