"""One thread that attends to one database server, so that the guard never waits for it.

In: actions, one at a time. Out: `DataReading`s, posted to the guard's queue: what the server is like, and what became
of an action. Must never decide what to do.

A server that ends the connection is read at once: most often it has died. One that answers what it answered before is
read half as often as one that goes through changes: each write is one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from orchestrator.node.replication.bell import Bell
from orchestrator.node.replication.facts import ServerFacts, no_answer
from orchestrator.node.replication.server import NotInTime, Server, ServerAway

log = logging.getLogger(__name__)

READ_EVERY_S = 0.25
POST_ANYWAY_S = 2.0
_STOP_TIMEOUT_S = 5.0

Action = Callable[[Server], None]


@dataclass(frozen=True, slots=True)
class DataReading:
    """What the server is like, and what became of the last action."""

    service: str
    facts: ServerFacts
    did: str | None = None
    """Name of the action that was done just before this reading."""
    failed: str | None = None
    """Why the action that ended just before this reading was not done, or may not have been; a sentence."""
    busy: str | None = None
    """Name of the action that goes on; the facts are from before it."""


class Attendant:
    """Owns a `Server`; `do` and `stop` may be called from any thread."""

    def __init__(
        self,
        service: str,
        open_server: Callable[[], Server],
        full_disk: Callable[[], str],
        post: Callable[[DataReading], None],
        clock: Callable[[], float] = time.monotonic,
        read_every_s: float = READ_EVERY_S,
    ) -> None:
        """All are called in the thread; `post` must not block. `full_disk` is that of `disk`, `clock` is monotonic."""
        self._service = service
        self._open_server = open_server
        self._full_disk = full_disk
        self._post = post
        self._clock = clock
        self._read_every_s = read_every_s
        self._lock = threading.Lock()
        self._bell = Bell()
        self._action: tuple[str, Action] | None = None
        self._stopped = False
        self._posted: DataReading | None = None
        self._thread = threading.Thread(target=self._run, name=f"attendant of {service}", daemon=True)

    def start(self) -> None:
        """Begin reading."""
        self._thread.start()

    def stop(self) -> None:
        """Post nothing more and begin nothing more; what goes on ends by its own time."""
        with self._lock:
            self._stopped = True
        self._bell.ring()
        self._thread.join(_STOP_TIMEOUT_S)

    @property
    def busy(self) -> str | None:
        """Name of the action that waits or goes on."""
        with self._lock:
            return self._action[0] if self._action else None

    def do(self, name: str, action: Action) -> bool:
        """Have the action done next; False (and nothing happens) while there is another one."""
        with self._lock:
            if self._action is not None or self._stopped:
                return False
            self._action = (name, action)
        self._bell.ring()
        return True

    def _run(self) -> None:
        server = self._open_server()
        try:
            while not self._stopped:
                rest_s = self.attend(server)
                self._bell.wait(rest_s, also_for=server.fileno())
        finally:
            server.close()
            self._bell.close()

    def attend(self, server: Server) -> float:
        """Do the action that waits, if there is one, and read the server: one turn of the loop.

        Returns after how many seconds the next one is due, if nothing happens meanwhile.
        """
        with self._lock:
            action = self._action
        known = self._posted.facts if self._posted else no_answer(self._clock(), "not yet asked")
        name, failed = action[0] if action else None, None
        if action:
            self._tell(DataReading(self._service, known, busy=name))
            failed = self._carry_out(*action, server)
        facts = replace(self._read(server), full=self._full_disk())
        with self._lock:
            if action:
                self._action = None
        self._tell(DataReading(self._service, facts, did=None if failed else name, failed=failed))
        return self._read_every_s * (2 if facts.answers and _is_same(facts, known) else 1)

    @staticmethod
    def _carry_out(name: str, action: Action, server: Server) -> str | None:
        """Return why it was not done."""
        try:
            action(server)
        except (ServerAway, NotInTime) as problem:
            return str(problem)
        except Exception as error:  # a bug: the server must still be attended to
            log.exception("the action %r broke off", name)
            return f"{name} broke off: {error!r}"
        return None

    def _read(self, server: Server) -> ServerFacts:
        at = self._clock()
        try:
            return server.read()
        except ServerAway as problem:
            return no_answer(at, str(problem))
        except Exception as error:  # a bug: the guard must learn that nothing is known
            log.exception(
                "reading the database server of %s broke off", self._service, extra={"service": self._service}
            )
            return no_answer(at, f"reading broke off: {error!r}")

    def _tell(self, reading: DataReading) -> None:
        if not self._stopped and (self._posted is None or _is_news(reading, self._posted)):
            self._posted = reading
            self._post(reading)


def _is_news(new: DataReading, posted: DataReading) -> bool:
    """Say whether the guard is to know: an action began or ended, anything differs but times, or it is time anyway."""
    if new.did or new.failed or new.busy != posted.busy or new.facts.at - posted.facts.at >= POST_ANYWAY_S:
        return True
    return not _is_same(new.facts, posted.facts)


def _is_same(one: ServerFacts, other: ServerFacts) -> bool:
    """Say whether nothing differs but times."""
    return replace(one, at=0.0) == replace(other, at=0.0)
