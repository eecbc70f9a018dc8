"""PURE: what the bench found, as rows for JSON and as tables for people."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from deploy.trials.asked import (
    CPU_PERCENT,
    DECIDE_MS,
    DECIDE_VMS,
    FIRST_TASK_S,
    RESIDENT_MB,
    Asked,
)
from deploy.trials.timeline import STEPS
from deploy.trials.trial import Result

Row = dict[str, Any]


def shares_of(results: Sequence[Result]) -> dict[str, float]:
    """Return the median share of each step in seconds, in the order in which the steps mostly happen."""
    shares: dict[str, list[float]] = defaultdict(list)
    after: dict[str, list[float]] = defaultdict(list)
    for result in results:
        for step in result.steps:
            shares[step.name].append(step.share_s)
            after[step.name].append(step.after_fault_s)
    order = sorted(shares, key=lambda name: statistics.median(after[name]))
    return {name: round(statistics.median(shares[name]), 3) for name in order}


def row_of(asked: Asked, results: Sequence[Result], broken: Sequence[str], base_s: float | None = None) -> Row:
    """Return one row. `broken` says why runs did not end; `base_s` is the median of `asked.on_top_of`."""
    outages = [result.outage.seconds for result in results]
    median = round(statistics.median(outages), 3) if outages else None
    must = asked.must_s
    if must is not None and asked.on_top_of is not None:
        must = None if base_s is None else round(base_s + must, 3)
    return {
        "trial": asked.trial.name,
        "must_s": must,
        "beat_s": asked.beat_s,
        "median_s": median,
        "max_s": round(max(outages), 3) if outages else None,
        "runs": len(outages),
        "ok": bool(outages) and not broken and (must is None or median is None or median <= must),
        "broken": list(broken),
        "failed_requests_median": statistics.median(r.outage.failed for r in results) if results else None,
        "shares_s": shares_of(results),
        "outages_s": [round(value, 3) for value in outages],
        "notes": [result.notes for result in results],
    }


def first_task_of(rows: Sequence[Row]) -> Row:
    """Return how long it took from a decision to the worker's first task, over all runs of all cold trials that
    killed no daemon."""
    found = [
        note["to_first_task_s"]
        for row in rows
        for note in row["notes"]
        if note.get("to_first_task_s") is not None and note.get("attempt") == 1
    ]
    median = round(statistics.median(found), 3) if found else None
    return {
        "must_s": FIRST_TASK_S,
        "median_s": median,
        "max_s": max(found, default=None),
        "runs": len(found),
        "ok": median is not None and median <= FIRST_TASK_S,
    }


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _verdict(ok: bool) -> str:
    return "[green]yes[/]" if ok else "[red]no[/]"


def faults_table(rows: Sequence[Row]) -> Table:
    """Return the outages as the client saw them."""
    table = Table("fault", "must, s", "to beat, s", "median, s", "max, s", "runs", "ok", title="Outage, client's view")
    for row in rows:
        numbers = (row["must_s"], row["beat_s"], row["median_s"], row["max_s"])
        table.add_row(row["trial"], *map(_seconds, numbers), str(row["runs"]), _verdict(row["ok"]))
    return table


def shares_table(rows: Sequence[Row]) -> Table:
    """Return each step's share: the time since the step that came before it in that run."""
    table = Table("fault", *STEPS, title="Each step's share, medians in s (the play may end after clients are served)")
    for row in rows:
        if row["shares_s"]:
            shares = (row["shares_s"].get(step) for step in STEPS)
            table.add_row(row["trial"], *("" if share is None else f"{share:.2f}" for share in shares))
    return table


def others_table(report: Mapping[str, Any]) -> Table:
    """Return what is measured beside the outages."""
    table = Table("what", "must", "reached", "ok", title="And beside that")
    for moved in report.get("planned", ()):
        reached = f"{moved['failed']} of {moved['total']} requests failed, slowest {moved['slowest_s']:.2f} s"
        table.add_row(moved["name"], "0 failed", reached, _verdict(moved["failed"] == 0))
    first = report.get("first_task")
    if first:
        reached = f"{_seconds(first['median_s'])} s (max {_seconds(first['max_s'])}, {first['runs']} runs)"
        table.add_row("decision to the worker's first task", f"{FIRST_TASK_S:g} s", reached, _verdict(first["ok"]))
    for row in report.get("idle", ()):
        reached = f"{row['resident_mb']:.0f} MB ({row['proportional_mb']:.0f} its own), {row['cpu_percent']:.2f} %"
        ok = row["resident_mb"] <= RESIDENT_MB and row["cpu_percent"] <= CPU_PERCENT
        must = f"{RESIDENT_MB:g} MB, {CPU_PERCENT:g} %"
        table.add_row(f"idle: {row['daemon']}", must, reached, _verdict(ok))
    for row in report.get("decide", ()):
        asked = row["vms"] == DECIDE_VMS
        reached = f"{row['well_ms']:.1f} ms well, {row['hurt_ms']:.1f} ms with 1 VM in 50 down"
        name = f"decide(): {row['vms']} VMs, {row['instances']} instances"
        table.add_row(
            name,
            f"{DECIDE_MS:g} ms" if asked else "",
            reached,
            _verdict(max(row["well_ms"], row["hurt_ms"]) <= DECIDE_MS) if asked else "",
        )
    return table
