"""The steps of a request as people follow them. Pure: records in, sentences out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.domain.records import Command, CommandState, Request, RequestState

_TEXT_OF_TIME = {
    "detected": "the failure was detected",
    "decided": "the controller took it up",
    "assigned": "assigned to {target} (epoch {epoch})",
    "locked": "the guard on {target} holds the role lock",
    "endpoints": "traffic is pointed at {target}",
}
_END = {
    RequestState.SUCCEEDED: "done",
    RequestState.FAILED: "failed",
    RequestState.REFUSED: "refused",
    RequestState.SUPERSEDED: "superseded",
    RequestState.CANCELLED: "cancelled",
}


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happened, at a wall-clock time."""

    at: float
    text: str


def steps_of(request: Request, commands: Iterable[Command]) -> tuple[Step, ...]:
    """Return what has happened so far, oldest first. A step once returned is returned again by later states of the
    same request, so that a caller prints those that are new."""
    target = request.target or "the target"
    steps = [
        Step(request.times[name], text.format(target=target, epoch=request.epoch))
        for name, text in _TEXT_OF_TIME.items()
        if name in request.times and not (name == "assigned" and request.epoch is None)
    ]
    for command in commands:
        if command.request_id == request.id:
            steps += _steps_of_command(command)
    return tuple(sorted(steps, key=lambda step: step.at))


def _steps_of_command(command: Command) -> list[Step]:
    run = f"{command.playbook} on {command.target}"
    steps = [Step(command.created, f"{run} is queued")]
    if command.claimed is not None:
        again = f" (attempt {command.attempt})" if command.attempt > 1 else ""
        steps.append(Step(command.claimed, f"{run} is run by the worker on {command.worker or 'a VM'}{again}"))
    if command.first_task is not None:
        steps.append(Step(command.first_task, f"{run} runs its first task"))
    if command.is_final:
        steps.append(Step(command.finished or command.created, f"{run} {command.state.value}{_because(command)}"))
    return steps


def _because(command: Command) -> str:
    if command.state is CommandState.SUCCEEDED or not command.reason:
        return ""
    return f": {command.reason}"


def doing_now(request: Request, commands: Iterable[Command]) -> str:
    """Say what is waited for now."""
    mine = [c for c in commands if c.request_id == request.id and not c.is_final]
    running = next((c for c in mine if c.state is CommandState.RUNNING), None)
    if running is not None:
        return f"{running.playbook} on {running.target}: {running.task or 'starting'}"
    if mine:
        return f"{mine[0].playbook} waits for a worker"
    if request.state is RequestState.PENDING:
        return "waiting for the controller"
    if "endpoints" not in request.times and request.epoch is not None:
        return f"waiting for {request.target or 'the target'} to be healthy and to hold the role lock"
    return "going on"


def failed_output(request: Request, commands: Iterable[Command]) -> tuple[str, ...]:
    """Return the end of the output of the request's play that failed, if one did."""
    mine = [c for c in commands if c.request_id == request.id and c.state is CommandState.FAILED]
    return mine[-1].tail if mine else ()


def ending(request: Request) -> str:
    """Return the final sentence: what became of it, how long it took, why."""
    took = f"after {request.times.get('finished', request.updated) - request.created:.1f} s"
    what = f"{request.kind.value} of {request.service}"
    return f"{what} {_END[request.state]} {took}{': ' + request.outcome if request.outcome else '.'}"
