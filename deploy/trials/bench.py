"""`make bench`: every fault of the table, many times, as a table and as JSON with each step's share.

Numbers are medians of the client's view. Nothing here fails on a slow number: the table says what was asked.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from deploy.machines.lab import Lab
from deploy.machines.places import LabError
from deploy.trials.planned import PLANNED, run_planned
from deploy.trials.policy import policy_with
from deploy.trials.trial import BACKEND_URL, FRONTEND_URL, Result, Trial, run_trial, settle

BACKEND, FRONTEND = "backend-server", "frontend-server"

# name, asked (must, beat) in seconds, standby, trial
TRIALS: tuple[tuple[str, tuple[float, float | None], Trial], ...] = (
    ("cold", (3.5, 3.4), Trial("backend killed, cold", "kill", BACKEND, "backend", BACKEND_URL)),
    ("cold", (5.0, 3.8), Trial("backend's VM cut, cold", "cut", BACKEND, "backend", BACKEND_URL)),
    ("cold", (5.0, 2.8), Trial("backend's VM powered off, cold", "poweroff", BACKEND, "backend", BACKEND_URL)),
    ("hot", (0.2, 0.01), Trial("backend killed, hot", "kill", BACKEND, "backend", BACKEND_URL)),
    ("hot", (0.5, 0.11), Trial("backend's VM cut, hot", "cut", BACKEND, "backend", BACKEND_URL)),
    ("hot", (1.5, 0.73), Trial("frontend killed, hot", "kill", FRONTEND, "frontend", FRONTEND_URL)),
    ("hot", (2.0, 0.66), Trial("frontend's VM cut, hot", "cut", FRONTEND, "frontend", FRONTEND_URL)),
    ("cold", (3.5, 3.4), Trial("frontend killed, cold", "kill", FRONTEND, "frontend", FRONTEND_URL)),
    ("cold", (5.0, 3.8), Trial("frontend's VM cut, cold", "cut", FRONTEND, "frontend", FRONTEND_URL)),
    ("cold", (1.0, 1.1), Trial("backend crashes (local restart)", "crash", BACKEND, "backend", BACKEND_URL, False)),
)


def run_many(lab: Lab, trial: Trial, times: int, console: Console) -> list[Result]:
    """Repeat one trial, mending and settling in between."""
    results = []
    for number in range(1, times + 1):
        settle(lab)
        console.print(f"[dim]{trial.name}: {number} of {times}[/]")
        try:
            results.append(run_trial(lab, trial, lambda _: None))
            console.print(f"[dim]  {results[-1].outage.seconds:.2f} s, {results[-1].outage.failed} failed[/]")
        except LabError as error:
            console.print(f"[red]  {trial.name}: {error}[/]")
        lab.mend()
    return results


def shares_of(results: Sequence[Result]) -> dict[str, float]:
    """Return the median share of each step in seconds."""
    shares: dict[str, list[float]] = defaultdict(list)
    for result in results:
        for step in result.steps:
            shares[step.name].append(step.share_s)
    return {name: round(statistics.median(values), 3) for name, values in shares.items()}


def row_of(trial: Trial, asked: tuple[float, float | None], results: Sequence[Result]) -> dict[str, Any]:
    """Return one row of the report."""
    outages = [result.outage.seconds for result in results]
    return {
        "trial": trial.name,
        "must_s": asked[0],
        "beat_s": asked[1],
        "median_s": round(statistics.median(outages), 3) if outages else None,
        "max_s": round(max(outages), 3) if outages else None,
        "runs": len(outages),
        "failed_requests_median": statistics.median(r.outage.failed for r in results) if results else None,
        "shares_s": shares_of(results),
        "outages_s": [round(value, 3) for value in outages],
    }


def table_of(rows: Sequence[dict[str, Any]]) -> Table:
    """Return the report as a table."""
    table = Table("trial", "must", "beat", "median", "max", "runs", "shares (median s)")
    for row in rows:
        shares = ", ".join(f"{name} {share:.2f}" for name, share in row["shares_s"].items())
        beat = "" if row["beat_s"] is None else f"{row['beat_s']:g}"
        median = "-" if row["median_s"] is None else f"{row['median_s']:.2f}"
        top = "-" if row["max_s"] is None else f"{row['max_s']:.2f}"
        table.add_row(row["trial"], f"{row['must_s']:g}", beat, median, top, str(row["runs"]), shares)
    return table


def main() -> None:
    """Run the bench on a lab of its own."""
    parser = argparse.ArgumentParser(description="Measure every fault of the table.")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--only", default="", help="only trials whose name holds this text")
    parser.add_argument("--lab", default="orch-bench")
    parser.add_argument("--keep", action="store_true", help="leave the lab up")
    parser.add_argument("--json", type=Path, default=Path("bench.json"))
    given = parser.parse_args()
    console = Console(stderr=True)
    lab = Lab.open(given.lab, say=console.print)
    lab.up()
    try:
        report = measure(lab, given.runs, given.only, console)
    finally:
        if not given.keep:
            lab.down()
    given.json.write_text(json.dumps(report, indent=1) + "\n")
    Console().print(table_of(report["faults"]))
    for planned in report["planned"]:
        print(f"{planned['name']}: {planned['failed']} of {planned['total']} requests failed", file=sys.stdout)
    print(f"written to {given.json}")


def measure(lab: Lab, runs: int, only: str, console: Console) -> dict[str, Any]:
    """Run every trial whose name holds `only`; the fleet's grace is shortened so that it settles in seconds."""
    rows: list[dict[str, Any]] = []
    planned: list[dict[str, Any]] = []
    for standby in ("cold", "hot"):
        chosen = [(asked, trial) for kind, asked, trial in TRIALS if kind == standby and only in trial.name]
        moves = [move for move in PLANNED if standby == "cold" and only in move.name]
        if not chosen and not moves:
            continue
        with policy_with(lab, standby=standby):
            rows.extend(row_of(trial, asked, run_many(lab, trial, runs, console)) for asked, trial in chosen)
            planned.extend(asdict(run_planned(lab, move)) for move in moves)
    return {"faults": rows, "planned": planned}


if __name__ == "__main__":
    main()
