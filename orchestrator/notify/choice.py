"""What a sink is to be told next. Pure: the journal and the sink's cursor go in, one step comes out.

The journal in KV is the queue: it is bounded (`dispatch.keep_history`), outlives every leader, and a sink that is dead
costs nothing but its own cursor. The order is that of Consul's index, since the ids of entries follow the clocks of the
VMs that led: what a new leader with a slower clock journals has an older id than what was told last.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile

from orchestrator.domain import keys
from orchestrator.domain.decision import Decision, Put
from orchestrator.domain.history import UNTOLD
from orchestrator.domain.ids import timed_id
from orchestrator.domain.records import HistoryEntry, Told
from orchestrator.domain.sinks import SinkPolicy
from orchestrator.domain.view import Kept, Unreadable

Mark = tuple[int, str]
"""Where an entry stands in the journal: its ModifyIndex and, should one transaction have written two, its id."""

Journal = Sequence[Kept[HistoryEntry]]
Cursor = Kept[Told] | Unreadable | None


@dataclass(frozen=True, slots=True)
class Tell:
    """Deliver this entry. Only then advance to it."""

    entry: Kept[HistoryEntry]


@dataclass(frozen=True, slots=True)
class Advance:
    """Write the cursor, if its key still has the index; journal in the same transaction what the sink is not told."""

    told: Told
    index: int
    lost: str = ""
    """One sentence; empty where nothing is lost."""


def mark_of(kept: Kept[HistoryEntry]) -> Mark:
    """Return where the entry stands."""
    return kept.index, kept.value.id


def in_order(entries: Iterable[Kept[HistoryEntry]]) -> Journal:
    """Return the journal, the oldest entry first."""
    return tuple(sorted(entries, key=mark_of))


def next_step(sink: SinkPolicy, cursor: Cursor, journal: Journal, done: Mark, now: float) -> Tell | Advance | None:
    """Return what comes next for the sink; None: it has been told of everything.

    `done`: up to where this leader has delivered itself. It is ahead of the cursor where the cursor's write was not
    answered; then the cursor is written again and nothing is told twice.
    """
    if not isinstance(cursor, Kept):
        return _begin(sink, cursor, journal, now)
    if cursor.value.upto >= cursor.index:
        lost = f"{keys.notified(sink.name)} counts by another Consul's index: {_begins_anew(sink)}."
        return Advance(_told(sink, _last(journal), now), cursor.index, lost)
    told = _mark_in(cursor)
    if _has_gap(cursor.value, journal):
        lost = (
            f"What was journalled after {cursor.value.entry} may have been deleted as old before {sink.name} was told "
            "of it (dispatch.keep_history)."
        )
        return Advance(Told(sink=sink.name, upto=journal[0].index - 1, at=now), cursor.index, lost)
    if done > told:
        return Advance(_told(sink, done, now), cursor.index)
    unheard = [kept for kept in journal if mark_of(kept) > told]
    wanted = next((kept for kept in unheard if sink.is_told_of(kept.value.kind)), None)
    if wanted is not None:
        return Tell(wanted)
    return Advance(_told(sink, mark_of(unheard[-1]), now), cursor.index) if unheard else None


def given_up(
    sink: SinkPolicy, cursor: Kept[Told], journal: Journal, failed: Kept[HistoryEntry], why: str, now: float
) -> Advance:
    """Return the step past an entry that is given up, and past those after it that have grown too old as well.

    That a sink was not told is journalled, and that it was not told of that is not: else a dead one would fill the
    journal by itself.
    """
    unheard = [kept for kept in journal if mark_of(kept) >= mark_of(failed) and sink.is_told_of(kept.value.kind)]
    going = [*takewhile(lambda kept: kept == failed or is_too_old(sink, kept.value, now), unheard)]
    missed = [kept.value for kept in going if (kept.value.kind, kept.value.sink) != (UNTOLD, sink.name)]
    told = _told(sink, mark_of(going[-1]), now)
    return Advance(told, cursor.index, f"{sink.name} was not told of {_named(missed)}: {why}." if missed else "")


def is_too_old(sink: SinkPolicy, entry: HistoryEntry, now: float) -> bool:
    """Say whether the entry is given up when its delivery fails."""
    return now - entry.at >= sink.give_up_after_s


def written(step: Advance, now: float) -> Decision:
    """Return the step as the leader's decision: the cursor, and the journal's entry on what is lost."""
    sink = step.told.sink
    cursor = Put(keys.notified(sink), step.told, step.index)
    if not step.lost:
        return Decision("notified", None, f"{sink} has been told up to {step.told.entry}.", (cursor,))
    entry = HistoryEntry(id=timed_id(now, "fleet", UNTOLD, sink), at=now, kind=UNTOLD, reason=step.lost, sink=sink)
    return Decision(UNTOLD, None, step.lost, (cursor, Put(keys.history(entry.id), entry, 0)))


def _begin(sink: SinkPolicy, cursor: Unreadable | None, journal: Journal, now: float) -> Advance:
    """A sink without a cursor is new: it is told of what comes, not of what was."""
    told = _told(sink, _last(journal), now)
    if cursor is None:
        return Advance(told, 0)
    return Advance(told, cursor.index, f"{cursor.key} cannot be read ({cursor.problem}): {_begins_anew(sink)}.")


def _begins_anew(sink: SinkPolicy) -> str:
    return f"{sink.name} is told of what is journalled from now on, and of nothing before"


def _last(journal: Journal) -> Mark:
    return mark_of(journal[-1]) if journal else (0, "")


def _told(sink: SinkPolicy, mark: Mark, now: float) -> Told:
    return Told(sink=sink.name, upto=mark[0], entry=mark[1], at=now)


def _mark_in(cursor: Kept[Told]) -> Mark:
    return cursor.value.upto, cursor.value.entry


def _has_gap(told: Told, journal: Journal) -> bool:
    """Say whether the entry told last is gone, and with it perhaps some that came after it.

    Old entries are deleted in the order of their ids, from which that of the index differs by the clocks' difference.
    """
    if not told.entry or not journal or any(kept.value.id == told.entry for kept in journal):
        return False
    return all(kept.index > told.upto for kept in journal)


def _named(missed: Sequence[HistoryEntry]) -> str:
    if len(missed) == 1:
        return f"the entry {missed[0].id}"
    return f"{len(missed)} entries from {missed[0].id} to {missed[-1].id}"
