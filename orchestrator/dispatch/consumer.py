"""Stage 4's other end: messages from `failover_commands` to the worker, acknowledged when it says so.

In: a callback for deliveries. Out: acknowledgements and rejections, dropped when their connection is gone (the
broker then delivers the message again). At most `PREFETCH` messages are held at once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import pika
from pika.channel import Channel

from orchestrator.dispatch.link import Link
from orchestrator.dispatch.properties import read_any_properties
from orchestrator.domain.wire import QUEUE
from orchestrator.settings import AmqpSettings

log = logging.getLogger(__name__)

PREFETCH = 16
"""Messages are held until their command is over, whoever runs it; so more than the plays that run at once."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message of one connection. A tag means nothing to any other connection."""

    connection: int
    tag: int
    body: bytes
    redelivered: bool = False
    sender: str = ""
    """The user that published it, as the broker has checked; empty where the message does not say."""
    unreadable: str = ""
    """Why its properties cannot be read; empty where they can. It then says of no sender."""


def delivery_of(connection: int, method: Any, properties: pika.BasicProperties, body: bytes) -> Delivery:
    """Return what pika has delivered."""
    sender = properties.user_id or ""
    return Delivery(
        connection,
        method.delivery_tag,
        body,
        bool(method.redelivered),
        # pika leaves as bytes what is no text.
        sender if isinstance(sender, str) else repr(sender),
        getattr(properties, "unreadable", ""),
    )


class Mailbox(Protocol):
    """Where deliveries came from. Neither call raises or waits; the simulation has its own."""

    def ack(self, delivery: Delivery) -> None:
        """Take the message off the queue. Dropped when its connection is gone: the message comes again."""

    def reject(self, delivery: Delivery) -> None:
        """Send the message to the dead-letter queue."""


class Consumer(Link):
    """The worker's way from the queue. `on_message` and `on_lost` are called in the link's thread: they only enqueue.

    `on_lost` names the connection whose deliveries are void.
    """

    def __init__(
        self, amqp: AmqpSettings, on_message: Callable[[Delivery], None], on_lost: Callable[[int], None]
    ) -> None:
        super().__init__(amqp, amqp.worker, "consumer")
        read_any_properties()
        self._on_message = on_message
        self._on_lost = on_lost
        self._channel: Channel | None = None
        self._number = 0

    def ack(self, delivery: Delivery) -> None:
        """Take the message off the queue."""
        self.call(lambda: self._settle(delivery, lambda channel: channel.basic_ack(delivery.tag)))

    def reject(self, delivery: Delivery) -> None:
        """Send the message to the dead-letter queue."""
        self.call(lambda: self._settle(delivery, lambda channel: channel.basic_nack(delivery.tag, requeue=False)))

    # -- the link's thread -----------------------------------------------------------------------------------------

    def opened(self, channel: Channel) -> None:
        """Begin to consume."""
        self._channel = channel
        self._number += 1
        channel.add_on_cancel_callback(lambda _: self.drop("it cancelled the consumer"))
        channel.basic_qos(prefetch_count=PREFETCH)
        channel.basic_consume(QUEUE, self._take)

    def lost(self) -> None:
        """Everything that was delivered comes again."""
        self._channel = None
        self._on_lost(self._number)

    def _take(self, channel: Channel, method: Any, properties: pika.BasicProperties, body: bytes) -> None:
        self._on_message(delivery_of(self._number, method, properties, body))

    def _settle(self, delivery: Delivery, settle: Callable[[Channel], None]) -> None:
        channel = self._channel
        if delivery.connection == self._number and channel is not None and channel.is_open:
            settle(channel)
