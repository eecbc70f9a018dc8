"""The view: everything that one decision may look at, frozen deep.

Built by `observe` from Consul's answers, by tests from scenario files and by the simulation; read by `decide`.
"Not heard yet", "absent", "unreadable" and "down" are four different values and stay so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Generic, TypeVar

from orchestrator.domain.records import (
    NEWER,
    Assignment,
    Command,
    Endpoints,
    HistoryEntry,
    LockValue,
    Maintenance,
    Members,
    Paused,
    Release,
    Request,
    Rotation,
    Sync,
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Kept(Generic[T]):
    """A record as read from KV. `index` is its ModifyIndex, to be given back in a compare-and-set."""

    value: T
    index: int
    session: str | None = None
    """The session that holds the key as a lock."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """The key exists and what it holds is not such a record. Never treated as absent."""

    key: str
    index: int
    problem: str
    session: str | None = None

    @property
    def is_newer(self) -> bool:
        """Say whether a newer orch wrote it: whoever does not understand it leaves it alone."""
        return NEWER in self.problem


class Reach(str, Enum):
    """What gossip says of a VM."""

    UP = "up"
    DOWN = "down"


class InstanceState(str, Enum):
    """What the checks of one instance say together."""

    HEALTHY = "healthy"
    FAILED = "failed"
    ABSENT = "absent"
    """Not registered: a cold standby, or stopped. Not a failure by itself."""
    UNKNOWN = "unknown"
    """Its agent has just started and has not asked it yet: neither healthy nor failed, for about a second."""


class Load(str, Enum):
    """What the load check of a VM says."""

    NORMAL = "normal"
    HIGH = "high"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class VmView:
    """One VM of the policy."""

    name: str
    reach: Reach
    load: Load = Load.UNKNOWN
    guard_alive: bool = True
    maintenance: Maintenance | None = None


@dataclass(frozen=True, slots=True)
class InstanceView:
    """One service on one VM."""

    vm: str
    state: InstanceState
    output: str = ""


@dataclass(frozen=True, slots=True)
class LockView:
    """A role lock: `value` says who took it and at which epoch; it counts only while `session` holds it."""

    value: LockValue | None
    session: str | None
    index: int

    @property
    def holder(self) -> str | None:
        """The VM that holds the lock now."""
        return self.value.vm if self.session and self.value else None


@dataclass(frozen=True, slots=True)
class ServiceView:
    """One service of the policy. A field is None where its key is absent."""

    name: str
    assignment: Kept[Assignment] | Unreadable | None = None
    lock: LockView | None = None
    endpoints: Kept[Endpoints] | Unreadable | None = None
    rotation: Kept[Rotation] | Unreadable | None = None
    sync: Kept[Sync] | Unreadable | None = None
    members: Kept[Members] | Unreadable | None = None
    trigger_index: int | None = None
    """ModifyIndex of `orch/rotate/<service>` where it exists."""
    trigger_value: str = ""
    instances: Mapping[str, InstanceView] = field(default_factory=lambda: MappingProxyType({}))

    brokers: Mapping[str, InstanceView] = field(default_factory=lambda: MappingProxyType({}))
    """Of a cluster: what is known of the broker on each VM where one is registered, wherever the service is active."""

    def state_on(self, vm: str) -> InstanceState:
        """State of the instance on the VM; ABSENT where none is registered."""
        instance = self.instances.get(vm)
        return instance.state if instance else InstanceState.ABSENT

    @property
    def is_served(self) -> bool:
        """Say whether the active instance is healthy, holds the role lock of the epoch, ready, and gets the traffic."""
        if not isinstance(self.assignment, Kept) or not isinstance(self.endpoints, Kept):
            return False
        now, endpoints = self.assignment.value, self.endpoints.value
        value = self.lock.value if self.lock is not None and self.lock.holder == now.active else None
        locked = value is not None and value.epoch == now.epoch and value.ready
        pointed_at = any(row.vm == now.active and not row.backup for row in endpoints.endpoints)
        is_healthy = self.state_on(now.active) is InstanceState.HEALTHY
        return is_healthy and locked and pointed_at and endpoints.epoch == now.epoch


@dataclass(frozen=True, slots=True)
class View:
    """The fleet as the leader sees it at one moment."""

    vms: Mapping[str, VmView]
    services: Mapping[str, ServiceView]
    requests: tuple[Kept[Request], ...] = ()
    """Open requests, oldest first."""
    ended_requests: frozenset[str] = frozenset()
    """Ids of the requests that have their final state. KV prefixes are watched apart, so that an assignment or a
    command may be seen before the request it belongs to: one that is neither open nor ended is not heard of yet."""
    ended_starts: tuple[Request, ...] = ()
    """The last few ended requests that had a hot standby started or a cluster changed, oldest first."""
    commands: tuple[Kept[Command], ...] = ()
    """Open commands and those of open requests, oldest first."""
    release: Kept[Release] | Unreadable | None = None
    """The playbooks that commands are decided for."""
    paused: Paused | None = None
    unreadable: tuple[Unreadable, ...] = ()
    """Requests, commands, maintenance and rotate keys that could not be read."""
    observed_at: float = 0.0
    """When the newest observation in it arrived (wall clock), for the times in a request's record."""
    quorum_since: float | None = None
    """When Consul had a quorum again after it was long without one (wall clock); None where that never happened.
    What gossip says of VMs may be old for some seconds from then."""
    refused: tuple[Kept[HistoryEntry], ...] = ()
    """Entries on refused messages that workers have left for the journal, oldest first."""
    strange_triggers: tuple[tuple[str, int], ...] = ()
    """(name, ModifyIndex) of keys under `orch/rotate/` that name no service."""

    @property
    def playbooks(self) -> str | None:
        """Digest of the released playbooks; None where none are known, and workers go by those that they have."""
        return self.release.value.digest if isinstance(self.release, Kept) else None
