"""What a guard knows of its own VM at one moment: the frozen values that `node.duty` judges.

In: built by `guard.py` from KV, the local Consul agent, systemd and the VM's addresses. Out: `LocalView`.
"Not known" is a value of its own everywhere (`UNKNOWN`, `None` with its meaning in the docstring), never "absent".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType

from orchestrator.domain.policy import ServicePolicy
from orchestrator.domain.records import Assignment, Sync
from orchestrator.domain.view import LockView
from orchestrator.node.replication.facts import ServerFacts

PASSING = "passing"
CRITICAL = "critical"


class UnitState(str, Enum):
    """What systemd says of a unit, in the words that matter to a guard."""

    ACTIVE = "active"
    STARTING = "starting"
    RESTARTING = "restarting"
    """systemd is bringing it back by itself, or a restart job is under way."""
    STOPPING = "stopping"
    """A stop was asked for and is under way."""
    STOPPED = "stopped"
    FAILED = "failed"
    ABSENT = "absent"
    """systemd knows no such unit."""
    UNKNOWN = "unknown"
    """systemd could not be asked."""


RUNNING = frozenset({UnitState.ACTIVE, UnitState.STARTING, UnitState.RESTARTING})
SETTLING = frozenset({UnitState.STARTING, UnitState.RESTARTING})
DOWN = frozenset({UnitState.STOPPED, UnitState.FAILED, UnitState.ABSENT, UnitState.STOPPING})


@dataclass(frozen=True, slots=True)
class UnitStatus:
    """One unit. `words` are systemd's own, such as `active (running)`; `since` is wall-clock seconds."""

    state: UnitState
    words: str = ""
    since: float = 0.0
    pid: int = 0
    result: str = ""


class ProbeState(str, Enum):
    """What the guard's own quick probe found since the unit last changed."""

    OK = "ok"
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """The last local probe; `at` is monotonic seconds."""

    state: ProbeState = ProbeState.UNKNOWN
    output: str = ""
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Registration:
    """The instance as the local agent has it. A status is empty where that check is not registered."""

    tags: tuple[str, ...]
    meta: tuple[tuple[str, str], ...]
    address: str
    port: int
    unit_status: str = ""
    unit_output: str = ""
    probe_status: str = ""
    probe_output: str = ""
    by_own_token: bool = True
    """Else what becomes of its checks may not reach the catalog (`AgentService.by_own_token`)."""
    probe_unasked: bool = False
    """The agent has started and has not asked yet: its probe is critical, which means nothing for a second."""

    @property
    def is_whole(self) -> bool:
        """Say whether both checks are there."""
        return bool(self.unit_status and self.probe_status)

    @property
    def is_healthy(self) -> bool:
        """Say whether no check is critical (a session can be bound to them)."""
        return self.is_whole and CRITICAL not in (self.unit_status, self.probe_status)

    @property
    def is_unproven(self) -> bool:
        """Say whether nothing but the probe that has not been made yet keeps it from being healthy."""
        return self.is_whole and self.unit_status != CRITICAL and self.probe_unasked


class AddressState(str, Enum):
    """Where the front door's address is on this VM."""

    NONE = "none"
    UP = "up"
    HANDED_OVER = "handed-over"
    """On the loopback interface: connections that are open end in peace, new ones go to the new holder."""
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class DataState:
    """A replicated service's data, as this VM's server and KV show it."""

    facts: ServerFacts | None = None
    """The last reading of the server; None: there was none yet."""
    busy: str = ""
    """What the server is being told to do; empty: nothing."""
    leased: bool = False
    """Writes close by themselves when the role lock is not confirmed any more."""
    failed_at: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """What the server was told last and did not do -> when (monotonic) that was known."""
    had_traffic: bool = False
    """Traffic was pointed at this VM at the present epoch; found out only where there is no record."""
    followed_at: float | None = None
    """When (monotonic) the server was last told to follow; it needs a moment to connect."""
    sync: Sync | None = None
    sync_index: int = 0
    """ModifyIndex of the record, 0 where there is none."""
    sync_problem: str = ""
    """Why the record cannot be read."""


@dataclass(frozen=True, slots=True)
class Situation:
    """One service of the policy whose order names this VM."""

    service: str
    policy: ServicePolicy
    vm_address: str
    assignment: Assignment | None = None
    """The last good one; None: there is none yet (the fleet is being founded)."""
    assignment_index: int = 0
    """ModifyIndex of the key that holds it, 0 while what the key holds cannot be read."""
    lock: LockView | None = None
    sessions: tuple[str, ...] = ()
    """Living sessions of this guard for the service."""
    unit: UnitStatus = UnitStatus(UnitState.UNKNOWN)
    probe: ProbeResult = ProbeResult()
    registration: Registration | None = None
    address: AddressState = AddressState.NONE
    contested: bool = False
    """Another VM answers for the address; asked only while Consul cannot say who may hold it."""
    door_trouble: str = ""
    """Why the front door is not where it was put, for people."""
    unsynced: bool = False
    """The agent has the instance registered and the catalog does not know it."""
    data: DataState = DataState()

    @property
    def lock_mine(self) -> bool:
        """Say whether the role lock is held by a session of this guard."""
        return self.lock is not None and self.lock.session is not None and self.lock.session in self.sessions


NO_ADDRESSES: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class LocalView:
    """Everything that one look at the VM shows.

    `kv_fresh`: the last read of KV and sessions succeeded; while it is False nothing is given up or taken.
    `agent_known`: the local agent answered, so `registration` None means "not registered".
    """

    vm: str
    drain_s: float
    give_up_s: float
    """How long an instance may take to become healthy before it is registered as failed."""
    vm_addresses: Mapping[str, str] = field(default_factory=lambda: NO_ADDRESSES)
    situations: tuple[Situation, ...] = ()
    strays: tuple[str, ...] = ()
    """Ids of registered instances whose service's order no longer names this VM."""
    kv_fresh: bool = False
    agent_known: bool = False
    wall: float = 0.0
    """Wall-clock time, for records only."""
