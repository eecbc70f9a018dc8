"""Decisions are data: what the leader is to write, with the sentence that says why.

Each `Decision` is applied as ONE Consul transaction: check-session on the leader key, then every change by
compare-and-set on the index that the view showed. A transaction that loses changes nothing; the caller reads
anew and decides anew. Commands that a decision creates are published only after its transaction was accepted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from orchestrator.domain.records import Assignment, Command, Record


@dataclass(frozen=True, slots=True)
class Put:
    """Write the record at the key if its ModifyIndex is still `index` (0: the key must not exist)."""

    key: str
    record: Record
    index: int


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete the key if its ModifyIndex is still `index`."""

    key: str
    index: int


@dataclass(frozen=True, slots=True)
class Unchanged:
    """Change nothing of the key, and nothing else either unless its ModifyIndex is still `index`."""

    key: str
    index: int


Change = Put | Delete | Unchanged


@dataclass(frozen=True, slots=True)
class Decision:
    """One thing to do. `sentence` is the log line, the history entry and the test's assertion in one."""

    code: str
    """Short stable name, e.g. `failover`, `endpoints`, `refuse`, `finish`."""
    service: str | None
    sentence: str
    changes: tuple[Change, ...] = ()

    @property
    def commands(self) -> tuple[Command, ...]:
        """The commands that this decision creates (to be published afterwards)."""
        return tuple(
            change.record
            for change in self.changes
            if isinstance(change, Put) and change.index == 0 and isinstance(change.record, Command)
        )


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What is the matter with a service now, and what is done about it or why nothing is."""

    code: str
    """A key of `decide.diagnose.DIAGNOSES`."""
    service: str | None
    sentence: str
    action: str | None = None
    """Code of the decision taken, or None."""
    not_actionable_because: str | None = None


@dataclass(frozen=True, slots=True)
class Reached:
    """Which VMs gossip has lately called unreachable."""

    down_since: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """VM -> since when it has been seen unreachable without a break."""
    returned_at: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """VM -> when it was seen reachable again, for some seconds."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What the leader remembers between cycles. A new leader starts empty, which is always safe."""

    healthy_since: Mapping[tuple[str, str], float] = field(default_factory=lambda: MappingProxyType({}))
    """(service, VM) -> since when the instance has been seen healthy without a break (or, on a designated VM where it
    was never started, able to be started)."""
    last_good: Mapping[str, Assignment] = field(default_factory=lambda: MappingProxyType({}))
    """The last readable assignment of each service."""
    lacking_since: Mapping[tuple[str, str], float] = field(default_factory=lambda: MappingProxyType({}))
    """(service, VM) -> since when a hot standby that could run there has been seen not to, without a break."""
    unready_since: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """Service -> since when the holder of its role lock has been seen not to be ready for traffic, without a break."""
    away_since: Mapping[tuple[str, str], float] = field(default_factory=lambda: MappingProxyType({}))
    """(service, VM) -> since when a member of its cluster has been seen away, without a break."""
    back_since: Mapping[tuple[str, str], float] = field(default_factory=lambda: MappingProxyType({}))
    """(service, VM) -> since when the VM whose place the spare has could have been taken back, without a break."""
    announced: frozenset[str] = frozenset()
    """Sentences already reported that must not be repeated each cycle."""
    reached: Reached = Reached()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one cycle came to. `sentence` is never empty, doing nothing included."""

    decisions: tuple[Decision, ...]
    diagnoses: tuple[Diagnosis, ...]
    memory: Memory
    sentence: str
    wake_at: float | None = None
    """Decide again at this time at the latest, even if nothing changes (a grace ends, a rotation is due)."""
    news: tuple[Decision, ...] = ()
    """Entries for the journal alone, about which nothing is decided: written when all that is decided is."""
