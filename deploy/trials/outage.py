"""PURE: what the client's notes say about an outage."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Sample:
    """One request of the client."""

    at: float
    end: float
    ok: bool
    status: int = 0
    by: str = ""
    why: str = ""


@dataclass(frozen=True)
class Outage:
    """What a client saw from the fault on."""

    seconds: float
    """Longest time between two good answers that follow each other, from just before the fault on."""
    failed: int
    total: int
    served_at: float | None
    """When the first good answer after the longest silence arrived."""


def samples_of(lines: Iterable[str]) -> list[Sample]:
    """Read the client's notes; a last line that is cut off is left out."""
    samples = []
    for line in lines:
        try:
            samples.append(Sample(**json.loads(line)))
        except (json.JSONDecodeError, TypeError):
            continue
    return samples


def outage_from(samples: Sequence[Sample], fault_at: float) -> Outage:
    """Measure the longest silence that ended after the fault, and count what failed since it."""
    good = sorted(sample.end for sample in samples if sample.ok)
    after = [sample for sample in samples if sample.end >= fault_at]
    longest, served_at = 0.0, None
    for earlier, later in itertools.pairwise(good):
        if later >= fault_at and later - max(earlier, fault_at) > longest:
            longest, served_at = later - max(earlier, fault_at), later
    return Outage(longest, sum(not sample.ok for sample in after), len(after), served_at)


def servers_of(samples: Sequence[Sample], fails_for: int = 2) -> list[tuple[float, str | None]]:
    """Return when the client began to be served by whom: (time, VM), with None where it was not served.

    Fewer than `fails_for` failures in a row are left out: who watches could not tell them from the next answer.
    """
    turns: list[tuple[float, str | None]] = []
    in_order = sorted(samples, key=lambda sample: sample.end)
    for by, row in itertools.groupby(in_order, key=lambda sample: sample.by if sample.ok else None):
        first, *more = row
        is_turn = by is not None or len(more) + 1 >= fails_for
        if is_turn and (not turns or turns[-1][1] != by):
            turns.append((first.end, by))
    return turns


def is_served_again(samples: Sequence[Sample], fault_at: float, streak: int = 25) -> bool:
    """Say whether the last `streak` requests that began after the fault were all good."""
    recent = sorted((sample for sample in samples if sample.at > fault_at), key=lambda sample: sample.at)[-streak:]
    return len(recent) == streak and all(sample.ok for sample in recent)
