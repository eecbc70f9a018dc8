"""One thread per blocking query of the guard: what it reads is posted to the loop's queue.

In: a function that reads with an index. Out: `Reading`s. After an error it starts over without an index, so that
the first good answer comes at once. Must never decide what a reading means.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from tenacity import RetryCallState

from orchestrator.backoff import error_of, pauses, retry_until_stopped
from orchestrator.store.port import Port, Refused, Unknown

T = TypeVar("T")

_PAUSES = pauses(0.05, 0.1, 0.2, 0.5, 1.0)

Read = Callable[[Port, int, float], tuple[int, T]]
"""(port, index, wait_s) -> (index, what was read)."""


@dataclass(frozen=True, slots=True)
class Reading(Generic[T]):
    """One answer, or (`problem` set) that there was none."""

    name: str
    index: int = 0
    value: T | None = None
    restarted: bool = False
    """The index went back (Consul was restored, or has lost everything): older readings do not count."""
    problem: str = ""


class Newest(Generic[T]):
    """The reading with the highest index, whichever thread it came from."""

    def __init__(self) -> None:
        self.index = -1
        self.value: T | None = None

    def offer(self, index: int, value: T, *, restarted: bool = False) -> bool:
        """Take it if it is not older than what is here; say whether anything is different now."""
        if index < self.index and not restarted:
            return False
        differs = self.value != value
        self.index, self.value = index, value
        return differs


class Feed(Generic[T]):
    """Reads again and again until stopped."""

    def __init__(
        self,
        name: str,
        open_port: Callable[[], Port],
        read: Read[T],
        post: Callable[[Reading[T]], None],
        *,
        wait_s: float,
        open_leader: Callable[[], Port],
    ) -> None:
        """Both are called in the thread, which has the ports for itself; `post` must not block.

        What `open_leader` opens reads from the Raft leader: asked where an agent that was away knows less than before.
        """
        self._name = name
        self._open_port = open_port
        self._read = read
        self._post = post
        self._wait_s = wait_s
        self._open_leader = open_leader
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"feed {name}", daemon=True)

    def start(self) -> None:
        """Begin reading."""
        self._thread.start()

    def stop(self) -> None:
        """Post nothing more. The query that is under way ends by itself."""
        self._stopped.set()

    def _run(self) -> None:
        port: Any = self._open_port()
        leader: Any = None
        index = newest = 0
        was_away = False

        def read() -> tuple[int, T]:
            return self._read(port, index, self._wait_s)

        def read_from_leader() -> tuple[int, T]:
            nonlocal leader
            leader = leader or self._open_leader()
            return self._read(leader, 0, self._wait_s)

        def failed(state: RetryCallState) -> None:
            nonlocal index, was_away
            index, was_away = 0, True
            error = error_of(state)
            self._tell(Reading(self._name, problem=str(error) or type(error).__name__))

        while not self._stopped.is_set():
            answer = retry_until_stopped(read, self._stopped, on=(Unknown, Refused), wait=_PAUSES, failed=failed)
            if answer is None:
                continue
            new, value = answer
            if new < newest and was_away:
                # An agent that was restarted is behind for a while. Where the leader says so too, the past is another.
                told = retry_until_stopped(
                    read_from_leader, self._stopped, on=(Unknown, Refused), wait=_PAUSES, failed=failed
                )
                if told is None:
                    continue
                new, value = told
            self._tell(Reading(self._name, new, value, restarted=new < newest))
            index, newest, was_away = (0 if new < index else max(new, 1)), new, False

    def _tell(self, reading: Reading[T]) -> None:
        if not self._stopped.is_set():
            self._post(reading)
