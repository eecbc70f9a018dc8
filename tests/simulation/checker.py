"""The invariants of design.md, looked at whenever something that they speak of changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.domain import keys
from orchestrator.domain.records import (
    Assignment,
    Command,
    CommandState,
    Endpoints,
    LockValue,
    Request,
    RequestState,
)
from orchestrator.execute.play import Order
from orchestrator.node.situation import AddressState
from tests.simulation.engine import Process

if TYPE_CHECKING:
    from tests.simulation.daemons import WorkerDaemon
    from tests.simulation.machines import Unit, Vm
    from tests.simulation.world import World

STEADY_S = 4.0
"""A VM that was frozen or cut for a while may hold what is not its own until it has heard."""
GOES_ON_S = 5.0
"""A play may go on for so long after its epoch was superseded: its worker must hear of it, or give up its lease."""


SHARED_S = 3.0
"""The lock may be another's for so long before its former holder hears of it: as long as the slowest watch."""


class Violated(Exception):
    """An invariant does not hold; the message says which and how, in one sentence."""


class Checker:
    """Sees every change of KV, every play, every address and every stop of a unit."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.requests: dict[str, Request] = {}
        """Every request that could be read, as it was last."""
        self.spoilt: set[str] = set()
        """Requests that the faults overwrote: what was in them is lost."""
        self._held: dict[str, set[tuple[str, int]]] = {}
        self._epochs: dict[str, int] = {}
        self._epoch_since: dict[str, float] = {}
        self._shared_since: dict[str, float] = {}
        """Service -> since when two VMs have held its address."""
        self._plays: dict[str, list[tuple[WorkerDaemon, Order]]] = {}

    # -- KV -----------------------------------------------------------------------------------------------------------

    def key_changed(self, key: str) -> None:
        """Look at the key as it is now."""
        if not key.startswith((keys.SERVICES, keys.REQUESTS, keys.COMMANDS, keys.HISTORY)):
            return
        pair = self._world.consul.peek(key)
        writer = self._world.engine.current
        what = key.rpartition("/")[2]
        if pair is None:
            if writer is not None and key.startswith(keys.SERVICES) and what == "endpoints":
                raise Violated(f"{writer.name} deleted {key}: traffic has nowhere to go")
            return
        if key.startswith(keys.SERVICES):
            service = key.split("/")[2]
            if what == "assignment":
                self._only_the_leader_writes(key, writer)
                self._assignment_changed(service, pair.value)
            elif what == "endpoints":
                self._only_the_leader_writes(key, writer)
                self._endpoints_changed(service, pair.value, writer)
            elif what == "lock":
                self._lock_changed(service, pair.value, pair.session)
            elif what == "sync":
                self._world.data.record_changed()  # Written by the guard that holds the role lock.
            else:
                self._only_the_leader_writes(key, writer)
        elif key.startswith(keys.REQUESTS):
            self._request_changed(key, pair.value, writer)
        elif key.startswith(keys.COMMANDS):
            self._command_changed(pair.value, pair.session)
        elif key.startswith(keys.REFUSED):
            pass  # Written by the worker that refused.
        else:
            self._only_the_leader_writes(key, writer)

    def _only_the_leader_writes(self, key: str, writer: Process | None) -> None:
        if writer is None:
            return
        lock = self._world.consul.peek(keys.LEADER)
        session = getattr(getattr(writer, "election", None), "campaigns_with", None)
        if lock is None or lock.session is None or lock.session != session:
            raise Violated(f"{writer.name} wrote {key} without the leader lock")

    def _assignment_changed(self, service: str, value: bytes) -> None:
        try:
            assignment = Assignment.from_json(value)
        except ValueError:
            return
        before = self._epochs.get(service, 0)
        if assignment.epoch < before:
            raise Violated(f"the epoch of {service} went back from {before} to {assignment.epoch}")
        if assignment.epoch > before:
            self._epochs[service] = assignment.epoch
            self._epoch_since[service] = self._world.engine.now

    def _endpoints_changed(self, service: str, value: bytes, writer: Process | None) -> None:
        try:
            endpoints = Endpoints.from_json(value)
        except ValueError:
            if writer is not None:
                raise Violated(f"{writer.name} wrote endpoints of {service} that cannot be rendered") from None
            return
        first = endpoints.endpoints[0].vm
        if writer is not None and (first, endpoints.epoch) not in self._held.get(service, set()):
            raise Violated(
                f"traffic of {service} is pointed at {first}, which never held the role lock at epoch {endpoints.epoch}"
            )

    def _lock_changed(self, service: str, value: bytes, session: str | None) -> None:
        try:
            lock = LockValue.from_json(value)
        except ValueError:
            return
        if session is not None:
            self._held.setdefault(service, set()).add((lock.vm, lock.epoch))
            if self._world.policy.services.get(service) and self._world.policy.services[service].replication:
                self._world.data.lock_changed(lock)

    def _request_changed(self, key: str, value: bytes, writer: Process | None) -> None:
        try:
            request = Request.from_json(value)
        except ValueError:
            self.spoilt.add(key)
            return
        before = self.requests.get(key)
        if before is not None and before.is_final and request != before and key not in self.spoilt:
            raise Violated(f"request {request.id} was {before.state.value} and was changed to {request.state.value}")
        if request.is_final and not request.outcome:
            raise Violated(f"request {request.id} is {request.state.value} without a reason")
        if request.state is not RequestState.PENDING:
            self._only_the_leader_writes(key, writer)
        self.requests[key] = request

    def _command_changed(self, value: bytes, session: str | None) -> None:
        try:
            command = Command.from_json(value)
        except ValueError:
            return
        if command.state is CommandState.RUNNING and session is None and command.worker is not None:
            return
        if command.is_final and command.state is not CommandState.SUCCEEDED and not command.reason:
            raise Violated(f"command {command.id} is {command.state.value} without a reason")

    # -- plays --------------------------------------------------------------------------------------------------------

    def play_began(self, daemon: WorkerDaemon, order: Order) -> None:
        """A play is started: nobody else may be running the command, and its epoch must be the present one."""
        running = self._plays.setdefault(order.command_id, [])
        for other, _ in running:
            if self._really_runs(other):
                raise Violated(f"{daemon.name} and {other.name} run the command {order.command_id} at the same time")
        running.append((daemon, order))
        if order.playbooks is not None and order.playbooks not in daemon.vm.playbooks:
            raise Violated(f"{daemon.name} began {order.command_id} with other playbooks than it was decided for")
        service, epoch = str(order.variables["service"]), int(order.variables["epoch"])
        if epoch < self._epochs.get(service, 0):
            raise Violated(
                f"{daemon.name} began {order.command_id} of epoch {epoch} while {service} is at epoch "
                f"{self._epochs[service]}"
            )

    def play_acts(self, daemon: WorkerDaemon, order: Order) -> None:
        """A play changes something on its target."""
        service, epoch = str(order.variables["service"]), int(order.variables["epoch"])
        now = self._world.engine.now
        late = now - max(self._epoch_since.get(service, 0.0), daemon.vm.thawed_at)
        if epoch < self._epochs.get(service, 0) and late > GOES_ON_S:
            raise Violated(
                f"{daemon.name} went on with {order.command_id} of epoch {epoch} for {late:.1f} s after epoch "
                f"{self._epochs[service]} had begun"
            )

    def play_ended(self, daemon: WorkerDaemon, order: Order) -> None:
        """A play is over."""
        self._plays[order.command_id] = [each for each in self._plays[order.command_id] if each != (daemon, order)]

    def _really_runs(self, daemon: WorkerDaemon) -> bool:
        """A play on a frozen VM does nothing, and one that has just thawed is being stopped."""
        vm = daemon.vm
        return vm.on and not vm.frozen and self._world.engine.now - vm.thawed_at > 1.0

    # -- VMs ----------------------------------------------------------------------------------------------------------

    def address_changed(self, vm: Vm, service: str, before: AddressState, after: AddressState) -> None:
        """An address is taken only with the lock, and given up only with a reason."""
        world = self._world
        if after is AddressState.UP:
            self._one_holder_of(service)
        elif before is AddressState.UP and world.blind_for(vm) > STEADY_S:
            unit = vm.units[service]
            if unit.runs and not any(
                other.addresses.get(service) is AddressState.UP for other in world.vms.values() if vm.reaches(other)
            ):
                raise Violated(
                    f"{vm.name} gave up the address of {service} although it could not know that it lost the lock"
                )

    def _one_holder_of(self, service: str) -> None:
        now = self._world.engine.now
        holders = [
            vm.name
            for vm in self._world.vms.values()
            if vm.is_well
            and vm.addresses.get(service) is AddressState.UP
            and now - vm.steady_since > STEADY_S
            # Nobody drops an address while the guard does not run; systemd brings it back within a second.
            and self._world.guards[vm.name].alive
            and now - self._world.guards[vm.name].since > STEADY_S
            and self._world.blind_for(vm) == 0.0
        ]
        if len(holders) < 2:
            self._shared_since.pop(service, None)
        elif now - self._shared_since.setdefault(service, now) > SHARED_S:
            raise Violated(f"{' and '.join(holders)} hold the address of {service} at the same time")

    def upstream_rendered(self, vm: Vm, service: str) -> None:
        """nginx has another upstream: one with somebody in it."""
        if not vm.rendered[service]:
            raise Violated(f"the upstream of {service} rendered on {vm.name} is empty")

    def guard_stops(self, vm: Vm, unit: Unit) -> None:
        """A guard stops a unit: only one that may not run there, and never without a quorum."""
        if self._world.blind_for(vm) > 0:
            raise Violated(f"the guard on {vm.name} stopped {unit.name} while it could not reach Consul")
        pair = self._world.consul.peek(keys.assignment(unit.service))
        try:
            assignment = Assignment.from_json(pair.value) if pair else None
        except ValueError:
            assignment = None
        if assignment is not None and assignment.may_run_on(vm.name):
            raise Violated(f"the guard on {vm.name} stopped {unit.name}, which may run there")

    def look_round(self) -> None:
        """Look at what holds at all times."""
        for service in self._world.policy.services:
            self._one_holder_of(service)
        for command_id, running in self._plays.items():
            real = [daemon.name for daemon, _ in running if self._really_runs(daemon)]
            if len(real) > 1:
                raise Violated(f"{' and '.join(real)} run the command {command_id} at the same time")

    def open_requests(self) -> list[Request]:
        """Return the accepted requests that have no final state."""
        return [r for key, r in self.requests.items() if not r.is_final and key not in self.spoilt]
