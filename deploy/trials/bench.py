"""`make bench`: every fault of the table, many times, as tables and as JSON with each step's share.

Numbers are medians of the client's view. Nothing here fails on a slow number: the table says what was asked.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from deploy.machines.lab import Lab
from deploy.machines.places import LabError
from deploy.trials.asked import ASKED, Asked
from deploy.trials.idle import measure_idle
from deploy.trials.planned import PLANNED, Planned, run_planned
from deploy.trials.policy import policy_with
from deploy.trials.report import faults_table, first_task_of, others_table, row_of, shares_table
from deploy.trials.trial import Result, run_trial, settle

# A VM that was cut off or without power needs so long until it is a full member again.
RUN_S = {"cut": 40.0, "poweroff": 45.0}
OTHER_RUN_S = 14.0
IDLE = "idle"
PIPED_WIDTH = 160


class Bench:
    """One run of the bench; `report` holds what has been measured, also when it is interrupted."""

    def __init__(self, lab: Lab, runs: int, only: str, console: Console) -> None:
        self._lab = lab
        self._runs = runs
        self._console = console
        self._asked = [asked for asked in ASKED if only in asked.trial.name]
        self._moves = [move for move in PLANNED if only in move.name]
        self._idle = only in IDLE
        self._done_s = 0.0
        self.report: dict[str, Any] = {
            "at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "cpus": os.cpu_count(),
            "faults": [],
            "planned": [],
            "idle": [],
        }

    def run(self) -> None:
        """Measure everything that was chosen; the fleet's grace is shortened so that it settles in seconds."""
        if self._idle:
            self._say("the daemons while nothing happens")
            self.report["idle"] = measure_idle(self._lab)
        for standby in ("cold", "hot"):
            chosen = [asked for asked in self._asked if asked.standby == standby]
            moves = self._moves if standby == "cold" else []
            if not chosen and not moves:
                continue
            with policy_with(self._lab, standby=standby):
                for asked in chosen:
                    self._measure(asked)
                for move in moves:
                    self._move(move)
        self.report["first_task"] = first_task_of(self.report["faults"])

    def _measure(self, asked: Asked) -> None:
        """Repeat one trial, mending and settling in between."""
        results: list[Result] = []
        broken: list[str] = []
        for number in range(1, self._runs + 1):
            self._say(f"{asked.trial.name}: {number} of {self._runs}, {self._left_words()}")
            settle(self._lab)
            try:
                results.append(run_trial(self._lab, asked.trial, lambda _: None))
                outage = results[-1].outage
                self._say(f"  {outage.seconds:.2f} s without an answer, {outage.failed} requests failed")
            except LabError as error:
                broken.append(str(error))
                self._console.print(f"[red]  {error}[/]")
            finally:
                self._lab.mend()
            self._done_s += _expected_s(asked)
        self._keep(asked, results, broken)

    def _keep(self, asked: Asked, results: Sequence[Result], broken: Sequence[str]) -> None:
        medians = {row["trial"]: row["median_s"] for row in self.report["faults"]}
        base = medians.get(asked.on_top_of) if asked.on_top_of else None
        self.report["faults"].append(row_of(asked, results, broken, base))

    def _move(self, move: Planned) -> None:
        self._say(f"{move.name}, there and back under load")
        try:
            self.report["planned"].append(asdict(run_planned(self._lab, move)))
        except LabError as error:
            self._console.print(f"[red]  {error}[/]")

    def _left_words(self) -> str:
        left = sum(_expected_s(asked) * self._runs for asked in self._asked) - self._done_s
        return f"about {left / 60:.0f} min left"

    def _say(self, text: str) -> None:
        self._console.print(f"[dim]{text}[/]", highlight=False)


def _expected_s(asked: Asked) -> float:
    return RUN_S.get(asked.trial.kind, OTHER_RUN_S)


def main() -> None:
    """Run the bench on a lab of its own."""
    parser = argparse.ArgumentParser(description="Measure every fault of the table.")
    parser.add_argument("--runs", type=int, default=10, help="how often each fault is repeated")
    parser.add_argument("--only", default="", help="only trials and moves whose name holds this text")
    parser.add_argument("--lab", default="orch-bench", help="the lab to use; it is brought up if it is not")
    parser.add_argument("--keep", action="store_true", help="leave the lab up")
    parser.add_argument("--decide", type=Path, help="figures of tests.bench.decide_bench to put beside")
    parser.add_argument("--json", type=Path, default=Path("bench.json"), help="where the figures are written")
    given = parser.parse_args()
    console = Console(stderr=True)
    lab = Lab.open(given.lab, say=console.print)
    bench = Bench(lab, given.runs, given.only, console)
    if given.decide is not None:
        bench.report["decide"] = json.loads(given.decide.read_text())
    try:
        lab.up()
        bench.run()
    except KeyboardInterrupt:
        console.print("interrupted: what follows was measured until then")
    finally:
        if not given.keep:
            lab.down()
        given.json.write_text(json.dumps(bench.report, indent=1) + "\n")
        # Piped into a file the tables must not be cut.
        out = Console() if sys.stdout.isatty() else Console(width=PIPED_WIDTH)
        for table in (faults_table(bench.report["faults"]), shares_table(bench.report["faults"])):
            out.print(table)
        out.print(others_table(bench.report))
        out.print(f"written to {given.json}")


if __name__ == "__main__":
    main()
