"""`make demo`: watch a real failover and a real failback, then look around."""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import Any

from rich.console import Console
from rich.table import Table

from deploy.machines.lab import Lab
from deploy.machines.places import LabError
from deploy.trials.trial import BACKEND_URL, WITNESS, Result, Trial, fleet_status, run_trial, settle

TRIAL = Trial("backend killed", "kill", "backend-server", "backend", BACKEND_URL)
FAILBACK_WITHIN_S = 150.0


class Journal(threading.Thread):
    """Prints the orchestrator's own history while things happen."""

    def __init__(self, lab: Lab, console: Console) -> None:
        super().__init__(name="journal", daemon=True)
        self._lab = lab
        self._console = console
        self._ended = threading.Event()
        self._seen: set[str] = set()

    def run(self) -> None:
        """Poll the history until stopped; what stood there before is not shown."""
        self._seen = {entry["id"] for entry in self._entries()}
        while not self._ended.wait(0.4):
            for entry in self._entries():
                if entry["id"] not in self._seen:
                    self._seen.add(entry["id"])
                    at = time.strftime("%H:%M:%S", time.localtime(entry["at"]))
                    self._console.print(f"  [cyan]{at}[/] {entry['reason']}", highlight=False)

    def _entries(self) -> list[dict[str, Any]]:
        told = self._lab.run(WITNESS, ["orch", "--json", "history"], check=False, timeout_s=20)
        try:
            found = json.loads(told.stdout)
        except ValueError:
            return []
        return list(found["history"] if isinstance(found, dict) else found)

    def stop(self) -> None:
        """End after the round that is under way."""
        self._ended.set()
        self.join(timeout=25)


def steps_table(result: Result) -> Table:
    """Return the outage as the client saw it, and each step's share."""
    table = Table(
        "step", "after the fault", "share", title=f"{result.trial}: {result.outage.seconds:.2f} s without service"
    )
    for step in result.steps:
        table.add_row(step.name, f"{step.after_fault_s:.2f} s", f"{step.share_s:.2f} s")
    return table


def show(lab: Lab, console: Console) -> Result:
    """Take the backend away, show failover; mend, show failback."""
    journal = Journal(lab, console)
    journal.start()
    try:
        console.rule("The backend's process is killed and cannot start again on backend-server")
        result = run_trial(lab, TRIAL, lambda text: console.print(f"  [red]{text}[/]"))
        console.rule("backend-server is mended: the service comes home by itself after its grace")
        lab.mend()
        deadline = time.monotonic() + FAILBACK_WITHIN_S
        while fleet_status(lab).get("services", {}).get("backend", {}).get("active") != "backend-server":
            if time.monotonic() > deadline:
                raise LabError(f"the backend did not come home within {FAILBACK_WITHIN_S:g} s")
            time.sleep(0.5)
        settle(lab)
    finally:
        journal.stop()
    return result


def look_around(lab: Lab, console: Console) -> None:
    """Say how to look around and how to take it down."""
    name = "" if lab.places.name == "orch" else f"ORCH_LAB_NAME={lab.places.name} "
    console.rule("Look around")
    console.print(f"  Consul UI      {lab.status()['ui']}")
    console.print(f"  status         {name}./deploy/lab exec messaging-server -- orch status")
    console.print(f"  why            {name}./deploy/lab exec messaging-server -- orch why backend")
    console.print(f"  another fault  {name}./deploy/lab fault cut frontend-server   (then: {name}./deploy/lab mend)")
    console.print(f"  a shell        {name}./deploy/lab shell backend-server")
    console.print(f"  take it down   {name}./deploy/lab down")


def main() -> int:
    """Run the demo; the lab stays up afterwards."""
    console = Console()
    lab = Lab.open(say=console.print)
    try:
        lab.up()
        settle(lab)
        result = show(lab, console)
    except LabError as error:
        console.print(f"[red]{error}[/]")
        console.print("The lab is left as it is; `./deploy/lab status` tells more, `./deploy/lab down` takes it down.")
        return 1
    console.print(steps_table(result))
    look_around(lab, console)
    return 0


if __name__ == "__main__":
    sys.exit(main())
