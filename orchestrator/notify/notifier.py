"""The notifier: a thread per sink beside the leader's loop, so that a sink that hangs holds up itself and nothing else.

In: from the loop, at each round, the session by which it leads and the sinks of the policy in force. Must never wait
for a sink, for Consul or for a thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from orchestrator.domain.sinks import SinkPolicy
from orchestrator.notify.notice import Notice
from orchestrator.notify.teller import Teller
from orchestrator.store.port import Port


@dataclass(frozen=True, eq=False)
class _Task:
    """What one thread is for: this sink, under this lead."""

    session: str
    sink: SinkPolicy
    over: threading.Event = field(default_factory=threading.Event)


class Notifier:
    """Tells the sinks while this controller leads."""

    def __init__(self, make_port: Callable[[], Port], deliver: Callable[[SinkPolicy, Notice], str]) -> None:
        """`make_port` is called in each thread: ports are not shared."""
        self._make_port = make_port
        self._deliver = deliver
        self._tasks: dict[str, _Task] = {}
        self._threads: dict[str, threading.Thread] = {}

    def heed(self, session: str | None, sinks: Iterable[SinkPolicy]) -> None:
        """Tell these sinks from now on, under the lead of this session; nobody where it is None. Returns at once."""
        wanted = {sink.name: (session, sink) for sink in sinks} if session is not None else {}
        for name, task in list(self._tasks.items()):
            if wanted.get(name) != (task.session, task.sink):
                task.over.set()
                del self._tasks[name]
        for name, (lead, sink) in wanted.items():
            if name not in self._tasks and lead is not None:
                self._begin(_Task(lead, sink))

    def _begin(self, task: _Task) -> None:
        name = task.sink.name
        before = self._threads.get(name)
        self._tasks[name] = task
        self._threads[name] = threading.Thread(
            target=self._work, args=(task, before), name=f"notify {name}", daemon=True
        )
        self._threads[name].start()

    def _work(self, task: _Task, before: threading.Thread | None) -> None:
        """Tell the sink, once whoever told it before has ended: two at a time would tell it one thing twice."""
        if before is not None:
            before.join()
        Teller(self._make_port(), task.session, task.sink, self._deliver, task.over).run()
