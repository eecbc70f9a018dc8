"""What a play came to: the command's final state with its reason, and how often progress is written.

PURE. In: how the play ended, and whether it was stopped and why. Out: the state to record.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from orchestrator.domain.records import CommandState
from orchestrator.execute.choice import Stop
from orchestrator.execute.play import Ended, PlayEnded

PROGRESS_EVERY_S = 0.25
"""Writes of progress per command: every write wakes the leader and both workers."""
_FAILURE_MARKS = ("fatal:", "failed:", "ERROR!", "[ERROR]", "unreachable")
_REASON_WIDTH = 300


@dataclass(frozen=True, slots=True)
class Result:
    """What is written into the command's record."""

    state: CommandState
    reason: str


def result_of(ended: PlayEnded, stop: Stop | None, timeout_s: float) -> Result | None:
    """Return what the record becomes; None when the command is not this worker's to write any more."""
    if stop is not None:
        return None if stop.state is None else Result(stop.state, stop.sentence)
    if ended.how is Ended.NOT_RUN:
        return Result(CommandState.FAILED, f"The play could not be run: {ended.problem}.")
    if ended.how is Ended.TIMED_OUT:
        return Result(CommandState.FAILED, f"The play did not end within {timeout_s:g} s and was killed.")
    if ended.rc == 0:
        return Result(CommandState.SUCCEEDED, "The play ran to its end.")
    return Result(CommandState.FAILED, f"The play failed with exit status {ended.rc}: {failure_line(ended.tail)}")


def failure_line(tail: tuple[str, ...]) -> str:
    """Return the line of the output that says most about the failure."""
    marked = [line for line in tail if any(mark in line for mark in _FAILURE_MARKS) and "unreachable=" not in line]
    telling = marked or list(tail) or ["it said nothing"]
    return telling[0 if marked else -1].strip()[:_REASON_WIDTH]


@dataclass(slots=True)
class Progress:
    """Which task a play is at, and when that is written next."""

    first_task: float | None = None
    task: str = ""
    written: str | None = None
    next_write: float = field(default=float("-inf"))

    def note(self, task: str, at: float) -> None:
        """Take the task that has just begun."""
        self.task = task
        self.first_task = self.first_task if self.first_task is not None else at

    def is_due(self, now: float) -> bool:
        """Say whether there is something new to write, and not too soon after the last write."""
        return self.first_task is not None and self.task != self.written and now >= self.next_write

    def note_written(self, now: float) -> None:
        """Take note that the present task has been written."""
        self.written = self.task
        self.next_write = now + PROGRESS_EVERY_S
