"""How what changes in Consul reaches a daemon: each source by itself, some milliseconds late, now and then seconds."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from orchestrator.observe.watch import CALM_PREFIXES, CHECKS, PULSE, SWIFT_PREFIXES, Snapshot
from orchestrator.store.port import Port, Unknown

if TYPE_CHECKING:
    from tests.simulation.daemons import Daemon

SESSIONS = "sessions"
WATCHED = (*SWIFT_PREFIXES, *CALM_PREFIXES)
Read = Callable[[Port], tuple[int, Any]]


def source_of(change: tuple[str, str]) -> str | None:
    """Return the source that shows the change."""
    what, name = change
    if what == "check":
        return CHECKS
    if what == "session":
        return f"{SESSIONS}@{name}"
    return next((watched for watched in WATCHED if name == watched or is_below(name, watched)), None)


def is_below(key: str, prefix: str) -> bool:
    """Say whether the prefix is a folder and the key in it."""
    return prefix.endswith("/") and key.startswith(prefix)


def reads_of(vm: str, *names: str) -> dict[str, Read]:
    """Return how the sources are read by a daemon on the VM."""
    reads: dict[str, Read] = {}
    for name in names:
        if name == CHECKS:
            reads[name] = lambda port: port.checks()
        elif name == PULSE:
            reads[name] = _pulse
        elif name == SESSIONS:
            reads[f"{SESSIONS}@{vm}"] = lambda port: port.session_list(vm)
        else:
            reads[name] = lambda port, name=name: port.kv_list(name)  # type: ignore[misc]
    return reads


def _pulse(port: Port) -> tuple[int, Any]:
    if not port.leader_known():
        raise Unknown("the local Consul agent knows no leader")
    return 1, (True,)


class Watching:
    """The watchers of one daemon; keeps what `observe.watch.Observed` gives to a loop."""

    def __init__(self, daemon: Daemon, port: Port, reads: dict[str, Read], *, tells_all: bool = False) -> None:
        """`tells_all`: as the guard's feeds do, pass on answers too that are the same as the ones before."""
        self._daemon = daemon
        self._tells_all = tells_all
        self._port = port
        self._reads = reads
        self._due: set[str] = set()
        self._data: dict[str, tuple[object, ...]] = {}
        self._index: dict[str, int] = {}
        self._unknown = dict.fromkeys(reads, "not heard of yet")
        self._version = 0
        self._changed_at = 0.0
        self._snapshot: Snapshot | None = None
        for name in reads:
            self._read_after(name, daemon.engine.between(0.001, 0.05))

    def notice(self, source: str) -> None:
        """Something of the source changed: it will be read, sooner or later."""
        if source == f"{SESSIONS}@{self._daemon.vm.name}" and SESSIONS in self._reads:
            source = SESSIONS  # As workers call those of their own VM.
        if source in self._reads:
            self._read_after(source, self._daemon.world.lag())

    def check_contact(self) -> None:
        """The way to Consul was lost or found again: every source notices, in its own time."""
        for name in self._reads:
            self._read_after(name, self._daemon.engine.between(0.05, 1.5), again=True)

    def wait(self, after: int = 0, timeout_s: float = 0.0) -> Snapshot:
        """Return what is known now; see `Observed.wait`."""
        if self._snapshot is None:
            self._snapshot = Snapshot(
                self._version,
                MappingProxyType(dict(self._data)),
                MappingProxyType(dict(self._unknown)),
                self._changed_at,
            )
        return self._snapshot

    def learn(self, name: str, index: int, found: tuple[object, ...], *, swift: bool = False) -> bool:
        """Take what was read directly; see `Observed.learn`."""
        if self._data.get(name) == found:
            return False
        self._data[name], self._index[name] = found, index
        self._version, self._changed_at, self._snapshot = self._version + 1, self._daemon.engine.now, None
        return True

    def snapshot(self) -> Snapshot:
        """See `Observed.snapshot`."""
        return self.wait()

    def index_of(self, name: str) -> int:
        """Return the index of what the source showed last."""
        return self._index.get(name, 0)

    def _read_after(self, name: str, delay_s: float, *, again: bool = False) -> None:
        if name not in self._due or again:
            self._due.add(name)
            self._daemon.later(delay_s, lambda: self._read(name))

    def _read(self, name: str) -> None:
        self._due.discard(name)
        try:
            index, found = self._reads[name](self._port)
        except Unknown as problem:
            if self._unknown.get(name) != str(problem):
                self._unknown[name] = str(problem)
                self._tell(name)
            return
        news = self._unknown.pop(name, None) is not None or self._tells_all
        self._index[name] = index
        if self._data.get(name) != found:
            self._data[name] = found
            news = True
        if news:
            self._tell(name)

    def _tell(self, name: str) -> None:
        self._version += 1
        self._changed_at = self._daemon.engine.now
        self._snapshot = None
        self._daemon.heard(name)


__all__ = ["CHECKS", "PULSE", "SESSIONS", "Watching", "reads_of", "source_of"]
