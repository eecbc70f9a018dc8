"""PURE: the ledger of a trial. In: what each write was told, and what the database has afterwards. Out: what was lost.

A listing is written under a key of its own. Acknowledged is what was answered with 201 (committed, and the broker has
confirmed its message) or 202 (committed; the message is still to be confirmed). Whatever else a try came to is unknown:
its listing may be there, once.
"""

from __future__ import annotations

import bisect
import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from deploy.trials.outage import Outage, Sample, outage_from

CONFIRMED, STORED = 201, 202
NOT_THERE = 404
# More than these are not named in one sentence.
NAMED = 5


@dataclass(frozen=True)
class Try:
    """One attempt to write a listing."""

    key: str
    began: float
    ended: float
    took_s: float
    """By a clock that is never set; `began` and `ended` are wall-clock seconds."""
    status: int = 0
    """0 where there was no answer. A writer on a VM notes 201 for what its database has acknowledged."""
    id: int | None = None
    by: str = ""
    """The VM whose backend answered; of a writer on a VM, that VM, whose database it wrote into."""
    why: str = ""

    @property
    def is_acknowledged(self) -> bool:
        return self.status in (CONFIRMED, STORED)


@dataclass(frozen=True)
class Reading:
    """An acknowledged listing asked for, right after its acknowledgement."""

    key: str
    at: float
    id: int
    status: int = 0
    found: str = ""
    """The key of the listing that was found under this id."""
    by: str = ""
    why: str = ""


@dataclass(frozen=True)
class Row:
    """One row of the table of listings."""

    key: str
    id: int
    is_indexed: bool


@dataclass(frozen=True)
class Losses:
    """What is not as it was acknowledged, by key."""

    lost: tuple[str, ...] = ()
    """Acknowledged, and not there under the id that was told."""
    doubled: tuple[str, ...] = ()
    """There more than once, or acknowledged under two ids."""

    def troubles(self) -> list[str]:
        """Return a sentence for each kind of loss; none where nothing was lost."""
        return [
            f"{len(keys)} listings {what}: {named(keys)}"
            for what, keys in (("were acknowledged and are lost", self.lost), ("are doubled", self.doubled))
            if keys
        ]


@dataclass(frozen=True)
class Term:
    """From when on only this VM may acknowledge writes, until the next term begins."""

    vm: str
    since: float


def named(keys: Collection[str]) -> str:
    """Return the first few of the keys for a sentence."""
    first = sorted(keys)[:NAMED]
    return ", ".join(first) + (", …" if len(keys) > len(first) else "")


# --- notes ------------------------------------------------------------------------------------------------------


def note_of(line: str) -> Try | Reading | None:
    """Read one line of a writer's notes; None where it is cut off or no such note."""
    try:
        fields = json.loads(line)
        return Reading(**fields) if "found" in fields else Try(**fields)
    except (json.JSONDecodeError, TypeError):
        return None


def rows_of(table: str) -> list[Row]:
    """Read what the database's own client printed: key, id, 0 or 1 for indexed, separated by tabs."""
    cells = (line.split("\t") for line in table.splitlines() if line)
    return [Row(key, int(number), indexed == "1") for key, number, indexed in cells]


# --- judgement --------------------------------------------------------------------------------------------------


def losses(tries: Iterable[Try], rows: Sequence[Row]) -> Losses:
    """Hold what was acknowledged against the rows: each is there exactly once, under the id that was told."""
    ids: dict[str, set[int | None]] = defaultdict(set)
    for one in tries:
        if one.is_acknowledged:
            ids[one.key].add(one.id)
    there = {(row.key, row.id) for row in rows}
    times = Counter(row.key for row in rows)
    lost = [key for key, told in ids.items() if not all((key, number) in there for number in told)]
    doubled = {key for key, count in times.items() if count > 1} | {key for key, told in ids.items() if len(told) > 1}
    return Losses(tuple(sorted(lost)), tuple(sorted(doubled)))


def unindexed(tries: Iterable[Try], rows: Iterable[Row]) -> list[str]:
    """Return the keys that were acknowledged, are there, and whose message was not consumed (yet)."""
    indexed = {row.key: row.is_indexed for row in rows}
    return sorted({one.key for one in tries if one.is_acknowledged and indexed.get(one.key) is False})


def vanished(readings: Iterable[Reading]) -> list[str]:
    """Return the keys of acknowledged listings whose id was unknown, or another listing's, to whoever asked next.

    An answer that says nothing of the listing (none at all, a 503) says nothing here either.
    """
    return sorted(
        {one.key for one in readings if one.status == NOT_THERE or (one.status == 200 and one.found != one.key)}
    )


def accepted_by_two(tries: Iterable[Try], terms: Sequence[Term]) -> list[Try]:
    """Return what a VM acknowledged after the term of another had begun; `by` is where it was written."""
    in_order = sorted(terms, key=lambda term: term.since)
    starts = [term.since for term in in_order]
    wrong = []
    for one in tries:
        number = bisect.bisect_right(starts, one.ended) - 1
        if one.is_acknowledged and number >= 0 and in_order[number].vm != one.by:
            wrong.append(one)
    return wrong


def two_at_once(tries: Iterable[Try], home: str, promoted: str, since: float) -> list[str]:
    """Return a sentence where a VM acknowledged writes after another one had been promoted, at `since`; `tries` are
    those of clients that know which VM they write to."""
    terms = [Term(home, 0.0)] + ([Term(promoted, since)] if promoted != home else [])
    wrong = accepted_by_two(tries, terms)
    if not wrong:
        return []
    by = " and ".join(sorted({one.by for one in wrong}))
    return [f"{len(wrong)} writes were acknowledged by {by} too, after another VM had taken over: "
            f"{named([one.key for one in wrong])}"]  # fmt: skip


def out_of_turn(tries: Iterable[Try], turns: Sequence[str]) -> list[str]:
    """Return a sentence where VMs acknowledged writes otherwise than one after the other in these turns, of which some
    may have passed without any; `tries` as for `two_at_once`. For a service that is home again: its turns are known,
    their times are not."""
    acknowledged = sorted((one for one in tries if one.is_acknowledged), key=lambda one: one.ended)
    found = [vm for vm, _ in groupby(one.by for one in acknowledged)]
    left = iter(turns)
    if all(vm in left for vm in found):
        return []
    return [f"writes were acknowledged by {', then '.join(found[:NAMED])}{', …' if len(found) > NAMED else ''},"
            f" where it was the turn of {', then '.join(turns)}"]  # fmt: skip


def differences(here: Iterable[Row], there: Iterable[Row]) -> list[str]:
    """Return the keys that two copies do not have alike."""
    return sorted({row.key for row in set(here) ^ set(there)})


# --- times ------------------------------------------------------------------------------------------------------


def samples_of_tries(tries: Iterable[Try], *, confirmed: bool = False) -> list[Sample]:
    """Return the tries as a client's samples: good is acknowledged, with `confirmed` only where its message is safe."""
    return [
        Sample(
            one.began,
            one.ended,
            one.status == CONFIRMED if confirmed else one.is_acknowledged,
            one.status,
            one.by,
            one.why,
        )
        for one in tries
    ]


def write_outage(tries: Iterable[Try], fault_at: float, *, confirmed: bool = False) -> Outage:
    """Measure how long nothing was acknowledged, from the fault on, as `outage_from` does.

    A write that was under way at the fault may have been committed before it, and be answered at any time after: its
    answer does not say that one can write again.
    """
    return outage_from(
        samples_of_tries((one for one in tries if not one.began < fault_at <= one.ended), confirmed=confirmed), fault_at
    )
