"""A database server with its attendant and its lease: what the guard's hand is given for a replicated service.

In: what the hand asks. Out: `DataReading`s and the end of the lease, posted to the guard's queue.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from orchestrator.node import systemd
from orchestrator.node.replication.attendant import Action, Attendant, DataReading
from orchestrator.node.replication.lease import Lease
from orchestrator.node.replication.mariadb import MariaDbServer
from orchestrator.node.replication.server import Server
from orchestrator.settings import DatabaseSettings
from orchestrator.store.port import Port


@dataclass(frozen=True, slots=True)
class LeaseEnded:
    """Writes were closed because the role lock was not confirmed any more."""

    service: str
    sentence: str


class Attended:
    """Keeps `hand.Attending`."""

    def __init__(
        self,
        service: str,
        unit: str,
        lease_s: float,
        settings: DatabaseSettings,
        open_port: Callable[[], Port],
        post: Callable[[DataReading | LeaseEnded], None],
    ) -> None:
        """`open_port` opens one with consistent reads and a timeout of lease_s / 2; `post` must not block."""

        def open_server() -> Server:
            return MariaDbServer(settings)

        def say(sentence: str) -> None:
            post(LeaseEnded(service, sentence))

        self.lease_s = lease_s
        self._attendant = Attendant(service, open_server, post)
        self._lease = Lease(service, lease_s, open_port, open_server, partial(systemd.kill_processes, unit), say)

    def start(self) -> None:
        """Begin reading the server."""
        self._attendant.start()
        self._lease.start()

    def stop(self) -> None:
        """End the threads; the server stays as it is."""
        self._attendant.stop()
        self._lease.stop()

    def do(self, name: str, action: Action) -> bool:
        """See `Attending.do`."""
        return self._attendant.do(name, action)

    def arm(self, session: str, epoch: int, confirmed_at: float) -> None:
        """See `Attending.arm`."""
        self._lease.arm(session, epoch, confirmed_at)

    def open_writes(self, server: Server, session: str) -> None:
        """See `Attending.open_writes`."""
        self._lease.open_writes(server, session)

    def disarm(self) -> None:
        """See `Attending.disarm`."""
        self._lease.disarm()
