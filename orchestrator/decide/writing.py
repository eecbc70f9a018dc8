"""How decisions are put together: every one carries its history entry, so that journal and deed cannot part."""

from __future__ import annotations

import re
from typing import Literal

from orchestrator.decide.case import Case
from orchestrator.domain import keys
from orchestrator.domain.decision import Change, Decision, Put
from orchestrator.domain.history import ENTRY_KINDS
from orchestrator.domain.ids import timed_id
from orchestrator.domain.policy import ServicePolicy
from orchestrator.domain.records import (
    Assignment,
    Command,
    HistoryEntry,
    MoveKind,
    Play,
    Request,
    RequestKind,
    RequestState,
)
from orchestrator.domain.view import Kept

NAME = re.compile(r"[a-z0-9-]{1,63}")


def _in_id(service: str | None) -> str:
    """Return the service as part of a key. A request may name anything; only a policy's names are fit for one."""
    return service if service is not None and NAME.fullmatch(service) else "fleet"


def decision(
    code: str,
    now: float,
    sentence: str,
    changes: tuple[Change, ...],
    *,
    service: str | None = None,
    epoch: int | None = None,
    request_id: str | None = None,
    vm: str | None = None,
    journal: bool = True,
    about: str = "",
) -> Decision:
    """Return a decision with its history entry (without one for bookkeeping that no operator asks about).

    `about` tells apart the entries of several decisions of one code and service in one cycle. A code that stands in no
    `ENTRY_KINDS` is a bug (KeyError).
    """
    if journal:
        ENTRY_KINDS[code]
        name = timed_id(now, _in_id(service), code, about)
        entry = HistoryEntry(
            id=name, at=now, service=service, kind=code, reason=sentence, epoch=epoch, request_id=request_id, vm=vm
        )
        changes = (*changes, Put(keys.history(entry.id), entry, 0))
    return Decision(code, service, sentence, changes)


def of_case(
    case: Case,
    code: str,
    sentence: str,
    *changes: Change,
    request: Request | None = None,
    vm: str | None = None,
    journal: bool = True,
    about: str = "",
) -> Decision:
    """Return a decision about the case's service."""
    return decision(
        code,
        case.now,
        sentence,
        changes,
        service=case.name,
        epoch=(request.epoch if request else None) or case.now_assigned.epoch,
        request_id=request.id if request else None,
        vm=vm,
        journal=journal,
        about=about,
    )


def put_assignment(case: Case, **changes: object) -> Put:
    """Return the write of the case's assignment with the fields changed."""
    return Put(keys.assignment(case.name), case.now_assigned.with_(**changes), case.assignment.index)


def put_request(kept: Kept[Request], **changes: object) -> Put:
    """Return the write of an existing request with the fields changed."""
    return Put(keys.request(kept.value.id), kept.value.with_(**changes), kept.index)


def finished(case: Case, kept: Kept[Request], state: RequestState, outcome: str) -> Put:
    """Return the write that gives the request its final state."""
    times = {**kept.value.times, "finished": case.now}
    return put_request(kept, state=state, outcome=outcome, updated=case.now, times=times)


def clone_by(policy: ServicePolicy, request: Request) -> Literal["auto", "never"] | None:
    """Say whether the standby's copy of a replicated service may be replaced: by itself, or on an operator's word."""
    if policy.replication is None:
        return None
    is_asked = request.kind is RequestKind.STANDBY and request.origin != "rule"
    return "auto" if is_asked or policy.replication.reclone == "automatic" else "never"


def _playbook(service: ServicePolicy, play: Play) -> str:
    if play is Play.MEMBER and service.cluster is not None:
        return service.cluster.change
    return service.activate if play is Play.ACTIVATE else service.deactivate


def new_command(
    case: Case, request: Request, play: Play, target: str, assignment: Assignment, kind: MoveKind
) -> Command:
    """Return the command that runs the service's play on the target, valid for the assignment's epoch."""
    service = case.service
    copies = case.is_replicated and target != assignment.active
    return Command(
        id=timed_id(case.now, case.name, play.value, f"e{assignment.epoch}"),
        request_id=request.id,
        service=case.name,
        kind=kind,
        play=play,
        playbook=_playbook(service, play),
        target=target,
        failed_instance=request.previous if kind is MoveKind.FAILOVER else None,
        recovered_instance=assignment.active if kind is MoveKind.FAILBACK else None,
        enable_at_boot=play is Play.ACTIVATE and (target == assignment.designated or case.is_hot),
        unit=service.unit,
        source=assignment.active if copies else None,
        clone=clone_by(service, request) if copies else None,
        playbooks=case.view.playbooks,
        epoch=assignment.epoch,
        created=case.now,
    )


def create(command: Command) -> Put:
    """Return the write that creates the command."""
    return Put(keys.command(command.id), command, 0)
