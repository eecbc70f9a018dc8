"""Virtual time: events in order, processes that freeze, die and start again. No thread, no real clock."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from random import Random
from typing import Any

Call = Callable[[], None]


class Killed(BaseException):
    """The process is killed in the middle of what it does (not an Exception: nothing may catch it)."""


class Machine:
    """Where processes run: on, off or frozen (then time goes on and its processes do nothing)."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.on = True
        self.frozen = False
        self.deferred: list[tuple[Process, int, Call]] = []


class Process:
    """Something that runs on a machine. What it scheduled is void once it has died."""

    def __init__(self, engine: Engine, machine: Machine, name: str) -> None:
        self.engine = engine
        self.machine = machine
        self.name = name
        self.alive = False
        self.life = 0
        self.since = 0.0
        """When this life began."""
        self.crashes_after = 0
        """Killed at this many writes from now; 0: not."""

    def later(self, delay_s: float, call: Call) -> None:
        """Do it after the delay, if this life of the process lasts."""
        self.engine.at(delay_s, call, self)

    def begin(self) -> None:
        """Start a new life."""
        self.alive = True
        self.life += 1
        self.since = self.engine.now
        self.on_begin()

    def end(self) -> None:
        """Die at once."""
        if self.alive:
            self.alive = False
            self.life += 1
            self.crashes_after = 0
            self.on_end()

    def on_begin(self) -> None:
        """What a start does."""

    def on_end(self) -> None:
        """What a death leaves behind."""

    def run(self, call: Call) -> None:
        """Run the call as this process."""
        engine = self.engine
        before, engine.current = engine.current, self
        try:
            call()
        except Killed:
            self.end()
        finally:
            engine.current = before


class Engine:
    """The event queue."""

    def __init__(self, seed: int) -> None:
        self.now = 0.0
        self.random = Random(seed)
        self.current: Process | None = None
        self.steps = 0
        self.on_time: Callable[[float], None] = lambda now: None
        self._queue: list[tuple[float, int, Process | None, int, Call]] = []
        self._numbers = 0

    def between(self, low: float, high: float) -> float:
        """Draw a duration."""
        return low + (high - low) * self.random.random()

    def chance(self, share: float) -> bool:
        """Say yes so often."""
        return self.random.random() < share

    def pick(self, things: Any) -> Any:
        """Draw one of the things."""
        return self.random.choice(things)

    def at(self, delay_s: float, call: Call, process: Process | None = None) -> None:
        """Do it after the delay; for a process only in its present life."""
        self._numbers += 1
        life = process.life if process else 0
        heappush(self._queue, (self.now + delay_s, self._numbers, process, life, call))

    def thaw(self, machine: Machine) -> None:
        """Let a frozen machine go on with everything that it has missed, in the old order."""
        missed, machine.deferred = machine.deferred, []
        for process, life, call in missed:
            self._numbers += 1
            heappush(self._queue, (self.now + self.between(0.0, 0.02), self._numbers, process, life, call))

    def run_until(self, time: float) -> None:
        """Let everything happen until then."""
        queue = self._queue
        while queue and queue[0][0] <= time:
            when, _, process, life, call = heappop(queue)
            self.now = when
            self.on_time(when)
            if process is None:
                self.steps += 1
                call()
            elif process.life == life:
                if process.machine.frozen:
                    process.machine.deferred.append((process, life, call))
                else:
                    self.steps += 1
                    process.run(call)
        self.now = time
