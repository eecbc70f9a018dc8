"""`make demo`: watch a real failover and a real failback, then look around."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.table import Table

from deploy.machines.image import require_root
from deploy.machines.lab import Lab
from deploy.machines.places import DEFAULT_LAB_NAME, LabError
from deploy.trials.client import Traffic
from deploy.trials.outage import is_served_again, outage_from, servers_of
from deploy.trials.policy import end_holds
from deploy.trials.status import WITNESS, fleet_status, settle, wait_until
from deploy.trials.trial import BACKEND_URL, SERVED_AGAIN_WITHIN_S, Result, Trial, run_trial

FAILBACK_WITHIN_S = 150.0
# For a person: that somebody else's lab is about to be used should be read before it is.
SECOND_THOUGHTS_S = 5.0
WATCHING_RATE = 10.0


class Live(threading.Thread):
    """Prints the orchestrator's own history, and who serves the client, while things happen."""

    def __init__(self, lab: Lab, traffic: Traffic, console: Console) -> None:
        super().__init__(name="live", daemon=True)
        self._lab = lab
        self._traffic = traffic
        self._console = console
        self._ended = threading.Event()
        self._turns = 0
        # What stood in the history before is not shown.
        self._seen = {entry["id"] for entry in self._entries()}

    def run(self) -> None:
        """Look several times a second until stopped."""
        while not self._ended.wait(0.3):
            self._tell_news()

    def _tell_news(self) -> None:
        news: list[tuple[float, str, str]] = []
        for entry in self._entries():
            if entry["id"] not in self._seen:
                self._seen.add(entry["id"])
                news.append((entry["at"], "cyan", f"orch    {entry['reason']}"))
        turns = servers_of(self._traffic.samples())
        for at, by in turns[self._turns :]:
            news.append((at, "green" if by else "red", f"client  {f'is served by {by}' if by else 'gets no answer'}"))
        self._turns = max(self._turns, len(turns))
        for at, colour, text in sorted(news):
            self.tell(at, colour, text)

    def tell(self, at: float, colour: str, text: str) -> None:
        """Print one line with the time at which it happened."""
        moment = f"{time.strftime('%H:%M:%S', time.localtime(at))}.{int(at % 1 * 10)}"
        line = Table.grid(padding=(0, 2))
        line.add_row(f"  {moment}", f"[{colour}]{text[:8]}[/]", text[8:])
        self._console.print(line)

    def _entries(self) -> list[dict[str, Any]]:
        told = self._lab.run(WITNESS, ["orch", "--json", "history"], check=False, timeout_s=20)
        try:
            found = json.loads(told.stdout)
        except ValueError:
            return []
        return list(found["history"] if isinstance(found, dict) else found)

    def stop(self) -> None:
        """End after the round that is under way, and tell what came last."""
        self._ended.set()
        self.join(timeout=25)
        self._tell_news()


def steps_table(result: Result) -> Table:
    """Return the failover's steps with each one's share of the outage."""
    table = Table("step", "s after the fault", "share, s")
    for step in result.steps:
        share = "meanwhile" if step.share_s is None else f"{step.share_s:.2f}"
        table.add_row(step.name, f"{step.after_fault_s:.2f}", share)
    return table


def show(lab: Lab, console: Console) -> None:
    """Take the backend away, show failover; mend, show failback; then the table."""
    home = fleet_status(lab)["services"]["backend"]["active"]
    with tempfile.TemporaryDirectory(prefix="orch-demo-") as folder:
        with Traffic(lab, BACKEND_URL, Path(folder) / "notes.jsonl", rate=WATCHING_RATE) as traffic:
            live = Live(lab, traffic, console)
            live.start()
            try:
                wait_until("the client is served", lambda: is_served_again(traffic.samples(), 0.0, 5), 30)
                console.rule(f"1  The backend on {home} is killed, and kept from starting again there")
                result = run_trial(lab, Trial("backend killed", "kill", home, "backend", BACKEND_URL), lambda _: None)
                console.rule(f"2  {home} is mended: after the grace the backend comes home by itself")
                mended_at = time.time()
                lab.mend()
                _wait_home(lab, home, console)
                came_home_at = time.time()
                wait_until(
                    "the client is served",
                    lambda: is_served_again(traffic.samples(), came_home_at, 5),
                    SERVED_AGAIN_WITHIN_S,
                )
            finally:
                live.stop()
        failback = outage_from(traffic.samples(), mended_at)
    console.rule("Numbers")
    seconds = f"{result.outage.seconds:.2f} s"
    console.print(
        f"Failover: {seconds} without service, as the client saw it; the shares add up to that.", highlight=False
    )
    console.print(steps_table(result))
    console.print(f"Failback: {failback.failed} of {failback.total} requests failed.", highlight=False)


def _wait_home(lab: Lab, home: str, console: Console) -> None:
    began = time.monotonic()
    with console.status("") as status:
        while fleet_status(lab).get("services", {}).get("backend", {}).get("active") != home:
            waited_s = time.monotonic() - began
            if waited_s > FAILBACK_WITHIN_S:
                raise LabError(f"the backend did not come home within {FAILBACK_WITHIN_S:g} s")
            status.update(f"waiting for the failback, {waited_s:.0f} s so far (the grace alone is 60 s)")
            time.sleep(0.5)
        status.update("waiting until all is as before")
        settle(lab)


def look_around(lab: Lab, console: Console) -> None:
    """Say how to look around and how to take it down."""
    name = prefix(lab)
    console.rule("Look around")
    for what, how in (
        ("Consul UI", str(lab.status()["ui"])),
        ("its token", f"{name}./deploy/lab exec messaging-server -- cat /etc/orch/consul/ui"),
        ("status", f"{name}./deploy/lab exec messaging-server -- orch status"),
        ("why", f"{name}./deploy/lab exec messaging-server -- orch why backend"),
        ("a fault", f"{name}./deploy/lab fault cut frontend-server"),
        ("undo it", f"{name}./deploy/lab mend"),
        ("a shell", f"{name}./deploy/lab shell backend-server"),
        ("take it down", f"{name}./deploy/lab down"),
    ):
        console.print(f"  {what:<13} {how}", highlight=False, soft_wrap=True)


def prefix(lab: Lab) -> str:
    """Return what has to stand before `./deploy/lab` for this lab."""
    return "" if lab.places.name == DEFAULT_LAB_NAME else f"ORCH_LAB_NAME={lab.places.name} "


def bring_up(lab: Lab, console: Console) -> None:
    """Bring the lab up; one that somebody has up is used as it is, after saying so, and never with faults in force."""
    require_root()
    state = lab.state()
    if state is not None and state.phase == "up":
        if state.faults:
            faults = ", ".join(f"{fault.describe()} on {fault.vm}" for fault in state.faults)
            mend = f"{prefix(lab)}./deploy/lab mend"
            raise LabError(f"the lab {lab.places.name!r} is up with faults in force ({faults}); `{mend}` undoes them")
        console.print(
            f"The lab {lab.places.name!r} is up already. The demo uses it as it is and takes its backend away for a"
            " while; `ORCH_LAB_NAME=another make demo` leaves it alone.",
            highlight=False,
        )
        if console.is_terminal:
            time.sleep(SECOND_THOUGHTS_S)
    lab.up()
    end_holds(lab, console.print)
    with console.status("waiting until every service is served where it should be"):
        settle(lab)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Run the demo; the lab stays up afterwards. 0 when it went to its end, 1 when not, 130 when interrupted."""
    console = Console()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        lab = Lab.open(say=lambda text: console.print(text, highlight=False))
    except LabError as error:
        console.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        return 1
    try:
        bring_up(lab, console)
        show(lab, console)
    except LabError as error:
        console.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        _say_what_orch_says(lab, console)
        _say_what_is_left(lab, console)
        return 1
    except KeyboardInterrupt:
        console.print("\nInterrupted.")
        _say_what_is_left(lab, console)
        return 130
    look_around(lab, console)
    return 0


def _say_what_orch_says(lab: Lab, console: Console) -> None:
    """Tell why a service is not as it should be: after too many failovers in a row, for example, it is held."""
    with contextlib.suppress(LabError):
        for name, service in fleet_status(lab).get("services", {}).items():
            if service.get("problem"):
                console.print(f"orch says of {name}: {service['problem']}", markup=False, highlight=False)
            if service.get("hold_until"):
                command = f"{prefix(lab)}./deploy/lab exec messaging-server -- orch resume {name}"
                console.print(f"It is held after too many failovers; `{command}` ends that.", highlight=False)


def _say_what_is_left(lab: Lab, console: Console) -> None:
    state = lab.state()
    if state is None:
        return
    name = prefix(lab)
    faults = f" with its fault in force (`{name}./deploy/lab mend` undoes it)" if state.faults else ""
    half_made = "" if state.phase == "up" else f", half-made; `{name}make demo` makes it anew"
    console.print(
        f"The lab stays as it is{faults}{half_made}. `{name}./deploy/lab down` takes it down.", highlight=False
    )


if __name__ == "__main__":
    sys.exit(main())
