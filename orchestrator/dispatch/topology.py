"""The queues, as both ends declare them: a durable quorum queue with a redelivery limit and a dead-letter queue.

In: a channel. Out: declarations, which RabbitMQ takes as a check where the queue exists already.
"""

from __future__ import annotations

from typing import Any

from orchestrator.domain.wire import DEAD_LETTER_QUEUE, QUEUE

DELIVERY_LIMIT = 10
"""Redeliveries of one message: each loss of a consumer's connection is one, a message that kills workers is many."""
MAX_LENGTH = 10_000
MAX_DEAD = 1_000

QUEUE_ARGUMENTS: dict[str, Any] = {
    "x-queue-type": "quorum",
    "x-delivery-limit": DELIVERY_LIMIT,
    "x-max-length": MAX_LENGTH,
    "x-overflow": "reject-publish",
    # The default exchange: it routes by queue name and cannot be missing.
    "x-dead-letter-exchange": "",
    "x-dead-letter-routing-key": DEAD_LETTER_QUEUE,
}
DEAD_LETTER_ARGUMENTS: dict[str, Any] = {
    "x-queue-type": "quorum",
    "x-max-length": MAX_DEAD,
    "x-overflow": "drop-head",
}
QUEUES: tuple[tuple[str, dict[str, Any]], ...] = (
    (DEAD_LETTER_QUEUE, DEAD_LETTER_ARGUMENTS),
    (QUEUE, QUEUE_ARGUMENTS),
)
