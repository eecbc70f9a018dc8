"""The case: one service in one cycle, with the questions that every rule asks about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeVar

from orchestrator.decide.gossip import Doubt
from orchestrator.decide.sync import obstacle_to_promotion
from orchestrator.domain.policy import Policy, ServicePolicy
from orchestrator.domain.records import Assignment, Command, Play, Request, RequestKind, RequestState
from orchestrator.domain.view import InstanceState, Kept, Load, Reach, ServiceView, Unreadable, View

# KV prefixes are watched apart: what one transaction wrote arrives within milliseconds of each other, within a second
# while Consul elects its leader. Waiting longer for a record that was trimmed would hold up a failover.
UNHEARD_S = 3.0

T = TypeVar("T")
OfService = TypeVar("OfService", Request, Command)


def readable(kept: Kept[T] | Unreadable | None) -> Kept[T] | None:
    """Return the record where it can be read; None where it is absent or unreadable."""
    return kept if isinstance(kept, Kept) else None


def index_of(kept: Kept[T] | Unreadable | None) -> int:
    """Return the index for a compare-and-set on the key: 0 where it does not exist."""
    return kept.index if kept is not None else 0


def by_service(kept: Iterable[Kept[OfService]]) -> Mapping[str, tuple[Kept[OfService], ...]]:
    """Return the records sorted by their service, each in the order of the view: looked up once for each case."""
    found: dict[str, list[Kept[OfService]]] = {}
    for one in kept:
        found.setdefault(one.value.service, []).append(one)
    return {name: tuple(records) for name, records in found.items()}


def reachable_vms(view: View, policy: Policy) -> frozenset[str]:
    """Return the VMs of the policy that gossip reaches."""
    return frozenset(name for name, seen in view.vms.items() if seen.reach is Reach.UP and name in policy.vms)


@dataclass(frozen=True)
class Case:
    """One service whose assignment can be read."""

    name: str
    view: View
    seen: ServiceView
    policy: Policy
    service: ServicePolicy
    assignment: Kept[Assignment]
    now: float
    up: frozenset[str]
    """The VMs of the policy that gossip reaches (`reachable_vms`, worked out once for all services)."""
    doubts: Mapping[str, Doubt] = field(default_factory=lambda: MappingProxyType({}))
    """The VMs that gossip does not reach without being believed yet (`gossip.doubts`, for all services too)."""
    requests: tuple[Kept[Request], ...] = ()
    """The open requests of this service, oldest first."""
    commands: tuple[Kept[Command], ...] = ()
    """The open commands of this service and those of its open requests, oldest first."""
    fit_since: float | None = None
    """Since when the designated VM has been seen fit to take the service back without a break; None: it is not, or
    the service is there."""
    grace_is_announced: bool = False
    lacking_since: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """VM -> since when the hot standby that could run there has been seen not to, without a break."""
    unready_since: float | None = None
    """Since when the active has been seen to hold the role lock without being ready for traffic; None: it is not so."""
    away_since: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """Since when each member of the cluster that is away has been seen to be, without a break."""
    back_since: float | None = None
    """Since when the VM whose place the spare has could have been taken back, without a break."""
    active: str = field(init=False)
    """The VM that the assignment names active."""
    designated: str = field(init=False)
    """The designated VM; home where the designation names a VM that left the order."""
    healthy: frozenset[str] = field(init=False)
    """The VMs whose instance is registered, passing and reachable."""
    lock_is_current: bool = field(init=False)
    """Whether the active VM holds the role lock at the assignment's epoch."""
    is_serving: bool = field(init=False)
    """Whether the active instance is healthy, holds the lock and is ready: traffic may be pointed at it."""
    hot_standbys: tuple[str, ...] = field(init=False)
    """The VMs on which a standby should run all the time: all of the order but the active, where it is hot."""
    move: Kept[Request] | None = field(init=False)
    """The running request that moves this service (the oldest, should there be two)."""
    starts: tuple[Kept[Request], ...] = field(init=False)
    """The running requests that have a hot standby of this service started, oldest first."""
    changes: tuple[Kept[Request], ...] = field(init=False)
    """The running requests that change this service's cluster, oldest first."""

    def __post_init__(self) -> None:
        now, lock, order = self.assignment.value, self.seen.lock, self.service.order
        healthy = InstanceState.HEALTHY
        running = [kept for kept in self.requests if kept.value.state is RequestState.RUNNING]
        held = lock.value if lock is not None and lock.holder == now.active else None
        fit = frozenset([vm for vm, it in self.seen.instances.items() if it.state is healthy and vm in self.up])
        # Set past the frozen surface, once: they follow from the fields above, and every rule asks for them.
        self.__dict__.update(
            active=now.active,
            designated=now.designated if now.designated in order else self.service.home,
            healthy=fit,
            lock_is_current=held is not None and held.epoch == now.epoch,
            is_serving=held is not None and held.epoch == now.epoch and held.ready and now.active in fit,
            hot_standbys=tuple([vm for vm in order if vm != now.active]) if self.service.standby == "hot" else (),
            move=next((kept for kept in running if kept.value.is_move), None),
            starts=tuple([kept for kept in running if kept.value.kind is RequestKind.STANDBY]),
            changes=tuple([kept for kept in running if kept.value.kind is RequestKind.MEMBER]),
        )

    @property
    def now_assigned(self) -> Assignment:
        """The assignment's record."""
        return self.assignment.value

    def has_heard_of(self, request_id: str, since: float) -> bool:
        """Say whether the request has been seen, open or ended. After `UNHEARD_S` it is taken for trimmed or lost."""
        return (
            request_id in self.view.ended_requests
            or any(kept.value.id == request_id for kept in self.requests)
            or self.now - since >= UNHEARD_S
        )

    def is_up(self, vm: str) -> bool:
        """Say whether gossip reaches the VM. A VM that the policy does not know is not up."""
        return vm in self.up

    def is_lost(self, vm: str) -> bool:
        """Say whether gossip does not reach the VM and is believed."""
        return not self.is_up(vm) and vm not in self.doubts

    def is_healthy_on(self, vm: str) -> bool:
        """Say whether the instance on the VM is registered, passing and reachable."""
        return vm in self.healthy

    def is_failed_on(self, vm: str) -> bool:
        """Say whether the instance on the VM is registered and failing."""
        return self.seen.state_on(vm) is InstanceState.FAILED

    def in_maintenance(self, vm: str) -> bool:
        """Say whether an operator took the VM out."""
        seen = self.view.vms.get(vm)
        return seen is not None and seen.maintenance is not None

    def has_guard(self, vm: str) -> bool:
        """Say whether the VM's guard is alive: without it nobody there can take or hand over the role lock."""
        seen = self.view.vms.get(vm)
        return seen is not None and seen.guard_alive

    def is_overloaded(self, vm: str) -> bool:
        """Say whether the VM's load check is above its threshold. Unknown load is no reason to pass it over."""
        seen = self.view.vms.get(vm)
        return seen is not None and seen.load is Load.HIGH

    @property
    def is_unready(self) -> bool:
        """Say whether the active holds the role lock and takes no traffic: its copy of the data is not promoted yet."""
        return self.lock_is_current and not self.is_serving and self.is_healthy_on(self.active)

    @property
    def is_down(self) -> bool:
        """Say whether the active instance is known not to serve. Healthy without the lock yet is not down."""
        if not self.is_up(self.active) or self.is_failed_on(self.active):
            return True
        if self.lock_is_current:
            return False
        return self.seen.state_on(self.active) is InstanceState.ABSENT or self.is_forsaken

    @property
    def has_had_traffic(self) -> bool:
        """Say whether traffic has been pointed at the active since it is the active."""
        endpoints = readable(self.seen.endpoints)
        return endpoints is not None and endpoints.value.epoch == self.now_assigned.epoch

    @property
    def is_forsaken(self) -> bool:
        """Say whether the active never got the traffic and has no guard that could take the lock for it."""
        return not self.lock_is_current and not self.has_had_traffic and not self.has_guard(self.active)

    @property
    def is_hot(self) -> bool:
        """Say whether standbys of this service run all the time."""
        return self.service.standby == "hot"

    @property
    def asked(self) -> Kept[Request] | None:
        """The oldest pending request for this service."""
        return next((kept for kept in self.requests if kept.value.state is RequestState.PENDING), None)

    def commands_of(self, request: Request) -> tuple[Command, ...]:
        """Return the commands of the request, oldest first."""
        return tuple(c.value for c in self.commands if c.value.request_id == request.id)

    def command_of(self, request: Request, play: Play, vm: str) -> Command | None:
        """Return the newest command of the request that runs the play on the VM."""
        found = [c for c in self.commands_of(request) if c.play is play and c.target == vm]
        return found[-1] if found else None

    @property
    def is_replicated(self) -> bool:
        """Say whether the service has data of which only some copies are whole."""
        return self.service.replication is not None

    def is_fit(self, vm: str) -> bool:
        """Say whether the service could come to the VM: healthy there and in sync, or never started there."""
        obstacle = obstacle_to_promotion(self.name, self.service, self.seen, vm, self.now)
        healthy = self.is_healthy_on(vm) and obstacle is None
        return healthy or (self.is_new_on(vm) and self.is_up(vm) and self.has_guard(vm))

    def is_new_on(self, vm: str) -> bool:
        """Say whether the service was never started on the VM since it is designated: so nothing starts it there.

        So it is where home was down when the service was founded elsewhere, and where the policy's order changed.
        Only the plays start units; otherwise an instance that is absent was stopped by somebody, and stays so.
        """
        never = self.now_assigned.designated_is_new or vm != self.now_assigned.designated
        return never and vm == self.designated != self.active and self.seen.state_on(vm) is InstanceState.ABSENT

    @property
    def hold_is_in_force(self) -> bool:
        """Say whether flapping holds automatic moves of this service."""
        until = self.now_assigned.hold_until
        return until is not None and self.now < until

    def standbys_wanted(self, active: str, designated: str) -> tuple[str, ...]:
        """VMs beside these two on which the unit may run in the steady state."""
        if not self.is_hot:
            return ()
        return tuple([vm for vm in self.service.order if vm not in (active, designated)])
