"""`make soak`: random faults, singly and in pairs, on a fleet that is written to all the time; judged after each.

What was acknowledged must be there, once, in both copies of the database, and its message consumed. The first round
after which it is not ends the soak with 1, as do rounds that the fleet does not come back from; how long anything took
is the bench's business. Everything is written to a JSON file after every
round, with the seed that does the same again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

from deploy.machines.commands import run
from deploy.machines.image import require_root
from deploy.machines.lab import Lab
from deploy.machines.places import CHECKOUT, LabError
from deploy.trials import harm, ledger
from deploy.trials.books import Writers, left_unindexed, unlike_each_other, unlike_the_ledger
from deploy.trials.harm import Harm, Round
from deploy.trials.outage import is_served_again
from deploy.trials.pace import Pace
from deploy.trials.policy import end_holds, policy_now, policy_with
from deploy.trials.status import fleet_status, settle, wait_until, witness_of

# Light enough that what a fault does is not what the load does, on two cores with four VMs.
WRITES_PER_S = 10.0
FAULT_ABOUT_S = 60.0
WRITTEN_WITHIN_S = 60.0
# A fleet that does not settle twice in a row will not do so by itself.
GIVE_UP_AFTER = 2
# As many of the latest tries are looked at to see whether writes are acknowledged: a soak has tens of thousands.
RECENT = 500
NO_ANSWER = (LabError, subprocess.TimeoutExpired)


@dataclass
class Judged:
    """What came of one round."""

    what: str
    at: float
    done: list[dict[str, Any]] = field(default_factory=list)
    """The faults that were done."""
    took_s: float = 0.0
    silent_s: float = 0.0
    """The longest time without an acknowledged write."""
    acknowledged: int = 0
    """Since the soak began."""
    losses: list[str] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    """Why the round came to no end: no loss, and not as it should be."""


def faults_done(judged: Sequence[Judged]) -> int:
    """Count the faults."""
    return sum(len(one.done) for one in judged)


def is_well(judged: Sequence[Judged], faults: int) -> bool:
    """Say whether so many faults were done, and after each round all was there and the fleet came back."""
    return faults_done(judged) >= faults and not any(one.losses or one.troubles for one in judged)


class Soak:
    """Does the rounds on a lab that is up."""

    def __init__(self, lab: Lab, seed: int, faults: int, longest_s: float, console: Console, file: Path) -> None:
        self._lab, self._seed, self._faults, self._console, self._file = lab, seed, faults, console, file
        self._deadline = time.monotonic() + longest_s
        self._began = time.time()
        self._judged: list[Judged] = []

    def on_the_lab(self) -> None:
        """Do round after round until there were enough faults, something is lost, or the fleet comes back no more."""
        end_holds(self._lab, self._console.print)
        services = policy_now(self._lab)["services"]
        running = {
            name: one["order"] if one["standby"] == "hot" else one["order"][:1] for name, one in services.items()
        }
        primary, standby = services["database"]["order"]
        pace = Pace(FAULT_ABOUT_S * self._faults, self._faults)
        seconds = self._deadline - time.monotonic() + 600.0
        with policy_with(self._lab), tempfile.TemporaryDirectory(prefix="orch-soak-") as folder:
            notes = Path(folder) / "ledger.jsonl"
            with Writers(self._lab, notes, rate=WRITES_PER_S, seconds=seconds) as writers:
                self._wait_written(writers, time.time())
                for one in harm.rounds_from(self._seed, running, [vm.name for vm in self._lab.fleet.vms]):
                    if faults_done(self._judged) >= self._faults or self._is_lost():
                        break
                    if time.monotonic() > self._deadline:
                        self._console.print("the limit is reached; what is left is left out", style="yellow")
                        break
                    self._console.print(f"[{pace.describe()}] {one.describe()}", markup=False, highlight=False)
                    judged = self._round(one, writers, (primary, standby))
                    for _ in judged.done:
                        pace.note(FAULT_ABOUT_S, judged.took_s / len(judged.done))
                    self._tell(judged)
                    if judged.losses:
                        # The rows, logs and files of now say why; those of ten faults later do not.
                        break
                    end_holds(self._lab, self._console.print)

    def _round(self, one: Round, writers: Writers, copies: tuple[str, str]) -> Judged:
        judged, began = Judged(one.describe(), time.time()), time.monotonic()
        try:
            for number, each in enumerate(one.harms):
                if number and one.is_mended_between:
                    self._lab.mend()
                if self._do(each):
                    judged.done.append(asdict(each))
        except NO_ANSWER as error:
            judged.troubles.append(str(error))
        finally:
            self._lab.mend()
        try:
            settle(self._lab)
            self._wait_written(writers, time.time())
        except NO_ANSWER as error:
            judged.troubles.append(f"{error}: {self._state()}")
        try:
            # Also of a fleet that has not settled: what is lost is what matters most.
            judged.losses += unlike_the_ledger(self._lab, writers)
            if not judged.troubles:
                judged.losses += left_unindexed(self._lab, writers)
                judged.losses += unlike_each_other(self._lab, copies, writers)
        except NO_ANSWER as error:
            judged.troubles.append(f"not judged: {error}")
        judged.took_s = round(time.monotonic() - began, 1)
        judged.silent_s = round(writers.outage(judged.at).seconds, 2)
        judged.acknowledged = writers.acknowledged_since(0.0)
        self._judged.append(judged)
        self.write()
        return judged

    def _do(self, each: Harm) -> bool:
        """Do harm and let it last; False where there is nothing to be done to, as an earlier fault moved it away."""
        options = harm.SLOW if each.kind == "slow" else {}
        try:
            self._lab.fault(each.kind, each.vm, each.service, **options)
        except LabError as error:
            if "does not run" not in str(error):
                raise
            self._console.print(f"    {each.service} does not run on {each.vm}: nothing done", style="dim")
            return False
        time.sleep(each.lasts_s)
        return True

    def _wait_written(self, writers: Writers, since: float) -> None:
        def is_written() -> bool:
            return is_served_again(ledger.samples_of_tries(writers.tries()[-RECENT:]), since)

        wait_until("writes are acknowledged", is_written, WRITTEN_WITHIN_S, 0.3)

    def _state(self) -> str:
        """Return in a sentence what is not as it should be."""
        try:
            status = fleet_status(self._lab)
        except NO_ANSWER as error:
            return str(error)
        services = {name: (one["active"], one["healthy"]) for name, one in status.get("services", {}).items()}
        return f"{witness_of(self._lab)} says {services}, {status.get('diagnoses')}"

    def _is_lost(self) -> bool:
        """Say whether the fleet no longer comes back."""
        last = self._judged[-GIVE_UP_AFTER:]
        return len(last) == GIVE_UP_AFTER and all(one.troubles for one in last)

    def _tell(self, judged: Judged) -> None:
        self._console.print(
            f"    {judged.acknowledged} acknowledged, silent for up to {judged.silent_s:.1f} s,"
            f" all over after {judged.took_s:.0f} s",
            style="dim",
            highlight=False,
        )
        for said in (*judged.losses, *judged.troubles):
            self._console.print(f"    {said}", style="red", markup=False, highlight=False, soft_wrap=True)

    def is_well(self) -> bool:
        """Say whether all faults were done and nothing was lost after any."""
        return is_well(self._judged, self._faults)

    def describe(self) -> str:
        """Return the outcome in one sentence."""
        lost = [said for one in self._judged for said in one.losses]
        acknowledged = self._judged[-1].acknowledged if self._judged else 0
        outcome = f"{len(lost)} findings of loss" if lost else "nothing lost, doubled or left unindexed"
        done = f"seed {self._seed}: {faults_done(self._judged)} faults, {acknowledged} listings acknowledged"
        return f"{done}, {outcome}; {self._file}"

    def write(self) -> None:
        """Write everything as JSON; the file is replaced whole."""
        told: dict[str, Any] = {
            "began": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(self._began)),
            "took_s": round(time.time() - self._began, 1),
            "seed": self._seed,
            "faults": self._faults,
            "commit": run(["git", "-C", CHECKOUT, "describe", "--always", "--dirty"], check=False).stdout.strip(),
            "done": faults_done(self._judged),
            "ok": self.is_well(),
            "rounds": [asdict(one) for one in self._judged],
        }
        fresh = self._file.with_name(f"{self._file.name}.new")
        fresh.write_text(json.dumps(told, indent=1) + "\n")
        fresh.replace(self._file)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Random faults under writes; 1 when anything acknowledged is lost.")
    parser.add_argument("--faults", type=int, default=30, help="how many (default 30)")
    parser.add_argument("--seed", type=int, help="the same faults again (default: a new one, printed)")
    parser.add_argument("--minutes", type=float, default=90.0, help="no further round after so long (default 90)")
    parser.add_argument("--lab", help="the lab's name (default: ORCH_LAB_NAME, else orch-soak)")
    parser.add_argument("--keep", action="store_true", help="leave the lab up; one that was up before always stays")
    parser.add_argument("--json", type=Path, default=CHECKOUT / "soak.json", help="where everything is written")
    return parser.parse_args()


def main() -> int:
    """Run the soak; 0 when all was done and nothing lost, 1 when not, 130 when it was interrupted."""
    given = _options()
    signal.signal(signal.SIGTERM, _interrupt)
    console = Console(stderr=True)
    seed = given.seed if given.seed is not None else random.SystemRandom().randrange(1_000_000)
    try:
        lab = Lab.open(given.lab or os.environ.get("ORCH_LAB_NAME") or "orch-soak", say=console.print)
        state = lab.state()
        if state is not None and state.faults:
            raise LabError(f"the lab {lab.places.name!r} has faults in force; `deploy/lab mend` undoes them")
        require_root()
    except LabError as error:
        console.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        return 1
    console.print(f"seed {seed}: {given.faults} faults (`--seed {seed} --faults {given.faults}` does them again)")
    leave_up = given.keep or (state is not None and state.phase == "up")
    soak, status = Soak(lab, seed, given.faults, given.minutes * 60, console, given.json), 0
    try:
        lab.up()
        soak.on_the_lab()
        status = 0 if soak.is_well() else 1
    except LabError as error:
        console.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        status = 1
    except KeyboardInterrupt:
        console.print("[yellow]interrupted; what follows is what was done until then[/]")
        status = 130
    finally:
        # A second Ctrl-C would leave behind what the first one meant to end.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        soak.write()
        if not leave_up:
            console.print("taking the lab down")
            with suppress(LabError):
                lab.down()
    Console().print(soak.describe(), soft_wrap=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
