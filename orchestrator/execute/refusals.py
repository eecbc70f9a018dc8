"""Messages that were refused, until they are told for the journal: each with why, but no flood of entries.

In: one sentence per refused message. Out: at most one entry per `EVERY_S`, for all that were refused meanwhile: a
flood of messages must not push everything else out of the journal, which the leader writes. Each one is in the
worker's own log.
"""

from __future__ import annotations

from orchestrator.domain.history import REFUSED_MESSAGE
from orchestrator.domain.ids import timed_id
from orchestrator.domain.records import HistoryEntry

EVERY_S = 60.0


class Refusals:
    """What one worker has refused. `now` is monotonic."""

    def __init__(self, vm: str) -> None:
        self._vm = vm
        self._count = 0
        self._last = ""
        self._next_at = float("-inf")

    def note(self, sentence: str) -> None:
        """Take in why a message was refused."""
        self._count += 1
        self._last = sentence

    def due_at(self) -> float | None:
        """Return when there is an entry to be written; None while nothing was refused."""
        return self._next_at if self._count else None

    def entry(self, wall: float) -> HistoryEntry:
        """Return the entry for all that was noted since the last one that was written."""
        more = f" And {self._count - 1} more since the last entry." if self._count > 1 else ""
        return HistoryEntry(
            id=timed_id(wall, "fleet", REFUSED_MESSAGE, self._vm),
            at=wall,
            kind=REFUSED_MESSAGE,
            reason=f"{self._last}{more}",
            vm=self._vm,
        )

    def note_written(self, now: float) -> None:
        """Begin anew: the journal has the entry."""
        self._count, self._next_at = 0, now + EVERY_S
