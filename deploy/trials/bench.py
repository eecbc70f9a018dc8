"""`make bench`: every number that was asked for, as a table and as JSON with each run and each step's share.

Outages are what the client saw. Nothing here fails on a slow number: the table says what was asked. What has been
measured is written after every run, and printed also when it is interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

from deploy.machines.commands import run
from deploy.machines.image import require_root
from deploy.machines.lab import Lab
from deploy.machines.places import CHECKOUT, LabError
from deploy.trials import report
from deploy.trials.catalogue import ENTRIES, Entry
from deploy.trials.idle import OVER_S, Cost, measure_idle
from deploy.trials.pace import Pace
from deploy.trials.planned import PLANNED, Counted, Planned, run_planned
from deploy.trials.policy import end_holds, policy_with
from deploy.trials.status import let_standbys_stand, settle
from deploy.trials.trial import Result, no_accident, run_trial
from tests.bench.decide_bench import growth

DECIDE, IDLE = "decide()", "idle daemons"
DECIDE_ABOUT_S, PLANNED_ABOUT_S = 30.0, 32.0
# A fleet that does not settle three times in a row will not do so by itself.
GIVE_UP_AFTER = 3
# systemd starts a unit five times within 10 s (StartLimitBurst) and then gives it up, which is another fault.
CRASHES_APART_S = 3.0


class Bench:
    """Measures what was chosen and keeps what came of it."""

    def __init__(self, lab: Lab, runs: int, only: str, console: Console, file: Path) -> None:
        self._lab, self._runs, self._console, self._file = lab, runs, console, file
        self._only = only
        self._results: dict[str, list[Result]] = defaultdict(list)
        self._failures: dict[str, list[str]] = defaultdict(list)
        self._counted: dict[str, list[Counted]] = defaultdict(list)
        self._costs: list[Cost] = []
        self._growth: list[dict[str, float]] = []
        self._failed_in_a_row = 0
        self._done: list[dict[str, Any]] = []
        self._began = time.time()
        self._host = {
            "cpus": os.cpu_count(),
            "load_at_start": os.getloadavg(),
            "commit": run(["git", "-C", CHECKOUT, "describe", "--always", "--dirty"], check=False).stdout.strip(),
        }
        expected = [entry.about_s for entry in self._entries() for _ in range(runs)]
        expected += [PLANNED_ABOUT_S for move in self._moves() for _ in range(self._times(move))]
        expected += [OVER_S] * self._wants(IDLE) + [DECIDE_ABOUT_S] * self._wants(DECIDE)
        self._pace = Pace(sum(expected), len(expected))

    def _wants(self, name: str) -> bool:
        return self._only in name

    def _entries(self, standby: str = "") -> list[Entry]:
        return [one for one in ENTRIES if standby in one.standby and self._wants(one.trial.name)]

    def _moves(self) -> list[Planned]:
        return [move for move in PLANNED if self._wants(move.name)]

    def _times(self, move: Planned) -> int:
        """Return how often it is made: a pause is a number like an outage, with a median."""
        return 1 if move.pause_s is None else self._runs

    # --- measuring --------------------------------------------------------------------------------------------

    def growth(self) -> None:
        """Time decide(); needs no lab."""
        if self._wants(DECIDE):
            self._timed(DECIDE, DECIDE_ABOUT_S, lambda: self._growth.extend(growth()))

    def is_empty(self) -> bool:
        """Say whether nothing was chosen."""
        return self._pace.count == 0

    def needs_lab(self) -> bool:
        """Say whether something was chosen that is measured on the lab."""
        return bool(self._entries() or self._moves() or self._wants(IDLE))

    def on_the_lab(self) -> None:
        """Do every trial; the grace is shortened, so that the fleet settles in seconds."""
        end_holds(self._lab, self._console.print)
        if self._entries("cold") or self._moves() or self._wants(IDLE):
            with policy_with(self._lab, standby="cold"):
                self._faults("cold")
                for move in self._moves():
                    for number in range(1, self._times(move) + 1):
                        name = f"{move.name}: {number} of {self._times(move)}"
                        self._timed(name, PLANNED_ABOUT_S, partial(self._planned, move))
                if self._wants(IDLE):
                    self._timed(IDLE, OVER_S, self._idle)
        if self._entries("hot"):
            with policy_with(self._lab, standby="hot"):
                self._faults("hot")

    def _faults(self, standby: str) -> None:
        for entry in self._entries(standby):
            for number in range(1, self._runs + 1):
                name = f"{entry.trial.name}: {number} of {self._runs}"
                self._timed(name, entry.about_s, partial(self._fault, entry))

    def _timed(self, name: str, about_s: float, action: Callable[[], None]) -> None:
        """Do one measurement with its progress, and write what there is so far."""
        self._console.print(f"[{self._pace.describe()}] {name}", markup=False, highlight=False, soft_wrap=True)
        began, at, load = time.monotonic(), time.time(), os.getloadavg()[0]
        action()
        took_s = time.monotonic() - began
        self._pace.note(about_s, took_s)
        self._done.append({"what": name, "at": at, "took_s": round(took_s, 1), "load_before": round(load, 2)})
        self.write()

    def _fault(self, entry: Entry) -> None:
        def once() -> None:
            result = run_trial(self._lab, entry.trial, lambda _: None)
            self._results[entry.trial.name].append(result)
            back = "" if result.returned_s is None else f", as before {result.returned_s:.0f} s after its return"
            self._say(f"{result.outage.seconds:.2f} s, {result.outage.failed} requests failed{back}", result.troubles)
            if entry.trial.kind == "crash":
                time.sleep(CRASHES_APART_S)

        self._on_a_settled_fleet(entry.trial.name, once)

    def _planned(self, move: Planned) -> None:
        def once() -> None:
            counted = run_planned(self._lab, move)
            self._counted[move.name].append(counted)
            self._say(
                f"{counted.failed} of {counted.total} requests failed, pause {counted.pause_s:.2f} s", counted.troubles
            )

        self._on_a_settled_fleet(move.name, once)

    def _idle(self) -> None:
        self._on_a_settled_fleet(IDLE, lambda: self._costs.extend(measure_idle(self._lab)))

    def _on_a_settled_fleet(self, name: str, action: Callable[[], None]) -> None:
        """Do it and mend; what went wrong is kept as this run's outcome, unless it goes on and on."""
        try:
            settle(self._lab)
            let_standbys_stand(self._lab)
            action()
            self._failed_in_a_row = 0
        except LabError as error:
            self._failures[name].append(str(error))
            self._say("no result", [str(error)])
            self._failed_in_a_row += 1
            if self._failed_in_a_row >= GIVE_UP_AFTER:
                raise
        finally:
            self._lab.mend()

    def _say(self, outcome: str, troubles: list[str] | tuple[str, ...] = ()) -> None:
        self._console.print(f"    {outcome}", style="dim", highlight=False, soft_wrap=True)
        for trouble in troubles:
            self._console.print(f"    {trouble}", style="red", markup=False, highlight=False, soft_wrap=True)

    # --- telling ----------------------------------------------------------------------------------------------

    def rows(self) -> list[report.Row]:
        """Return a row for each number of which anything was measured."""
        rows = []
        for entry in ENTRIES:
            name = entry.trial.name
            if name in self._results or name in self._failures:
                base = report.median_outage(self._results.get(entry.asked.over or "", ()))
                found, failed = self._results.get(name, []), self._failures.get(name, [])
                rows.append(report.outage_row(name, entry.asked, found, failed, base))
                fault = name.partition(":")[0]
                rows += [report.all_back_row(fault, entry.all_back, found)] if entry.all_back and found else []
                rows += [report.returned_row(fault, found)] if entry.trial.returns and found else []
        for move in PLANNED:
            if move.name in self._counted or move.name in self._failures:
                counted, failed = self._counted.get(move.name, []), self._failures.get(move.name, [])
                rows.append(report.planned_row(move.name, counted, failed))
                rows += [report.pause_row(move.name, move.pause_s, counted)] if move.pause_s and counted else []
        undisturbed = [one.trial.name for one in self._entries("cold") if one.trial.accident is no_accident]
        first_tasks = report.first_task_row(one for name in undisturbed for one in self._results.get(name, ()))
        rows += [first_tasks] if first_tasks.values else []
        return [*rows, *report.idle_rows(self._costs), *report.decide_rows(self._growth)]

    def write(self) -> None:
        """Write everything as JSON; the file is replaced whole."""
        told = {
            "began": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(self._began)),
            "took_s": round(time.time() - self._began, 1),
            "chosen": {"runs": self._runs, "only": self._only},
            "complete": self._pace.done == self._pace.count,
            "host": {**self._host, "load_at_end": os.getloadavg()},
            "done": self._done,
            "rows": [row.plain() for row in self.rows()],
            "runs": {name: [asdict(result) for result in found] for name, found in self._results.items()},
            "without_result": self._failures,
            "planned": [asdict(one) for counted in self._counted.values() for one in counted],
            "idle": [asdict(cost) for cost in self._costs],
            "decide": self._growth,
        }
        fresh = self._file.with_name(f"{self._file.name}.new")
        fresh.write_text(json.dumps(told, indent=1) + "\n")
        fresh.replace(self._file)

    def show(self, out: Console) -> None:
        """Print the tables and where the JSON is."""
        rows = self.rows()
        if not rows:
            out.print("Nothing was measured.")
            return
        out.print(report.report_table(rows))
        for row in rows:
            for trouble in row.troubles:
                out.print(f"{row.name}: {trouble}", style="red", markup=False, highlight=False, soft_wrap=True)
        if any(row.shares_s for row in rows):
            out.print(report.shares_table(rows))
            out.print(report.SHARES_EXPLAINED)
        out.print(
            f"Took {(time.time() - self._began) / 60:.0f} min; every run, with the load of the machine before it:"
            f" {self._file}",
            soft_wrap=True,
        )


def names() -> list[str]:
    """Return the names that `--only` is held against."""
    return [*(entry.trial.name for entry in ENTRIES), *(move.name for move in PLANNED), IDLE, DECIDE]


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure everything that was asked for.")
    parser.add_argument("--runs", type=int, default=10, help="of each fault (default 10)")
    parser.add_argument("--only", default="", help="only what has this text in its name")
    parser.add_argument("--lab", help="the lab's name (default: ORCH_LAB_NAME, else orch-bench)")
    parser.add_argument("--keep", action="store_true", help="leave the lab up; one that was up before always stays")
    parser.add_argument("--json", type=Path, default=CHECKOUT / "bench.json", help="where everything is written")
    return parser.parse_args()


def main() -> int:
    """Run the bench; 0 when all of it was measured, 1 when not, 130 when it was interrupted."""
    given = _options()
    signal.signal(signal.SIGTERM, _interrupt)
    notes = Console(stderr=True)
    out = Console() if sys.stdout.isatty() else Console(width=180)
    status = 0
    try:
        lab = Lab.open(given.lab or os.environ.get("ORCH_LAB_NAME") or "orch-bench", say=notes.print)
        state = lab.state()
        if state is not None and state.faults:
            raise LabError(f"the lab {lab.places.name!r} has faults in force; `deploy/lab mend` undoes them")
        bench = Bench(lab, given.runs, given.only, notes, given.json)
        if bench.is_empty():
            raise LabError(f"nothing has {given.only!r} in its name; there are: {', '.join(names())}")
        if bench.needs_lab():
            require_root()
    except LabError as error:
        notes.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        return 1
    leave_up = given.keep or not bench.needs_lab() or (state is not None and state.phase == "up")
    try:
        bench.growth()
        if bench.needs_lab():
            lab.up()
            bench.on_the_lab()
    except LabError as error:
        notes.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        status = 1
    except KeyboardInterrupt:
        notes.print("[yellow]interrupted; what follows is what was measured until then[/]")
        status = 130
    finally:
        # A second Ctrl-C would leave behind what the first one meant to end.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if not leave_up:
            notes.print("taking the lab down")
            with suppress(LabError):
                lab.down()
    bench.show(out)
    return status


if __name__ == "__main__":
    sys.exit(main())
