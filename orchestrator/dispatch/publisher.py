"""Stage 4: commands onto the queue `failover_commands`, with publisher confirms.

In: commands whose records are in KV already. Out: messages that the broker has confirmed. `publish` only enqueues:
a dead broker never stalls the leader. A message that could not be delivered for `GIVE_UP_AFTER_S` is dropped with a
sentence, since workers pick the command up from KV long before.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pika
from pika.channel import Channel
from pika.spec import Basic

from orchestrator.dispatch.link import Link
from orchestrator.domain.records import Command
from orchestrator.domain.wire import QUEUE, message_of
from orchestrator.settings import AmqpSettings

log = logging.getLogger(__name__)

GIVE_UP_AFTER_S = 10.0
CONFIRM_TIMEOUT_S = 1.0
"""A broker that has not confirmed by then is taken for dead: the next one gets the message."""
MAX_WAITING = 1000

_PROPERTIES_MODE = 2


@dataclass(frozen=True, slots=True)
class Confirmed:
    """The broker has the message; `at` is wall clock."""

    command_id: str
    at: float


@dataclass(slots=True)
class _Outgoing:
    command_id: str
    body: bytes
    give_up_at: float


class Publisher(Link):
    """The leader's way to the queue. `publish` may be called from any thread."""

    def __init__(
        self,
        amqp: AmqpSettings,
        on_confirmed: Callable[[Confirmed], None] | None = None,
        *,
        give_up_after_s: float = GIVE_UP_AFTER_S,
    ) -> None:
        super().__init__(amqp, amqp.controller, "publisher")
        self._on_confirmed = on_confirmed
        self._give_up_after_s = give_up_after_s
        self._lock = threading.Lock()
        self._waiting: OrderedDict[str, _Outgoing] = OrderedDict()
        # The rest belongs to the link's thread.
        self._channel: Channel | None = None
        self._unconfirmed: dict[int, _Outgoing] = {}
        self._last_tag = 0

    def publish(self, command: Command) -> None:
        """Enqueue the message that announces the command; never waits, never raises."""
        body = message_of(command, time.time())
        now = time.monotonic()
        with self._lock:
            self._give_up_old(now)
            if len(self._waiting) >= MAX_WAITING:
                dropped, _ = self._waiting.popitem(last=False)
                fields = {"command": dropped}
                log.warning("The message of %s is dropped: too many wait for a broker.", dropped, extra=fields)
            self._waiting[command.id] = _Outgoing(command.id, body, now + self._give_up_after_s)
        self.call(self._send_waiting)

    @property
    def waiting(self) -> int:
        """How many messages the broker has not confirmed."""
        with self._lock:
            return len(self._waiting)

    # -- the link's thread -----------------------------------------------------------------------------------------

    def opened(self, channel: Channel) -> None:
        """Ask for confirms, then send what waits."""
        self._channel, self._unconfirmed, self._last_tag = channel, {}, 0
        channel.add_on_return_callback(self._take_return)
        channel.confirm_delivery(self._take_confirm)
        self._send_waiting()

    def lost(self) -> None:
        """Forget what was in flight; it still waits and goes out again on the next connection."""
        self._channel, self._unconfirmed = None, {}

    def _send_waiting(self) -> None:
        if self._channel is None or not self._channel.is_open:
            return
        for outgoing in self._to_send():
            self._channel.basic_publish(
                exchange="",
                routing_key=QUEUE,
                body=outgoing.body,
                properties=pika.BasicProperties(
                    delivery_mode=_PROPERTIES_MODE,
                    content_type="application/json",
                    message_id=outgoing.command_id,
                    # The broker refuses another name than the one that it let us in by.
                    user_id=self._account.user,
                ),
                mandatory=True,
            )
            self._last_tag += 1
            tag = self._last_tag
            self._unconfirmed[tag] = outgoing
            self.call_later(CONFIRM_TIMEOUT_S, lambda tag=tag: self._expect_confirm(tag))  # type: ignore[misc]

    def _to_send(self) -> list[_Outgoing]:
        """Return what waits and is not in flight, without what has waited too long."""
        in_flight = {id(outgoing) for outgoing in self._unconfirmed.values()}
        with self._lock:
            self._give_up_old(time.monotonic())
            return [each for each in self._waiting.values() if id(each) not in in_flight]

    def _give_up_old(self, now: float) -> None:
        """Drop what has waited too long. To be called with the lock held."""
        old = [each.command_id for each in self._waiting.values() if each.give_up_at <= now]
        for command_id in old:
            del self._waiting[command_id]
        if old:
            log.warning(
                "The messages of %s are given up after %g s without a broker; workers find the commands in KV.",
                ", ".join(old),
                self._give_up_after_s,
                extra={"command": ",".join(old)},
            )

    def _expect_confirm(self, tag: int) -> None:
        if tag in self._unconfirmed:
            self.drop(f"it has not confirmed a message within {CONFIRM_TIMEOUT_S:g} s")

    def _take_return(self, channel: Channel, method: Any, properties: pika.BasicProperties, body: bytes) -> None:
        """There is no queue: on another broker there may be one."""
        fields = {"command": properties.message_id}
        log.warning("The message of %s came back: there is no queue %s.", properties.message_id, QUEUE, extra=fields)
        # The confirm that follows says only that the broker has dealt with it.
        self._unconfirmed = {
            tag: each for tag, each in self._unconfirmed.items() if each.command_id != properties.message_id
        }
        self.drop("its queue is missing")

    def _take_confirm(self, frame: Any) -> None:
        """One or several messages were confirmed, or refused (the queue is full or without majority)."""
        method = frame.method
        tags = [
            tag
            for tag in self._unconfirmed
            if tag == method.delivery_tag or (method.multiple and tag < method.delivery_tag)
        ]
        confirmed = [self._unconfirmed.pop(tag) for tag in tags]
        if not isinstance(method, Basic.Ack):
            self.call_later(CONFIRM_TIMEOUT_S, self._send_waiting)
            return
        for outgoing in confirmed:
            with self._lock:
                if self._waiting.get(outgoing.command_id) is outgoing:
                    del self._waiting[outgoing.command_id]
            if self._on_confirmed is not None:
                self._on_confirmed(Confirmed(outgoing.command_id, time.time()))
