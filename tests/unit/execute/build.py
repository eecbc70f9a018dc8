"""Short ways to write down commands, assignments and situations."""

from __future__ import annotations

from typing import Any

from orchestrator.domain import keys
from orchestrator.domain.records import Assignment, Command, CommandState, MoveKind, Play
from orchestrator.domain.view import Kept
from orchestrator.execute.choice import AssignmentSeen, CommandSeen, Mine, Rules, Situation

OURS, THEIRS = "session-ours", "session-theirs"
NOW = 100.0


def a_command(number: int = 1, **changes: Any) -> Command:
    """A pending command of epoch 7 that activates the backend on messaging-server."""
    service = changes.get("service", "backend")
    command = Command(
        id=f"{number:013d}-{service}-c",
        request_id=f"{number:013d}-{service}-r",
        service=service,
        kind=MoveKind.FAILOVER,
        play=Play.ACTIVATE,
        playbook="activate_backend.yml",
        target="messaging-server",
        failed_instance="backend-server",
        unit="node-app",
        epoch=7,
        created=1.0,
    )
    return command.with_(**changes)


def running(number: int = 1, *, worker: str = "frontend-server", attempt: int = 1, **changes: Any) -> Command:
    """A command that a worker has claimed."""
    return a_command(number, state=CommandState.RUNNING, worker=worker, attempt=attempt, claimed=2.0, **changes)


def an_assignment(epoch: int = 7, service: str = "backend", **changes: Any) -> Assignment:
    """The service on messaging-server."""
    assignment = Assignment(
        service=service,
        active="messaging-server",
        designated="backend-server",
        epoch=epoch,
        since=1.0,
        kind=MoveKind.FAILOVER,
        reason="test",
    )
    return assignment.with_(**changes)


def a_situation(
    *commands: Kept[Command],
    assignment: AssignmentSeen | str = "of epoch 7",
    asked: tuple[str, ...] = (),
    plays: dict[str, Mine] | None = None,
    delivered: tuple[str, ...] = (),
    session: str | None = OURS,
    **more: Any,
) -> Situation:
    """A worker that knows these commands and the backend's assignment."""
    seen: dict[str, CommandSeen] = {kept.value.id: kept for kept in commands}
    seen |= {command_id: None for command_id in (*(plays or {}), *delivered) if command_id not in seen}
    known = Kept(an_assignment(), 5) if isinstance(assignment, str) else assignment
    return Situation(
        now=NOW,
        session=session,
        commands=seen,
        assignments={"backend": known},
        plays=plays or {},
        delivered=frozenset(delivered),
        asked=frozenset(asked),
        pending_since=more.pop("pending_since", {kept.value.id: NOW for kept in commands}),
        rules=more.pop("rules", Rules(pickup_after_s=1.0, max_attempts=3, parallel_plays=4)),
        **more,
    )


BACKEND_KEY = keys.assignment("backend")
