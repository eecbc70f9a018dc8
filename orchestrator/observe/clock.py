"""Stage 1: the time that a leader decides by, which is good for durations also where the VM's clock is set.

In: the VM's clock and its monotonic one, and the newest moment in the former leader's records. Out: a wall-clock time
that runs evenly. A clock that jumps by an hour would end every grace at once, or have it last an hour more; and what a
leader whose clock is ahead has written would lie in the future of the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from orchestrator.domain import keys
from orchestrator.domain.records import Assignment, Command
from orchestrator.domain.view import Unreadable
from orchestrator.store.port import KvPair
from orchestrator.store.records import kept_or_unreadable

SLEW = 0.1
"""Seconds per second by which it comes nearer to the VM's clock: a minute is 6 s longer or shorter at most."""
LONGEST_LEAD_S = 2 * 3600.0
"""What a record is further ahead is no moment at which it was written."""


class LeaderClock:
    """One controller's. `wall` is the VM's clock, which somebody may set; `monotonic` runs evenly."""

    def __init__(self, wall: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._shown, self._at = wall(), monotonic()

    def begin(self, newest: float) -> None:
        """Begin to lead: go on from the `newest` moment of the former leader's records, or from the VM's clock."""
        wall = self._wall()
        self._shown = max(wall, newest) if newest - wall <= LONGEST_LEAD_S else wall
        self._at = self._monotonic()

    def now(self) -> float:
        """Return wall-clock time, in seconds."""
        at = self._monotonic()
        passed = at - self._at
        ahead = self._shown + passed - self._wall()
        self._shown += passed - max(-SLEW * passed, min(SLEW * passed, ahead))
        self._at = at
        return self._shown


def newest_moment(pairs: Iterable[KvPair]) -> float:
    """Return when a leader last assigned a service or made a command, by its own clock; 0 where none did."""
    newest = 0.0
    for pair in pairs:
        if pair.key.startswith(keys.COMMANDS):
            command = kept_or_unreadable(pair, Command)
            newest = newest if isinstance(command, Unreadable) else max(newest, command.value.created)
        elif keys.is_assignment(pair.key):
            assignment = kept_or_unreadable(pair, Assignment)
            newest = newest if isinstance(assignment, Unreadable) else max(newest, assignment.value.since)
    return newest
