"""What pika reads with each message beside its body, so that no message can end the connection.

In: the bytes of a message's properties. Out: the properties, or why they cannot be read. AMQP's tables can say what
Python has no value for: a time after the year 9999, a number that is none, a table within a thousand others. pika
raises there, in the midst of its loop: the connection would end, and the message come again to the next one with all
that were in hand, until the broker gives it up (`x-delivery-limit`).
"""

from __future__ import annotations

import pika
from pika import spec

from orchestrator.domain.sentence import one_line


class Properties(pika.BasicProperties):  # type: ignore[misc]
    """A message's properties; where `unreadable` says why they could not be read, nothing else of them counts."""

    unreadable = ""

    def decode(self, encoded: bytes, offset: int = 0) -> Properties:
        """Read the bytes; never raises."""
        try:
            super().decode(encoded, offset)
        except Exception as error:  # whatever pika's reader makes of what a sender made up
            super().__init__()
            self.unreadable = one_line(f"{type(error).__name__}: {error}")[:200]
        return self


def read_any_properties() -> None:
    """Have pika read the properties of every message by `Properties`, in this process."""
    spec.props[spec.BasicProperties.INDEX] = Properties
