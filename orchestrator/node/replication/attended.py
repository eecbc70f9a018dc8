"""The database servers of this VM, each with its attendant and its lease: what the guard's hand is given.

In: the policy; what the hand asks. Out: `DataReading`s and the end of a lease, posted to the guard's queue, and what
the guard's loop has them note in its knowledge.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from orchestrator.domain.policy import Policy, ServicePolicy
from orchestrator.node import systemd
from orchestrator.node.duties import CloseWrites
from orchestrator.node.knowledge import Knowledge
from orchestrator.node.replication.attendant import Action, Attendant, DataReading
from orchestrator.node.replication.disk import full_disk
from orchestrator.node.replication.lease import TIMEOUT, Confirmation, Lease
from orchestrator.node.replication.mariadb import MariaDbServer
from orchestrator.node.replication.server import Server
from orchestrator.node.situation import DataState
from orchestrator.settings import DatabaseSettings, LocalSettings, settings_path
from orchestrator.store.port import Port

log = logging.getLogger(__name__)


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
        note: Callable[[str, Confirmation], None],
    ) -> None:
        """`open_port` opens one that asks the leader, in time for a `Lease`; neither `post` nor `note` may block."""

        def open_server() -> Server:
            return MariaDbServer(settings)

        def say(sentence: str) -> None:
            post(LeaseEnded(service, sentence))

        self.lease_s = lease_s
        self._attendant = Attendant(service, open_server, partial(full_disk, settings.datadir), post)
        kill = partial(systemd.kill_processes, unit)
        self._lease = Lease(service, lease_s, open_port, open_server, kill, say, note=partial(note, service))

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

    def close_writes(self, server: Server) -> None:
        """See `Attending.close_writes`."""
        self._lease.close(server)

    def disarm(self) -> None:
        """See `Attending.disarm`."""
        self._lease.disarm()


class Servers:
    """One `Attended` per replicated service that has a copy here. Used by the guard's loop only."""

    def __init__(
        self,
        settings: LocalSettings,
        knowledge: Knowledge,
        open_port: Callable[[float], Port],
        post: Callable[[DataReading | LeaseEnded], None],
        note: Callable[[str, Confirmation], None],
    ) -> None:
        """`open_port(timeout_s)` opens one that asks the leader; `post` must not block, nor must `note`, which is told
        each confirmation of a service's lease."""
        self._settings = settings
        self._knowledge = knowledge
        self._open_port = open_port
        self._post = post
        self._note = note
        self._attended: dict[str, Attended] = {}

    def follow(self, policy: Policy) -> Mapping[str, Attended]:
        """Attend to the servers that the policy names for this VM, and to no others; returns them by service."""
        wanted = {name: each for name, each in policy.services.items() if each.replication and self._is_here(each)}
        settings = self._settings.database
        if wanted and settings is None:
            log.error("%s has its copy here, and %s names no database", " and ".join(wanted), settings_path())
        for name in [name for name in self._attended if name not in wanted]:
            self._attended.pop(name).stop()
        if settings is not None:
            for name, service in wanted.items():
                self._attend(name, service, settings)
        return MappingProxyType(dict(self._attended))

    def _is_here(self, service: ServicePolicy) -> bool:
        return self._settings.vm in service.order

    def _attend(self, name: str, service: ServicePolicy, settings: DatabaseSettings) -> None:
        lease_s = service.replication.lease_s if service.replication else 0.0
        running = self._attended.get(name)
        if running is not None and running.lease_s == lease_s:
            return
        if running is not None:
            running.stop()
            self._knowledge.lease(name, False)
        port = partial(self._open_port, lease_s * TIMEOUT)
        self._attended[name] = Attended(name, service.unit, lease_s, settings, port, self._post, self._note)
        self._attended[name].start()

    def take(self, event: DataReading | LeaseEnded) -> None:
        """Note what a server is like, what became of what it was told, or that its lease is over."""
        if isinstance(event, LeaseEnded):
            self._knowledge.lease(event.service, False)
            log.warning("%s: %s", event.service, event.sentence, extra={"service": event.service})
            return
        told = self._knowledge.data.get(event.service, DataState()).busy
        self._knowledge.take_facts(event.service, event.facts)
        if event.busy or not told:
            return
        self._knowledge.server_did(event.service, told, time.monotonic() if event.failed else None)
        if event.failed:
            fields = {"service": event.service}
            log.warning("%s of %s was not done: %s", told, event.service, event.failed, extra=fields)
        elif told == CloseWrites.__name__ and event.service in self._attended:
            self._attended[event.service].disarm()
            self._knowledge.lease(event.service, False)

    def stop(self) -> None:
        """End all threads; the servers stay as they are, and the next guard takes their writes under a lease again."""
        for attended in self._attended.values():
            attended.stop()
