"""The client's traffic as a background process of the lab, with its notes readable while it runs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, TypeVar

from deploy.machines.lab import Lab
from deploy.machines.places import CHECKOUT
from deploy.trials.outage import Outage, Sample, outage_from, samples_of

SCRIPT = Path(__file__).with_name("traffic.py")
# Longer than the slowest request may take.
ENDS_WITHIN_S = 15.0

C = TypeVar("C", bound="Background")


class Background:
    """`with Background(command, notes) as running:` runs a program that writes its notes to standard output, until the
    block ends. The end is told by SIGTERM, and by the end of its standard input where no signal reaches it."""

    def __init__(self, command: Sequence[str], notes: Path) -> None:
        self._command, self._notes = command, notes
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self: C) -> C:
        self._notes.parent.mkdir(parents=True, exist_ok=True)
        with self._notes.open("wb") as out:
            self._process = subprocess.Popen(self._command, stdout=out, stdin=subprocess.PIPE, cwd=CHECKOUT)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            if self._process.stdin is not None:
                self._process.stdin.close()
            self._process.terminate()
            try:
                self._process.wait(timeout=ENDS_WITHIN_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


class Client(Protocol):
    """What a trial asks of the traffic that it is measured by."""

    def __enter__(self) -> Client:
        """Begin."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End."""

    def samples(self) -> list[Sample]:
        """Return what became of each request so far."""

    def requests(self) -> int:
        """Return how many requests have ended so far."""

    def outage(self, fault_at: float) -> Outage:
        """Return what the client saw of an outage from the fault on."""

    def all_back(self, fault_at: float) -> Outage | None:
        """Return how long it took until every service was back; None where this traffic does not need them all."""

    def troubles(self) -> list[str]:
        """Return what is not as the client was told, now that its traffic has ended."""


class Traffic(Background):
    """`with Traffic(lab, url, notes_file) as traffic:` sends requests until the block ends."""

    def __init__(
        self, lab: Lab, url: str, notes: Path, *, rate: float = 50.0, timeout_s: float = 3.0, seconds: float = 600.0
    ) -> None:
        options = ["--rate", str(rate), "--timeout", str(timeout_s), "--seconds", str(seconds)]
        super().__init__(lab.client_command([sys.executable, "-I", str(SCRIPT), url, *options]), notes)

    def samples(self) -> list[Sample]:
        """Return what the client has noted so far."""
        return samples_of(self._notes.read_text().splitlines())

    def requests(self) -> int:
        """Return how many requests have ended so far."""
        return len(self.samples())

    def outage(self, fault_at: float) -> Outage:
        """Return the longest silence from the fault on."""
        return outage_from(self.samples(), fault_at)

    def all_back(self, fault_at: float) -> Outage | None:
        """Return nothing: a request needs some of them."""
        return None

    def troubles(self) -> list[str]:
        """Answered is all that a request can be."""
        return []
