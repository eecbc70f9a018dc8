"""A service without a readable assignment: the last one written back, or the first one.

An assignment that was deleted or overwritten has left traces: what this leader remembers, the running request that
wrote it, the role lock, the endpoints. From these it is restored; the epoch never goes back.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.decide.case import index_of, readable
from orchestrator.decide.diagnose import diagnosis
from orchestrator.decide.requests import refused
from orchestrator.decide.writing import clone_by, decision
from orchestrator.domain import keys
from orchestrator.domain.decision import Decision, Diagnosis, Put
from orchestrator.domain.ids import timed_id
from orchestrator.domain.policy import Policy, ServicePolicy
from orchestrator.domain.records import (
    Assignment,
    Command,
    MoveKind,
    Play,
    Request,
    RequestKind,
    RequestState,
)
from orchestrator.domain.view import Kept, Reach, ServiceView, Unreadable, View

Step = tuple[Decision | None, Diagnosis]


@dataclass(frozen=True, slots=True)
class Unfounded:
    """A service whose assignment is absent or cannot be read."""

    name: str
    view: View
    seen: ServiceView
    policy: Policy
    good: Assignment | None
    """The last readable assignment that this leader saw."""
    now: float
    requests: tuple[Kept[Request], ...] = ()

    @property
    def service(self) -> ServicePolicy:
        """The service's policy."""
        return self.policy.services[self.name]

    def is_up(self, vm: str) -> bool:
        """Say whether gossip reaches the VM."""
        seen = self.view.vms.get(vm)
        return seen is not None and seen.reach is Reach.UP


@dataclass(frozen=True, slots=True)
class _Trace:
    """What shows that the VM was active at the epoch. `exact`: no later epoch can have been written."""

    epoch: int
    exact: bool
    vm: str
    source: str


def consider_unfounded(case: Unfounded) -> Step:
    """Return the first step towards an assignment, or why there is none; meanwhile requests are refused."""
    step, found = _restored(case) or _founded(case)
    asked = next((kept for kept in case.requests if kept.value.state is RequestState.PENDING), None)
    if step is None and asked is not None:
        return refused(asked, found.sentence, case.now), found
    return step, found


def _traces(case: Unfounded) -> Iterator[_Trace]:
    for kept in case.requests:
        request = kept.value
        moved = request.is_move and request.state is RequestState.RUNNING
        if moved and request.epoch is not None and request.target is not None:
            yield _Trace(request.epoch, True, request.target, f"the running request {request.id}")
    lock = case.seen.lock
    if lock is not None and lock.holder is not None and lock.value is not None:
        yield _Trace(lock.value.epoch, True, lock.holder, "the holder of its role lock")
    endpoints = readable(case.seen.endpoints)
    if endpoints is not None:
        yield _Trace(endpoints.value.epoch, False, endpoints.value.endpoints[0].vm, "its endpoints")
    if case.good is not None:
        yield _Trace(case.good.epoch, False, case.good.active, "the last good one")


def _restored(case: Unfounded) -> Step | None:
    """Return the restoration of the assignment, or why there can be none; None where there never was one."""
    bad = case.seen.assignment
    newest = max(_traces(case), key=lambda trace: (trace.epoch, trace.exact), default=None)
    problem = f"The assignment of {case.name} in KV " + (
        f"cannot be read ({bad.problem})" if isinstance(bad, Unreadable) else "is gone"
    )
    if isinstance(bad, Unreadable) and bad.is_newer:
        why = "a controller of that release is to lead: bring this one's VM up to date"
        return None, diagnosis("assignment_unreadable", case.name, f"{problem}, so it is left alone.", because=why)
    if newest is None or newest.epoch < 1:
        if bad is None:
            return None
        why = "no good one is known: nothing moves until an operator writes it back"
        return None, diagnosis("assignment_unreadable", case.name, f"{problem}, and {why}.", because=why)
    good = _assignment_from(newest, case)
    sentence = f"{problem}; it is restored from {newest.source}: active {good.active}, epoch {good.epoch}."
    put = Put(keys.assignment(case.name), good, index_of(bad))
    made = decision("repaired", case.now, sentence, (put,), service=case.name, epoch=good.epoch)
    return made, diagnosis("assignment_unreadable", case.name, sentence, action="repaired")


def _assignment_from(newest: _Trace, case: Unfounded) -> Assignment:
    if case.good is not None and case.good.epoch == newest.epoch:
        return case.good
    return Assignment(
        service=case.name,
        active=newest.vm,
        designated=case.good.designated if case.good else case.service.home,
        epoch=newest.epoch if newest.exact else newest.epoch + 1,
        since=case.now,
        kind=MoveKind.FAILOVER,
        reason=f"restored from {newest.source}",
        # Nobody knows: a home that nothing starts would be worse than one that is started although somebody stopped it.
        designated_is_new=case.good.designated_is_new if case.good else True,
    )


def _first_vm(case: Unfounded) -> str | None:
    """Return the first VM of the order that can take the service. Data is at home, and nowhere else before that."""
    order = case.service.order if case.service.replication is None else (case.service.home,)
    able = (vm for vm in order if case.is_up(vm) and case.view.vms[vm].maintenance is None)
    return next(able, None)


def _founded(case: Unfounded) -> Step:
    """Return the first assignment of the service: its home, or the first VM of the order that is up."""
    name, now = case.name, case.now
    vm = _first_vm(case)
    why = None
    if case.view.paused is not None:
        why = f"automation is paused by {case.view.paused.by}"
    elif case.seen.sync is not None:
        why = (
            f"{keys.sync(name)} says that it has been served before: an operator writes the assignment back, or "
            "deletes that record to begin anew"
        )
    elif vm is None:
        why = "no VM of its order is up" if case.service.replication is None else f"{case.service.home} is not up"
    if vm is None or why is not None:
        return None, diagnosis("unassigned", name, f"{name} has no assignment yet, and {why}.", because=why)
    request, assignment = _first_request(case, vm), _first_assignment(case, vm)
    assignment = assignment.with_(request_id=request.id)
    others = (other for other in case.service.order if _is_hot(case) and other != vm and case.is_up(other))
    commands = [_first_command(case, request, assignment, n, target) for n, target in enumerate((vm, *others), start=1)]
    changes = (
        Put(keys.assignment(name), assignment, 0),
        Put(keys.request(request.id), request, 0),
        *(Put(keys.command(command.id), command, 0) for command in commands),
    )
    sentence = f"{name} is assigned for the first time, to {vm} (epoch 1)."
    made = decision("initial", now, sentence, changes, service=name, epoch=1, request_id=request.id, vm=vm)
    return made, diagnosis("unassigned", name, sentence, action="initial")


def _is_hot(case: Unfounded) -> bool:
    return case.service.standby == "hot"


def _first_request(case: Unfounded, vm: str) -> Request:
    return Request(
        id=timed_id(case.now, case.name, "initial"),
        kind=RequestKind.INITIAL,
        service=case.name,
        target=vm,
        reason="first assignment",
        state=RequestState.RUNNING,
        created=case.now,
        updated=case.now,
        epoch=1,
        times={"decided": case.now, "assigned": case.now},
    )


def _first_assignment(case: Unfounded, vm: str) -> Assignment:
    home = case.service.home
    return Assignment(
        service=case.name,
        active=vm,
        designated=home,
        standbys=tuple(other for other in case.service.order if _is_hot(case) and other not in (vm, home)),
        epoch=1,
        since=case.now,
        kind=MoveKind.INITIAL,
        reason="first assignment",
        designated_is_new=True,
    )


def _first_command(case: Unfounded, request: Request, assignment: Assignment, number: int, target: str) -> Command:
    copies = case.service.replication is not None and target != assignment.active
    return Command(
        id=timed_id(case.now, case.name, Play.ACTIVATE.value, f"e1-{number}"),
        request_id=request.id,
        service=case.name,
        kind=MoveKind.INITIAL if target == assignment.active else MoveKind.STANDBY,
        play=Play.ACTIVATE,
        playbook=case.service.activate,
        target=target,
        enable_at_boot=target == assignment.designated or _is_hot(case),
        unit=case.service.unit,
        source=assignment.active if copies else None,
        clone=clone_by(case.service, request) if copies else None,
        playbooks=case.view.playbooks,
        epoch=assignment.epoch,
        created=case.now,
    )
