"""The writers as background processes of the lab, and their ledger held against what is in the databases."""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType

from deploy.machines.lab import Lab
from deploy.trials import ledger
from deploy.trials.client import Background
from deploy.trials.ledger import Reading, Row, Try, note_of, rows_of
from deploy.trials.outage import Outage, Sample
from deploy.trials.status import witness_of
from deploy.trials.timeline import kv_of
from deploy.trials.trial import BACKEND_URL

# A message may wait for a broker that has just come back, and for the application to reconnect.
INDEXED_WITHIN_S = 30.0
ALIKE_WITHIN_S = 20.0
ROWS = "SELECT request_key, id, indexed_at IS NOT NULL FROM listings.listings WHERE request_key LIKE '{prefix}%'"
IN_THE_VM = Path(__file__).with_name("local_writer.py")
PYTHON = "/opt/orch/venv/bin/python"
# The local proxy's address on every VM: where the application finds the database.
PROXY = "127.0.0.1"
STRAIGHT_RATE = 10.0
# Home first.
DATABASES = ("database-server", "backend-server")
_runs = itertools.count(1)


def new_prefix() -> str:
    """Return what the keys of one run begin with, unlike any other run's."""
    return f"t{int(time.time())}-{os.getpid()}-{next(_runs)}-"


class Writing(Background):
    """A background process that notes tries and readings."""

    def __init__(self, command: list[str], notes: Path, prefix: str, *, confirmed: bool = False) -> None:
        super().__init__(command, notes)
        self.prefix = prefix
        self._confirmed = confirmed
        self._read, self._rest = 0, b""
        self._tries: list[Try] = []
        self._readings: list[Reading] = []

    def tries(self) -> list[Try]:
        """Return every try that has ended so far, in the order in which they ended."""
        self._catch_up()
        return self._tries

    def readings(self) -> list[Reading]:
        """Return every acknowledged listing that was asked for so far."""
        self._catch_up()
        return self._readings

    def acknowledged_since(self, since: float) -> int:
        """Count the acknowledged tries that began after `since`."""
        return sum(one.is_acknowledged and one.began > since for one in self.tries())

    def _catch_up(self) -> None:
        """Read what was noted since the last time: a long run is looked at again and again."""
        with self._notes.open("rb") as notes:
            notes.seek(self._read)
            fresh = notes.read()
        self._read += len(fresh)
        *lines, self._rest = (self._rest + fresh).split(b"\n")
        for note in map(note_of, (line.decode() for line in lines)):
            if isinstance(note, Reading):
                self._readings.append(note)
            elif note is not None:
                self._tries.append(note)

    # --- as a trial's client (client.Client) ------------------------------------------------------------------

    def samples(self) -> list[Sample]:
        """Return the tries; good is what was acknowledged, or confirmed where that is what is measured."""
        return ledger.samples_of_tries(self.tries(), confirmed=self._confirmed)

    def requests(self) -> int:
        """Return how many requests have ended so far: what was acknowledged was read back too."""
        return len(self.tries()) + len(self.readings())

    def outage(self, fault_at: float) -> Outage:
        """Return how long nothing was acknowledged from the fault on."""
        return ledger.write_outage(self.tries(), fault_at, confirmed=self._confirmed)

    def all_back(self, fault_at: float) -> Outage | None:
        """Return how long nothing was confirmed from the fault on: that needs all four services."""
        return ledger.write_outage(self.tries(), fault_at, confirmed=True)


class Writers(Writing):
    """`with Writers(lab, notes) as writers:` POSTs listings through the front door until the block ends."""

    def __init__(
        self,
        lab: Lab,
        notes: Path,
        *,
        url: str = BACKEND_URL,
        rate: float = 20.0,
        seconds: float = 900.0,
        confirmed: bool = False,
    ) -> None:
        prefix = new_prefix()
        options = ["--prefix", prefix, "--rate", str(rate), "--seconds", str(seconds)]
        command = lab.client_command([sys.executable, "-m", "deploy.trials.writers", url, *options])
        super().__init__(command, notes, prefix, confirmed=confirmed)
        self._lab = lab

    def troubles(self) -> list[str]:
        """Return what was lost or doubled, and whose message was lost."""
        return [*unlike_the_ledger(self._lab, self), *left_unindexed(self._lab, self)]


class LocalWriter(Writing):
    """A client on a VM that writes into that VM's own database, into another's (`into`), or where the local proxy leads
    to (`host`)."""

    def __init__(
        self,
        lab: Lab,
        vm: str,
        notes: Path,
        *,
        into: str = "",
        host: str = "",
        rate: float = 20.0,
        seconds: float = 600.0,
    ) -> None:
        prefix, into = new_prefix(), into or vm
        words = [host or lab.fleet.vm(into).address, "--prefix", prefix, "--by", into]
        words += ["--rate", str(rate), "--seconds", str(seconds)]
        super().__init__(lab.command_in_vm(vm, [PYTHON, "-c", IN_THE_VM.read_text(), *words]), notes, prefix)
        self._lab = lab

    def troubles(self) -> list[str]:
        """Return what was lost or doubled."""
        return unlike_the_ledger(self._lab, self)


class WritersEverywhere(Writers):
    """The writers, and beside them for each VM of the database a client that writes straight into that VM's own copy:
    what no front door would let through any more."""

    def __init__(self, lab: Lab, notes: Path, *, url: str, rate: float, vms: tuple[str, str], at: str = "") -> None:
        """`vms`: home first. `at`: the VM that the clients are on, where a fault ends those on their own VMs."""
        super().__init__(lab, notes, url=url, rate=rate)
        self._vms = vms
        self._straight = [
            LocalWriter(lab, at or vm, notes.with_name(f"{vm}.jsonl"), into=vm, rate=STRAIGHT_RATE) for vm in vms
        ]
        self._all = ExitStack()

    def __enter__(self) -> WritersEverywhere:
        with ExitStack() as begun:
            super().__enter__()
            begun.push(super().__exit__)
            for each in self._straight:
                begun.enter_context(each)
            self._all = begun.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._all.__exit__(kind, error, trace)

    def troubles(self) -> list[str]:
        """Return what was lost or doubled, whose message was lost, and what two databases acknowledged."""
        record = kv_of(self._lab, witness_of(self._lab))["orch/services/database/sync"]
        tries = [one for each in self._straight for one in each.tries()]
        home, other = self._vms
        if record["primary"] == home:
            twice = ledger.out_of_turn(tries, (home, other, home))
        else:
            twice = ledger.two_at_once(tries, home, record["primary"], record["since"])
        return [*super().troubles(), *unlike_the_ledger(self._lab, *self._straight), *twice]


# --- as what a trial is measured by (trial.Trial.client); a listing is two requests -------------------------------


def stored_by_one(lab: Lab, url: str, notes: Path, rate: float) -> WritersEverywhere:
    """Measure when listings are stored, and see that never two databases acknowledge, also to a client on a VM that is
    cut off."""
    return WritersEverywhere(lab, notes, url=url, rate=rate / 2, vms=DATABASES)


def stored_in_turn(lab: Lab, url: str, notes: Path, rate: float) -> WritersEverywhere:
    """As `stored_by_one`, by clients on another VM: for a database whose VM goes away and comes back."""
    return WritersEverywhere(lab, notes, url=url, rate=rate / 2, vms=DATABASES, at="messaging-server")


def confirmed(lab: Lab, url: str, notes: Path, rate: float) -> Writers:
    """Measure when listings are stored and their messages confirmed."""
    return Writers(lab, notes, url=url, rate=rate / 2, confirmed=True)


def straight_from(vm: str, lab: Lab, url: str, notes: Path, rate: float) -> LocalWriter:
    """Measure when the database takes writes, by a client on the VM that finds it through the local proxy.

    Where no broker confirms anything, the backend answers each request at its deadline: that says nothing of when its
    listing was stored.
    """
    return LocalWriter(lab, vm, notes, host=PROXY, rate=rate / 2)


straight_from_messaging = partial(straight_from, "messaging-server")


# --- what is in the databases ---------------------------------------------------------------------------------


def rows_on(lab: Lab, vm: str, prefix: str) -> list[Row]:
    """Return the rows with keys of this prefix in the VM's own copy."""
    statement = ROWS.format(prefix=prefix)
    return rows_of(lab.run(vm, ["mariadb", "--batch", "--skip-column-names", "-e", statement], timeout_s=60).stdout)


def active_database(lab: Lab) -> str:
    """Return the VM whose database takes the writes."""
    return str(kv_of(lab, witness_of(lab))["orch/services/database/assignment"]["active"])


def unlike_the_ledger(lab: Lab, *writings: Writing) -> list[str]:
    """Return what the active database has otherwise than these were told: a sentence for each kind of loss."""
    vm = active_database(lab)
    told = []
    for writing in writings:
        told += ledger.losses(writing.tries(), rows_on(lab, vm, writing.prefix)).troubles()
        gone = ledger.vanished(writing.readings())
        if gone:
            told.append(f"{len(gone)} listings were not there when read back: {ledger.named(gone)}")
    return told


def left_unindexed(lab: Lab, *writings: Writing, within_s: float = INDEXED_WITHIN_S) -> list[str]:
    """Wait until all that is acknowledged by now is indexed; returns what is not in time: its message is lost."""
    vm, until_now = active_database(lab), [(one.prefix, list(one.tries())) for one in writings]

    def left() -> list[str]:
        return [key for prefix, tries in until_now for key in ledger.unindexed(tries, rows_on(lab, vm, prefix))]

    keys = _left_after(left, within_s)
    return [f"{len(keys)} listings were not indexed after {within_s:g} s: {ledger.named(keys)}"] if keys else []


def unlike_each_other(
    lab: Lab, vms: tuple[str, str], *writings: Writing, within_s: float = ALIKE_WITHIN_S
) -> list[str]:
    """Wait until both copies have alike what was tried until now; returns what differs at the end. For a fleet that has
    settled."""
    known = {one.key for writing in writings for one in writing.tries()}

    def left() -> list[str]:
        here, there = (
            [row for one in writings for row in rows_on(lab, vm, one.prefix) if row.key in known] for vm in vms
        )
        return ledger.differences(here, there)

    keys = _left_after(left, within_s)
    both = " and ".join(vms)
    return [f"the copies on {both} differ in {len(keys)} listings: {ledger.named(keys)}"] if keys else []


def _left_after(left: Callable[[], list[str]], within_s: float) -> list[str]:
    """Ask until nothing is left, or until time is up; returns what is left then."""
    deadline = time.monotonic() + within_s
    while keys := left():
        if time.monotonic() > deadline:
            return keys
        time.sleep(0.5)
    return []
