"""How long a command is waited for, and what is said meanwhile. Every wait has its end, whatever dies."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.decide.case import Case
from orchestrator.domain.records import Command, CommandState

CLOCKS_APART_S = 1.0
"""Two VMs whose clocks are kept by NTP are far less apart."""


@dataclass(frozen=True, slots=True)
class Wait:
    """`until` is wall-clock seconds: from then on whoever waits gives up, because of `why`."""

    until: float
    words: str
    """What is waited for."""
    why: str


def wait_for(case: Case, command: Command) -> Wait:
    """Return the wait for a command that is not final: for a worker to take it, or for the end of its play."""
    dispatch = case.policy.dispatch
    if command.state is CommandState.PENDING:
        refused = "".join(f"; {vm} refused it: {reason}" for vm, reason in sorted(command.refusals.items()))
        return Wait(
            command.created + dispatch.activation_timeout_s,
            f"waiting for a worker to take {command.id}{refused}",
            f"no worker took its command within {dispatch.activation_timeout_s:g} s{refused}",
        )
    # A worker ends a play at its limit, if there still is a worker.
    limit_s = dispatch.play_timeout_s + dispatch.activation_timeout_s
    at = f", now at: {command.task}" if command.task else ""
    return Wait(
        told_by_worker(case, command, command.claimed) + limit_s,
        f"{command.worker} runs {command.playbook}{at}",
        f"{command.playbook} on {command.target} has not ended in time, and no worker says why",
    )


def told_by_worker(case: Case, command: Command, moment: float | None) -> float:
    """Return a moment that a worker wrote down; where by its clock it cannot be, that at which the command was made."""
    if moment is None:
        return command.created
    return moment if command.created - CLOCKS_APART_S <= moment <= case.now + CLOCKS_APART_S else command.created


def trouble_of(command: Command) -> str | None:
    """Say how the play ended badly; None while it runs or when it succeeded."""
    if not command.is_final or command.state is CommandState.SUCCEEDED:
        return None
    return f"the play {command.playbook} {command.state.value}: {command.reason or 'it said nothing'}"
