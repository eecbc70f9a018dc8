"""Wakes a thread that waits, also for a file descriptor.

In: `ring`, from any thread. Out: the end of `wait`. Must never lose a ring: one that comes while nobody waits ends the
next waiting at once.
"""

from __future__ import annotations

import select
import socket
from contextlib import suppress


class Bell:
    """Waited for by one thread."""

    def __init__(self) -> None:
        self._clapper, self._ear = socket.socketpair()
        self._clapper.setblocking(False)
        self._ear.setblocking(False)

    def ring(self) -> None:
        """End the waiting."""
        # It cannot be sent where nobody waits any more, or where more than enough was sent already.
        with suppress(OSError):
            self._clapper.send(b"!")

    def wait(self, timeout_s: float, also_for: int | None = None) -> None:
        """Return when it rings, when the descriptor `also_for` is readable (or broken), or after `timeout_s`."""
        poll = select.poll()
        for each in (self._ear.fileno(), also_for):
            if each is not None:
                poll.register(each, select.POLLIN)
        poll.poll(timeout_s * 1000)
        with suppress(BlockingIOError):
            self._ear.recv(4096)

    def close(self) -> None:
        """To be called by the thread that waits, when it does not any more."""
        self._clapper.close()
        self._ear.close()
