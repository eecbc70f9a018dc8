"""The client's traffic as a background process of the lab, with its notes readable while it runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import TracebackType

from deploy.machines.lab import Lab
from deploy.trials.outage import Sample, samples_of

SCRIPT = Path(__file__).with_name("traffic.py")


class Traffic:
    """`with Traffic(lab, url, notes_file) as traffic:` sends requests until the block ends."""

    def __init__(
        self, lab: Lab, url: str, notes: Path, *, rate: float = 50.0, timeout_s: float = 3.0, seconds: float = 600.0
    ) -> None:
        self._notes = notes
        options = ["--rate", str(rate), "--timeout", str(timeout_s), "--seconds", str(seconds)]
        self._argv = lab.client_command([sys.executable, "-I", str(SCRIPT), url, *options])
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Traffic:
        self._notes.parent.mkdir(parents=True, exist_ok=True)
        with self._notes.open("wb") as out:
            self._process = subprocess.Popen(self._argv, stdout=out, stdin=subprocess.DEVNULL)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def samples(self) -> list[Sample]:
        """Return what the client has noted so far."""
        return samples_of(self._notes.read_text().splitlines())
