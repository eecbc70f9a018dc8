"""A VM whose clock is set while its programs run.

The VMs of the lab have their host's clock, and their kernel is the host's. So their programs are given a clock of their
own, by a library that is preloaded (own_clock.c) and a file that says by how much it is set. Programs in Go ask the
kernel past any library: Consul keeps the host's clock, by which it decides nothing.
"""

from __future__ import annotations

import contextlib
import email.utils
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from deploy.machines.lab import Lab
from deploy.trials.status import wait_until

HOUR_S = 3600.0
DAEMONS = {"orch-controller": 9701, "orch-worker": 9702, "orch-guard": 9703}
MARIADB = "mariadb"
# The units may write to neither; a file in /run is in memory, and what is mapped of it stays the same.
LIBRARY, FILE = "/usr/local/lib/own-clock.so", "/run/own-clock"
DROP_IN = "zz-own-clock.conf"
PRELOADED = f"[Service]\nEnvironment=LD_PRELOAD={LIBRARY} CLOCK_FILE={FILE}\n"
# In place: a file that was cut off would end whoever has mapped it.
SET = "import os, struct, sys; os.pwrite(os.open(sys.argv[1], os.O_WRONLY), struct.pack('=q', int(sys.argv[2])), 0)"
# `Date` of an answer has whole seconds, and a busy host some more.
NEARLY_S = 10.0


def library(folder: Path) -> bytes:
    """Return the library that is preloaded, made for this host, whose release the VMs have."""
    made = folder / "own-clock.so"
    source = Path(__file__).with_name("own_clock.c")
    subprocess.run(["cc", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", made, source], check=True)
    return made.read_bytes()


class OwnClock:
    """The clock of those units of a VM that were started with it."""

    def __init__(self, lab: Lab, vm: str, units: Sequence[str]) -> None:
        self.vm, self.units = vm, tuple(units)
        self._lab = lab
        self._ahead_s, self._set_at, self._lead_s = 0.0, time.monotonic(), 0.0

    def set(self, ahead_s: float) -> None:
        """Set it so many seconds ahead of the host's, all at once; returns when every unit is seen to go by it."""
        self._lead_s = self._led_s()
        self._lab.run(self.vm, ["python3", "-c", SET, FILE, f"{ahead_s:.0f}"], timeout_s=20)
        self._ahead_s, self._set_at = ahead_s, time.monotonic()
        for unit in self.units:
            wait_until(
                f"{unit} on {self.vm} is {ahead_s:+g} s ahead",
                lambda unit=unit: abs(self.ahead_s(unit) - ahead_s) < NEARLY_S,
                20,
            )

    def wait_until_even(self) -> None:
        """Wait, while it is behind, until it has been so for as long as it was ahead.

        A leader comes nearer to it by as much a second either way: what it has noted then is in nobody's future.
        """
        assert self._ahead_s < 0
        wait_until("it was behind as long as ahead", lambda: self._led_s() <= 0, 300)

    def _led_s(self) -> float:
        """Return for how long it was ahead, less for how long it was behind."""
        lasted_s = time.monotonic() - self._set_at
        return self._lead_s + (lasted_s if self._ahead_s > 0 else -lasted_s if self._ahead_s < 0 else 0.0)

    def ahead_s(self, unit: str) -> float:
        """Return how far ahead of the host's the clock is by which the running unit goes."""
        if unit == MARIADB:
            return float(self._said(["mariadb", "-N", "-e", "SELECT UNIX_TIMESTAMP()"])) - time.time()
        answer = self._said(["curl", "-sS", "-D", "-", "-o", "/dev/null", f"http://127.0.0.1:{DAEMONS[unit]}/health"])
        headers = dict(line.split(": ", 1) for line in answer.splitlines() if ": " in line)
        return email.utils.parsedate_to_datetime(headers["Date"]).timestamp() - time.time()

    def _said(self, argv: Sequence[str]) -> str:
        return self._lab.run(self.vm, argv, timeout_s=20).stdout


@contextlib.contextmanager
def own_clock(lab: Lab, vm: str, units: Sequence[str], folder: Path) -> Iterator[OwnClock]:
    """Start these units of the VM anew with a clock of their own, and at the end with the host's again."""
    disk = lab.machine(vm).root
    (disk / LIBRARY.lstrip("/")).write_bytes(library(folder))
    lab.run(vm, ["dd", "if=/dev/zero", f"of={FILE}", "bs=8", "count=1", "status=none"], timeout_s=20)
    drop_ins = [f"/run/systemd/system/{unit}.service.d/{DROP_IN}" for unit in units]
    try:
        for drop_in in drop_ins:
            lab.run(vm, ["install", "-D", "-m", "644", "/dev/stdin", drop_in], text_input=PRELOADED, timeout_s=20)
        start_anew(lab, vm, units)
        yield OwnClock(lab, vm, units)
    finally:
        lab.run(vm, ["rm", "-f", *drop_ins], timeout_s=20)
        start_anew(lab, vm, units)
        lab.run(vm, ["rm", "-f", LIBRARY, FILE], timeout_s=20)


def start_anew(lab: Lab, vm: str, units: Sequence[str]) -> None:
    """Restart the units with what their drop-ins say now."""
    lab.run(vm, ["systemctl", "daemon-reload"], timeout_s=60)
    lab.run(vm, ["systemctl", "restart", *units], timeout_s=120)
