"""PURE: the bench's report. In: what was measured. Out: one row for each number that was asked for, and the tables."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

from deploy.trials.idle import SSH, WARM_SERVER, Cost
from deploy.trials.planned import REQUESTS, Counted
from deploy.trials.policy import GRACE_S
from deploy.trials.timeline import CHAIN, PLAY_DONE
from deploy.trials.trial import Result

IDLE_MEMORY_MB, IDLE_CPU_PERCENT = 100.0, 1.0
FIRST_TASK_S = 0.7
DECIDE_MS, DECIDE_VMS = 100.0, 1000
RETURNED_S, DEFAULT_GRACE_S = 180.0, 60.0


@dataclass(frozen=True)
class Asked:
    """What is asked of a trial's median."""

    must: float | None = None
    """At most this; None where a number is not what is asked."""
    beat: float | None = None
    over: str | None = None
    """`must` is what may come on top of the median of the trial of this name."""


@dataclass(frozen=True)
class Row:
    """One line of the report; every number in `unit`."""

    name: str
    unit: str
    must: float | None
    asked: str
    beat: float | None
    values: tuple[float, ...]
    judged_by: str = "median"
    """`median` or `max`: which of the two `must` is held against."""
    troubles: tuple[str, ...] = ()
    """What was not as asked whatever the numbers are."""
    shares_s: Mapping[str, float] = field(default_factory=dict)
    """Median seconds of each step that the client waited for, since the step before it."""
    beside_s: Mapping[str, float] = field(default_factory=dict)
    """Median seconds after the fault of each step that the client did not wait for."""

    @property
    def median(self) -> float | None:
        return statistics.median(self.values) if self.values else None

    @property
    def largest(self) -> float | None:
        return max(self.values, default=None)

    @property
    def verdict(self) -> bool | None:
        """Say whether it is as asked; None where nothing was measured or what it is held against was not."""
        if not self.values:
            return False if self.troubles else None
        if self.troubles:
            return False
        measured = self.median if self.judged_by == "median" else self.largest
        if measured is None or (self.must is None and self.asked != NO_NUMBER):
            return None
        return self.must is None or measured <= self.must

    def plain(self) -> dict[str, Any]:
        """Return the row for JSON."""
        return {
            "name": self.name,
            "unit": self.unit,
            "asked": self.asked,
            "must": self.must,
            "beat": self.beat,
            "judged_by": self.judged_by,
            "median": self.median,
            "max": self.largest,
            "runs": len(self.values),
            "ok": self.verdict,
            "troubles": list(self.troubles),
            "shares_s": dict(self.shares_s),
            "beside_s": dict(self.beside_s),
        }


NO_NUMBER = "as named"


def outage_row(name: str, asked: Asked, results: Sequence[Result], failures: Sequence[str], base: float | None) -> Row:
    """Return the row of one fault; `base` is the median that `asked.over` names, None while it is not known."""
    must, words = asked.must, NO_NUMBER if asked.must is None else f"{asked.must:g} s"
    if asked.over is not None and asked.must is not None:
        words = f"+{asked.must:g} s" if base is None else f"{base:.2f} + {asked.must:g} s"
        must = None if base is None else base + asked.must
    return Row(
        name,
        "s",
        must,
        words,
        asked.beat,
        tuple(result.outage.seconds for result in results),
        troubles=(*failures, *(trouble for result in results for trouble in result.troubles)),
        shares_s=medians((step.name, step.share_s) for result in results for step in result.steps),
        beside_s=medians(
            (step.name, step.after_fault_s) for result in results for step in result.steps if step.share_s is None
        ),
    )


def median_outage(results: Sequence[Result]) -> float | None:
    """Return the median outage in seconds; None where there is none."""
    return statistics.median(result.outage.seconds for result in results) if results else None


def medians(pairs: Iterable[tuple[str, float | None]]) -> dict[str, float]:
    """Return the median by name; what is None does not count."""
    found: dict[str, list[float]] = defaultdict(list)
    for name, value in pairs:
        if value is not None:
            found[name].append(value)
    return {name: round(statistics.median(values), 3) for name, values in found.items()}


def first_task_row(results: Iterable[Result]) -> Row:
    """Return the row of the time from decision to first task, over runs in which nothing else went wrong."""
    values = tuple(one.decision_to_first_task_s for one in results if one.decision_to_first_task_s is not None)
    return Row("from decision to the worker's first task, cold", "s", FIRST_TASK_S, f"{FIRST_TASK_S:g} s", None, values)


def planned_row(name: str, counted: Sequence[Counted], failures: Sequence[str] = ()) -> Row:
    """Return the row of a planned move: not one request may fail, and nothing be lost; `failures` says why a run came
    to no end."""
    total = min((one.total for one in counted), default=REQUESTS)
    return Row(
        f"{name}, there and back",
        f"failed of {total}",
        0.0,
        "0",
        None,
        tuple(float(one.failed) for one in counted),
        judged_by="max",
        troubles=(*failures, *(trouble for one in counted for trouble in one.troubles)),
    )


def pause_row(name: str, must: float, counted: Sequence[Counted]) -> Row:
    """Return the row of the pause of a planned move: the longer one of there and back."""
    return Row(f"{name}: pause", "s", must, f"{must:g} s", None, tuple(one.pause_s for one in counted))


def all_back_row(name: str, asked: Asked, results: Sequence[Result]) -> Row:
    """Return the row of the time until every service was back."""
    values = tuple(one.all_back.seconds for one in results if one.all_back is not None)
    return Row(f"{name}: all services back", "s", asked.must, f"{asked.must:g} s", asked.beat, values)


def returned_row(name: str, results: Sequence[Result]) -> Row:
    """Return the row of the time until the fleet is as before, from the return of what had failed.

    The bench's grace is shorter than the one that is the default: what is asked is so much less.
    """
    must = RETURNED_S - (DEFAULT_GRACE_S - GRACE_S)
    words = f"{RETURNED_S:g} s - {DEFAULT_GRACE_S - GRACE_S:g} s of grace"
    values = tuple(one.returned_s for one in results if one.returned_s is not None)
    return Row(f"{name}, and on again: the fleet as before", "s", must, words, None, values, judged_by="max")


def idle_rows(costs: Sequence[Cost]) -> list[Row]:
    """Return two rows for each part of a daemon: memory and processor time, a value for each VM."""
    rows = []
    for part in dict.fromkeys(cost.part for cost in costs):
        own = [cost for cost in costs if cost.part == part]
        memory, cpu = tuple(cost.rss_mb for cost in own), tuple(cost.cpu_percent for cost in own)
        rows += [_idle_row(f"idle: {part}", "MB", memory), _idle_row(f"idle: {part}", "%", cpu)]
    workers = dict.fromkeys(cost.vm for cost in costs if cost.part == "worker")
    whole = [[one for one in costs if one.vm == vm and one.part in ("worker", WARM_SERVER, SSH)] for vm in workers]
    if whole:
        name = "idle: worker with all of these"
        rows.append(_idle_row(f"{name}, PSS", "MB", tuple(sum(one.pss_mb for one in parts) for parts in whole)))
        rows.append(_idle_row(name, "%", tuple(sum(one.cpu_percent for one in parts) for parts in whole)))
    return rows


def _idle_row(name: str, unit: str, values: tuple[float, ...]) -> Row:
    must = IDLE_MEMORY_MB if unit == "MB" else IDLE_CPU_PERCENT
    return Row(name, unit, must, f"{must:g} {unit}", None, values, judged_by="max")


def decide_rows(growth: Sequence[Mapping[str, float]]) -> list[Row]:
    """Return a row for each size of fleet that was timed; only the size that was asked for is judged."""
    rows = []
    for size in growth:
        must = DECIDE_MS if size["vms"] == DECIDE_VMS else None
        words = "" if must is None else f"{must:g} ms"
        name = f"decide(): {size['vms']:,} VMs, {size['instances']:,} instances"
        rows.append(Row(name, "ms", must, words, None, (size["well_ms"], size["hurt_ms"]), judged_by="max"))
    return rows


# --- tables ----------------------------------------------------------------------------------------------------


def number(value: float | None, unit: str) -> str:
    """Return a number with its unit, as many digits as are worth reading; `-` for none."""
    if value is None:
        return "-"
    if unit.startswith("failed"):
        return f"{value:g} {unit}"
    return f"{value:.1f} {unit}" if unit == "MB" else f"{value:.2f} {unit}"


def report_table(rows: Sequence[Row]) -> Table:
    """Return the numbers against what was asked."""
    table = Table("what", "asked", "to beat", "median", "max", "runs", "ok?", title="Numbers")
    words = {True: "[green]yes[/]", False: "[red]no[/]", None: ""}
    for row in rows:
        beat = "" if row.beat is None else f"{row.beat:g} {row.unit}"
        found = (number(row.median, row.unit), number(row.largest, row.unit), str(len(row.values)))
        table.add_row(row.name, row.asked, beat, *found, words[row.verdict])
    return table


def shares_table(rows: Sequence[Row]) -> Table:
    """Return where the time of each outage goes."""
    table = Table("median s", *CHAIN, "meanwhile (s after the fault)", title="Where the time goes")
    for row in rows:
        if row.shares_s:
            shares = [f"{row.shares_s[name]:.2f}" if name in row.shares_s else "" for name in CHAIN]
            beside = ", ".join(f"{name} {at:.2f}" for name, at in row.beside_s.items())
            table.add_row(row.name, *shares, beside)
    return table


SHARES_EXPLAINED = (
    f"Each step waits for the one to its left; in one run they add up to the time until served. {PLAY_DONE!r} and other"
    " steps of the last column went on meanwhile and are no part of that sum. Medians are of each step by itself."
    " 'dispatched': claimed by the worker that ended the play, after the first one was killed where one was."
)
