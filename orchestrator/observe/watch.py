"""Stage 1, I/O: blocking queries -> `Observed`, which gives the consumer a `Snapshot` and wakes it within ms.

Each source is watched twice, because neither way of asking is enough (measured on three servers):
- from the local agent's own copy (`stale`): 80 ms behind at the median, 110 ms at most, and never hangs. It alone
  says whether a source is known.
- from the Raft leader (`swift`): 5 ms behind; but when the leader's VM is cut off, the query hangs for over a minute
  with no error, while the other way had the news 1.2 s after the fault.
What has the higher index counts. One thread and one port per source and way. The rules are those of
consul-template's watch/view.go: an index that goes back starts over from 0, equal data is no event, a good answer
resets the retries. But whether it went back, the Raft leader says: the copy of an agent that was restarted is behind
for a while, and must not be taken for what Consul was restored to. While a source cannot be read the snapshot says so
(`known` is False) and keeps what was known last. Never decides, never writes.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from tenacity import RetryCallState, wait_exponential

from orchestrator.backoff import error_of, retry_until_stopped
from orchestrator.domain import keys
from orchestrator.observe.parse import telling
from orchestrator.store.port import Check, KvPair, Port, Refused, Unknown

log = logging.getLogger(__name__)

WAIT_S = 60.0
LONGEST_PAUSE_S = 2.0
PAUSES = wait_exponential(multiplier=0.1, max=LONGEST_PAUSE_S)
# Faster answers without news are an agent that does not block (index 0, or a key's siblings changing all the time).
SHORTEST_ROUND_S = 0.02
PULSE_S = 1.0

Data = tuple[object, ...]
CHECKS = "checks"
PULSE = "pulse"
# A query on a prefix without keys wakes at every write to KV, so what is mostly absent is watched once only.
SWIFT_PREFIXES = (keys.SERVICES, keys.REQUESTS, keys.COMMANDS, keys.LEADER)
CALM_PREFIXES = (keys.ROTATE, keys.REFUSED, keys.MAINTENANCE, keys.CONFIG, keys.PAUSED, keys.RELEASE)
"""Together what the leader looks at: everything but the history."""


@dataclass(frozen=True)
class Source:
    """One thing to watch. `read(port, index, wait_s)` blocks until it changed after `index`, or `wait_s` are over.

    `swift`: ask the Raft leader too, since milliseconds count.
    """

    name: str
    read: Callable[[Port, int, float], tuple[int, Data]]
    swift: bool = True
    news_in: Callable[[Data], object] = lambda found: found
    """What of an answer is news when it changes; the rest is kept, but wakes nobody."""


@dataclass(frozen=True)
class Snapshot:
    """What is known of all sources at one moment. Sources are read apart: compare-and-set covers what lies between."""

    version: int
    data: Mapping[str, Data]
    unknown: Mapping[str, str]
    """Source -> why it is not known now. A source that was never heard of is in here too."""
    changed_at: float
    """Monotonic time of the last change."""

    @property
    def known(self) -> bool:
        """Say whether every source is known now."""
        return not self.unknown

    @property
    def complete(self) -> bool:
        """Say whether every source was heard of at least once: the data may be old, but none is missing."""
        return all(name in self.data or name == PULSE for name in self.unknown)

    @property
    def unknown_because(self) -> str:
        """Return one sentence that says what is not known, or an empty one."""
        return "; ".join(f"{name}: {why}" for name, why in sorted(self.unknown.items()))

    @property
    def checks(self) -> tuple[Check, ...]:
        """Return every check of the catalog."""
        return tuple(check for check in self.data.get(CHECKS, ()) if isinstance(check, Check))

    @property
    def pairs(self) -> tuple[KvPair, ...]:
        """Return every KV pair of all prefixes."""
        return tuple(pair for found in self.data.values() for pair in found if isinstance(pair, KvPair))

    def pair(self, key: str) -> KvPair | None:
        """Return one pair by its key; None where it is absent."""
        own = self.data.get(key)
        found = self.pairs if own is None else own
        return next((pair for pair in found if isinstance(pair, KvPair) and pair.key == key), None)


@dataclass
class Observed:
    """What the watchers found, kept for one consumer. Thread-safe."""

    sources: Iterable[str]
    _data: dict[str, Data] = field(default_factory=dict, init=False)
    _index: dict[str, int] = field(default_factory=dict, init=False)
    _unknown: dict[str, str] = field(default_factory=dict, init=False)
    _version: int = field(default=0, init=False)
    _changed_at: float = field(default=0.0, init=False)
    _news: threading.Condition = field(default_factory=threading.Condition, init=False)

    def __post_init__(self) -> None:
        self._unknown = dict.fromkeys(self.sources, "not heard of yet")

    def learn(
        self,
        source: str,
        index: int,
        found: Data,
        *,
        swift: bool = False,
        anew: bool = False,
        news_in: Callable[[Data], object] = lambda found: found,
    ) -> bool:
        """Take a good answer; True when it is news (other data in what `news_in` returns, or known again).

        What is older than what is there by its index is left out, unless it was read `anew` after the index went
        back. A `swift` answer never makes a source known: the other way decides that.
        """
        with self._news:
            newer = source not in self._data or anew or index > self._index.get(source, 0)
            before = self._data.get(source)
            news = newer and before != found and (before is None or news_in(before) != news_in(found))
            if newer:
                self._data[source], self._index[source] = found, index
            if not swift and self._unknown.pop(source, None) is not None:
                news = True
            if news:
                self._tell()
            return news

    def lose(self, source: str, why: str) -> None:
        """Take note that the source cannot be read now. The data that it gave last stay."""
        with self._news:
            if self._unknown.get(source) != why:
                self._unknown[source] = why
                self._tell()

    def poke(self) -> None:
        """Wake the consumer without news (a stop, a timer)."""
        with self._news:
            self._tell()

    def snapshot(self) -> Snapshot:
        """Return what is known now."""
        with self._news:
            return self._snapshot()

    def wait(self, after: int, timeout_s: float, *, quiet_s: float = 0.003, longest_quiet_s: float = 0.03) -> Snapshot:
        """Wait until the version is later than `after`, at most `timeout_s`, and return what is known then.

        One event in Consul reaches several watchers, so after the first news this waits until none has come for
        `quiet_s`, but never longer than `longest_quiet_s`.
        """
        with self._news:
            self._news.wait_for(lambda: self._version > after, timeout_s)
            settled_by = time.monotonic() + longest_quiet_s
            while self._version > after and time.monotonic() < settled_by:
                seen = self._version
                if not self._news.wait_for(lambda seen=seen: self._version > seen, quiet_s):  # type: ignore[misc]
                    break
            return self._snapshot()

    def _tell(self) -> None:
        self._version += 1
        self._changed_at = time.monotonic()
        self._news.notify_all()

    def _snapshot(self) -> Snapshot:
        return Snapshot(
            self._version,
            MappingProxyType(dict(self._data)),
            MappingProxyType(dict(self._unknown)),
            self._changed_at,
        )


class Watch:
    """The watching threads of one daemon.

    `make_port(stale)` is called in each thread, once for each way that it asks, and returns that thread's own port,
    which reads from the local agent's copy when `stale` is true (`ConsulPort(stale_reads=True)`), else from the leader.
    """

    def __init__(
        self,
        make_port: Callable[[bool], Port],
        observed: Observed,
        sources: Iterable[Source],
        stop: threading.Event,
        *,
        wait_s: float = WAIT_S,
    ) -> None:
        self._make_port = make_port
        self._observed = observed
        self._sources = tuple(sources)
        self._stop = stop
        self._wait_s = wait_s

    def start(self) -> None:
        """Start the daemon threads. They end at the stop event, or with the process while they block."""
        for source in self._sources:
            for swift in (False, True) if source.swift else (False,):
                name = f"watch {source.name}{' swiftly' if swift else ''}"
                threading.Thread(target=self._run, args=(source, swift), name=name, daemon=True).start()

    def _run(self, source: Source, swift: bool) -> None:
        while not self._stop.is_set():
            try:
                self._watch(source, swift)
            except Exception as bug:
                # A watcher that died must not look like a fleet in which nothing happens.
                log.exception("the watcher of %s died of a bug and starts again", source.name)
                if not swift:
                    self._observed.lose(source.name, f"its watcher died: {type(bug).__name__}: {bug}")
                self._stop.wait(LONGEST_PAUSE_S)

    def _watch(self, source: Source, swift: bool) -> None:
        own = port = self._make_port(not swift)
        leader = own if swift else None
        index, anew = 0, False
        while not self._stop.is_set():
            started = time.monotonic()
            answer = self._answer(source, port, index, swift)
            if answer is None or self._stop.is_set():
                return
            at, found = answer
            if at < index:
                # A deletion's trace was collected, Consul was restored, or the agent is behind: only reading anew, from
                # the leader, says what holds now.
                index, anew = 0, True
                port = leader = leader or self._make_port(False)
                self._stop.wait(SHORTEST_ROUND_S)
                continue
            index = max(at, 1)
            reread = anew and not swift
            if not self._observed.learn(source.name, at, found, swift=swift, anew=reread, news_in=source.news_in):
                self._stop.wait(max(0.0, started + SHORTEST_ROUND_S - time.monotonic()))
            anew, port = False, own

    def _answer(self, source: Source, port: Port, index: int, swift: bool) -> tuple[int, Data] | None:
        """Ask until there is an answer or a stop (None); after a failure from index 0, so that it answers at once."""
        ask_from = index

        def lost(state: RetryCallState) -> None:
            nonlocal ask_from
            ask_from = 0
            error = error_of(state)
            if state.attempt_number == 1:
                log.log(logging.DEBUG if swift else logging.WARNING, "cannot watch %s: %s", source.name, error)
            if not swift:
                self._observed.lose(source.name, str(error))

        def ask() -> tuple[int, Data]:
            return source.read(port, ask_from, self._wait_s)

        return retry_until_stopped(ask, self._stop, on=(Unknown, Refused), wait=PAUSES, failed=lost)


def prefix_source(prefix: str, *, swift: bool = True) -> Source:
    """Watch all keys that begin with the prefix (a whole key is a prefix too)."""
    return Source(prefix, lambda port, index, wait_s: port.kv_list(prefix, index=index, wait_s=wait_s), swift)


def checks_source() -> Source:
    """Watch every health check of the catalog. What a check says while it passes wakes nobody."""

    def news_in(found: Data) -> object:
        return telling(check for check in found if isinstance(check, Check))

    return Source(CHECKS, lambda port, index, wait_s: port.checks(index=index, wait_s=wait_s), news_in=news_in)


def pulse_source(stop: threading.Event, *, every_s: float = PULSE_S) -> Source:
    """Ask each second whether the agent knows a leader: a query that blocks on a severed agent would not tell."""

    def read(port: Port, index: int, wait_s: float) -> tuple[int, Data]:
        if index:
            stop.wait(every_s)
        if not port.leader_known():
            raise Unknown("the cluster has no leader")
        return 1, ()

    return Source(PULSE, read, swift=False)


def leader_sources(stop: threading.Event) -> tuple[Source, ...]:
    """Return what a controller watches."""
    return (
        *(prefix_source(prefix) for prefix in SWIFT_PREFIXES),
        *(prefix_source(prefix, swift=False) for prefix in CALM_PREFIXES),
        checks_source(),
        pulse_source(stop),
    )


def start_watching(
    make_port: Callable[[bool], Port], sources: Iterable[Source], stop: threading.Event, *, wait_s: float = WAIT_S
) -> Observed:
    """Start the watchers of the sources and return where their findings are."""
    watched = tuple(sources)
    observed = Observed(source.name for source in watched)
    Watch(make_port, observed, watched, stop, wait_s=wait_s).start()
    return observed
