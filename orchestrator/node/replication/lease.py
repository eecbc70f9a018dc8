"""The lease of a primary: no write is taken for longer than `lease_s` after the role lock was last confirmed.

In: the guard arms it with the session that holds the lock, before writes are opened. Out: writes are closed when the
lease is over or the lock is seen to be another's, by the server or else by the death of its processes; one sentence
says so. Must never need the guard's loop, which may be busy; must never open anything by itself.

The session of the role lock has a lock delay of lease_s + 0.5 s. A confirmation is dated by when it was asked for, so
the lock can be another's at lease_s + 0.5 s after it at the earliest: `CLOSE_WITHIN_S` and the kill fit in between.

How often it is asked does not matter to that, only to how seldom writes are closed for nothing: one question that is
lost must not end the lease. In shares of it: asked 1/3 after the last one that had an answer, given up 1/2 later, asked
again 1/12 after that, which leaves 1/12 for the answer.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum

from orchestrator.domain import keys
from orchestrator.node.replication.server import NotInTime, Server, ServerAway
from orchestrator.node.systemd import SystemdAway
from orchestrator.store.port import Port, Refused, Unknown

log = logging.getLogger(__name__)

CLOSE_WITHIN_S = 0.3
TIMEOUT = 1 / 2
ASK_EVERY = 1 / 3
ASK_AGAIN = 1 / 12
"""Shares of `lease_s`."""
_TRY_AGAIN_S = 0.1
_STOP_TIMEOUT_S = 5.0


def must_close(now: float, confirmed_at: float, lease_s: float) -> bool:
    """Say whether the lease is over. All in seconds, the first two monotonic; a clock that went back ends it too."""
    return not 0 <= now - confirmed_at < lease_s


@dataclass(frozen=True, slots=True)
class Armed:
    """What the lease is for."""

    session: str
    """The session that holds the role lock."""
    epoch: int
    confirmed_at: float
    """Monotonic time just before the question was sent that was answered with: the lock is this session's."""
    lost: str = ""
    """Why the lock is known to be ours no more."""


class Confirmation(str, Enum):
    """What a question for the role lock came to."""

    CONFIRMED = "confirmed"
    UNANSWERED = "unanswered"
    LOST = "lost"
    """It is another's, or nobody's."""


class Lease:
    """Two threads: one confirms the lock, which may take long; the other one keeps the time."""

    def __init__(
        self,
        service: str,
        lease_s: float,
        open_port: Callable[[], Port],
        open_server: Callable[[], Server],
        kill_processes: Callable[[], None],
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        note: Callable[[Confirmation], None] = lambda outcome: None,
    ) -> None:
        """`open_port` (that asks the leader, in time by `TIMEOUT`) and `open_server` are called in the threads.

        `kill_processes` kills the server's unit at once; raises `SystemdAway`. `say` is told what was done, in one
        sentence, from a thread; it must not block. Nor must `note`, which is told each confirmation, to be counted.
        """
        self._service = service
        self._lease_s = lease_s
        self._open_port = open_port
        self._open_server = open_server
        self._kill_processes = kill_processes
        self._say = say
        self._clock = clock
        self._note = note
        self._changed = threading.Condition()
        self._opening = threading.Lock()
        self._armed: Armed | None = None
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._confirm_on, name=f"lease of {service}: lock", daemon=True),
            threading.Thread(target=self._watch_on, name=f"lease of {service}: time", daemon=True),
        ]

    def start(self) -> None:
        """Begin; nothing is done until it is armed."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the threads. What is armed is not closed: the guard stops, and its successor arms anew."""
        self._stopped.set()
        with self._changed:
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(_STOP_TIMEOUT_S)

    @property
    def armed(self) -> Armed | None:
        """What it is armed for; None when it is not, or writes were closed."""
        with self._changed:
            return self._armed

    def arm(self, session: str, epoch: int, confirmed_at: float) -> None:
        """Close writes when this session's lock is not confirmed any more. To be called before writes are opened.

        `confirmed_at` is the monotonic time before the request was sent by which the lock was taken, or seen.
        """
        with self._changed:
            self._armed = Armed(session, epoch, confirmed_at)
            self._changed.notify_all()

    def disarm(self) -> None:
        """Forget it; to be called after writes were closed."""
        with self._changed:
            self._armed = None
            self._changed.notify_all()

    def open_writes(self, server: Server, session: str) -> None:
        """Open writes on the server if the lease for this session is not over; raises `NotInTime` when it is.

        An action may have waited since the guard asked for it: this is the last look, and closing comes after it.
        """
        with self._opening:
            armed = self.armed
            if armed is None or armed.session != session or self._reason_to_close(armed):
                raise NotInTime("the role lock is not confirmed at this moment")
            server.open_writes()

    # -- the lock -----------------------------------------------------------------------------------------------

    def _confirm_on(self) -> None:
        port: Port | None = None
        while not self._stopped.is_set():
            with self._changed:
                self._changed.wait_for(lambda: self._armed is not None or self._stopped.is_set())
            if not self._stopped.is_set():
                port = port or self._open_port()
                self._stopped.wait(self.confirm(port))

    def confirm(self, port: Port) -> float:
        """Read the lock once, and note what it says about what is armed; returns after how many seconds to ask again.

        What is confirmed is not told to the thread that keeps the time: it looks when the lease would have ended.
        """
        armed, asked_at = self.armed, self._clock()
        if armed is None:
            return 0.0
        try:
            _, pair = port.kv_get(keys.lock(self._service))
        except (Unknown, Refused) as problem:
            log.debug("the role lock of %s cannot be confirmed: %s", self._service, problem)
            self._note(Confirmation.UNANSWERED)
            return self._lease_s * ASK_AGAIN
        holder = pair.session if pair else None
        self._note(Confirmation.CONFIRMED if holder == armed.session else Confirmation.LOST)
        with self._changed:
            if self._armed is None or self._armed.session != armed.session:
                return 0.0
            if holder == armed.session:
                self._armed = replace(self._armed, confirmed_at=max(asked_at, self._armed.confirmed_at))
            else:
                self._armed = replace(self._armed, lost="the role lock is another's" if holder else "the lock is free")
                self._changed.notify_all()
        return max(0.0, asked_at + self._lease_s * ASK_EVERY - self._clock())

    # -- the time -----------------------------------------------------------------------------------------------

    def _watch_on(self) -> None:
        server: Server | None = None
        while not self._stopped.is_set():
            server = server or self._open_server()
            left_s = self.watch(server)
            with self._changed:
                if not self._stopped.is_set():
                    self._changed.wait(left_s)
        if server is not None:
            server.close()

    def watch(self, server: Server) -> float | None:
        """Close writes if it is time; returns the seconds until there is something to do, None while not armed."""
        armed = self.armed
        if armed is None:
            return None
        reason = self._reason_to_close(armed)
        if not reason:
            return max(0.0, armed.confirmed_at + self._lease_s - self._clock())
        try:
            done = self.close(server)
        except NotInTime as problem:
            log.error("%s", problem, extra={"service": self._service})
            return _TRY_AGAIN_S
        with self._changed:
            if self._armed is not None and self._armed.session == armed.session:
                self._armed = None
        self._say(f"{reason}: {done}")
        return None

    def _reason_to_close(self, armed: Armed) -> str:
        if armed.lost:
            return armed.lost
        now = self._clock()
        if must_close(now, armed.confirmed_at, self._lease_s):
            return f"the role lock was not confirmed for {now - armed.confirmed_at:.1f} s"
        return ""

    def close(self, server: Server) -> str:
        """Take no write any more, at the cost of the server's processes; returns what was done.

        Raises `NotInTime` when nothing worked: to be tried again.
        """
        # An opening that hangs is not waited for: then the server hangs, and its processes are killed.
        in_hand = self._opening.acquire(timeout=CLOSE_WITHIN_S)
        try:
            if not in_hand:
                raise NotInTime("opening has not ended")
            server.close_writes(CLOSE_WITHIN_S)
            return "writes were closed"
        except (ServerAway, NotInTime) as problem:
            why = str(problem)
        except Exception as error:  # a bug must not keep writes open
            log.exception("closing the writes of %s broke off", self._service, extra={"service": self._service})
            why = repr(error)
        finally:
            if in_hand:
                self._opening.release()
        try:
            self._kill_processes()
        except SystemdAway as problem:
            raise NotInTime(
                f"the database server of {self._service} can neither be closed ({why}) nor killed ({problem})"
            ) from None
        return f"the database server did not close in time ({why}), and its processes were killed"
