"""The broker: a durable queue that goes down, and messages that come late, twice or never."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.dispatch.consumer import Delivery
from orchestrator.dispatch.publisher import GIVE_UP_AFTER_S
from orchestrator.domain.records import Command
from orchestrator.domain.wire import message_of
from tests.fakes.fake_plays import CONTROLLER

if TYPE_CHECKING:
    from tests.simulation.daemons import Daemon, WorkerDaemon
    from tests.simulation.world import World


@dataclass(slots=True)
class _Message:
    body: bytes
    sender: str
    held_by: int = 0
    """The connection that it was delivered to."""
    tag: int = 0
    redelivered: bool = False


class Broker:
    """Keeps `dispatch.consumer.Mailbox` for the workers and `publish` for the controllers."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.up = True
        self.lossy = False
        self.dead_letters = 0
        self._queue: list[_Message] = []
        self._connections: dict[int, WorkerDaemon] = {}
        self._numbers = 0
        self._tags = 0

    def publish(self, daemon: Daemon, command: Command) -> None:
        """Take the controller's message; the controller tries for a while."""
        self._try(daemon, message_of(command, self._world.wall(daemon.vm)), self._world.engine.now + GIVE_UP_AFTER_S)

    def _try(self, daemon: Daemon, body: bytes, until: float) -> None:
        engine = self._world.engine
        if self.up and not daemon.vm.cut:
            self.put(body, CONTROLLER)
        elif engine.now < until:
            daemon.later(engine.between(0.3, 1.0), lambda: self._try(daemon, body, until))

    def put(self, body: bytes, sender: str) -> None:
        """Enqueue a message, or lose it, or have it twice."""
        engine = self._world.engine
        if self.lossy and engine.chance(0.4):
            return
        for _ in range(2 if self.lossy and engine.chance(0.4) else 1):
            self._queue.append(_Message(body, sender))
        engine.at(
            engine.between(0.5, 6.0) if self.lossy and engine.chance(0.5) else engine.between(0.002, 0.02),
            self._hand_out,
        )

    def set_up(self, up: bool) -> None:
        """Go down, which ends every connection, or come back."""
        self.up = up
        if not up:
            for connection in list(self._connections):
                self._drop(connection)
        else:
            for daemon in self._world.workers:
                if daemon.alive:
                    self.connect(daemon)

    def connect(self, daemon: WorkerDaemon) -> None:
        """A worker connects as soon as it can."""
        engine = self._world.engine

        def connected() -> None:
            if daemon in self._connections.values():
                return
            if not self.up or daemon.vm.cut:
                daemon.later(engine.between(0.3, 1.0), connected)
                return
            self._numbers += 1
            self._connections[self._numbers] = daemon
            self._hand_out()

        daemon.later(engine.between(0.01, 0.3), connected)

    def disconnect(self, daemon: WorkerDaemon) -> None:
        """The worker is gone: what it held comes again."""
        for connection, each in list(self._connections.items()):
            if each is daemon:
                self._drop(connection)

    def ack(self, delivery: Delivery) -> None:
        """See `Mailbox.ack`."""
        if self.up and delivery.connection in self._connections:
            self._queue = [m for m in self._queue if (m.held_by, m.tag) != (delivery.connection, delivery.tag)]

    def reject(self, delivery: Delivery) -> None:
        """See `Mailbox.reject`."""
        self.dead_letters += 1
        self.ack(delivery)

    def _drop(self, connection: int) -> None:
        daemon = self._connections.pop(connection)
        for message in self._queue:
            if message.held_by == connection:
                message.held_by, message.redelivered = 0, True
        if daemon.alive:
            daemon.later(0.05, lambda: daemon.worker.forget_connection(connection))
            self.connect(daemon)
        self._world.engine.at(0.1, self._hand_out)

    def _hand_out(self) -> None:
        able = [(n, daemon) for n, daemon in self._connections.items() if daemon.alive]
        if not self.up or not able:
            return
        for message in self._queue:
            if message.held_by:
                continue
            connection, daemon = self._world.engine.pick(able)
            self._tags += 1
            message.held_by, message.tag = connection, self._tags
            delivery = Delivery(connection, message.tag, message.body, message.redelivered, message.sender)
            daemon.later(self._world.engine.between(0.001, 0.01), self._delivering(daemon, delivery))

    @staticmethod
    def _delivering(daemon: WorkerDaemon, delivery: Delivery):  # type: ignore[no-untyped-def]
        return lambda: daemon.take(delivery)
