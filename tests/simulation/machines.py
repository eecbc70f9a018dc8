"""The VMs: units under systemd, the front door's address, what consul-template renders."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from orchestrator.domain.records import Endpoint, Endpoints
from orchestrator.node.duties import Forwarding
from orchestrator.node.situation import AddressState, UnitState, UnitStatus
from tests.simulation.engine import Machine, Process

if TYPE_CHECKING:
    from tests.simulation.world import World

RUNS = (UnitState.ACTIVE, UnitState.STARTING, UnitState.RESTARTING)


class Unit:
    """One unit of systemd on one VM."""

    def __init__(self, vm: Vm, service: str, name: str) -> None:
        self.vm = vm
        self.service = service
        self.name = name
        self.enabled = False
        self.broken = False
        """It fails whenever it is started."""
        self.hung = False
        self.warm = False
        """It has come up and answers (unless it hangs)."""
        self.status = UnitStatus(UnitState.STOPPED, "inactive (dead)")
        self._pids = 100
        self._turn = 0

    @property
    def answers(self) -> bool:
        """Say whether a probe of it succeeds."""
        return (
            self.vm.on and not self.vm.frozen and self.status.state is UnitState.ACTIVE and self.warm and not self.hung
        )

    @property
    def runs(self) -> bool:
        """Say whether it runs or systemd is starting it."""
        return self.vm.on and self.status.state in RUNS

    def start(self) -> None:
        """Start it; nothing happens where it runs."""
        if self.status.state not in RUNS:
            self._come_up(UnitState.STARTING)

    def stop(self) -> None:
        """Stop it."""
        self.hung = False
        self._become(UnitState.STOPPED, "inactive (dead)")

    def crash(self) -> None:
        """It dies and systemd restarts it; a broken one fails for good."""
        if self.runs:
            self._come_up(UnitState.RESTARTING)

    def hang(self) -> None:
        """It goes on running and does not answer any more."""
        if self.runs and not self.hung:
            self.hung = True
            self.vm.world.answers_changed(self)

    def unhang(self) -> None:
        """It answers again."""
        if self.hung:
            self.hung = False
            self.vm.world.answers_changed(self)

    def vanish(self) -> None:
        """The VM is powered off."""
        self._turn += 1
        self.warm = self.hung = False
        self.on_down()
        self.status = UnitStatus(UnitState.STOPPED, "inactive (dead)")

    def on_warm(self) -> None:
        """What else is there once it answers."""

    def on_down(self) -> None:
        """What goes with it."""

    def _become(self, state: UnitState, words: str, result: str = "") -> None:
        self._turn += 1
        self.warm = False
        self.on_down()
        world = self.vm.world
        self.status = UnitStatus(state, words, round(world.wall(self.vm), 3), self._pids, result)
        world.unit_changed(self)

    def _come_up(self, state: UnitState) -> None:
        engine = self.vm.world.engine
        self.hung = False
        self._pids += 1
        self._become(state, "activating")
        turn = self._turn

        def up() -> None:
            if self._turn != turn:
                return
            if self.broken:
                self._become(UnitState.FAILED, "failed (Result: exit-code)", "exit-code")
                return
            self._become(UnitState.ACTIVE, "active (running)")
            now_turn = self._turn
            self.vm.system.later(engine.between(0.02, 0.5), lambda: warm(now_turn))

        def warm(at_turn: int) -> None:
            if self._turn == at_turn:
                self.warm = True
                self.on_warm()
                self.vm.world.answers_changed(self)

        self.vm.system.later(engine.between(0.05, 0.5), up)


class Door:
    """The front door's address on one VM; keeps `node.address.Door`."""

    def __init__(self, vm: Vm, service: str) -> None:
        self._vm = vm
        self._service = service

    def state(self) -> AddressState:
        """See `Door.state`."""
        return self._vm.addresses.get(self._service, AddressState.NONE)

    def take(self, forwarding: Forwarding | None = None) -> None:
        """See `Door.take`. There are no connections in the simulation."""
        self._vm.set_address(self._service, AddressState.UP)

    def hand_over(self) -> None:
        """See `Door.hand_over`."""
        self._vm.set_address(self._service, AddressState.HANDED_OVER)

    def drop(self) -> None:
        """See `Door.drop`."""
        self._vm.set_address(self._service, AddressState.NONE)

    def is_contested(self) -> bool:
        """See `Door.is_contested`."""
        return any(
            other.addresses.get(self._service) is AddressState.UP
            for other in self._vm.world.vms.values()
            if other is not self._vm and self._vm.reaches(other)
        )

    def tidy(self, after_s: float) -> None:
        """See `Door.tidy`."""

    def trouble(self) -> str:
        """See `Door.trouble`."""
        return ""


Renderer = Callable[[bytes | None], tuple[Endpoint, ...] | None]


def keep_last_good(value: bytes | None) -> tuple[Endpoint, ...] | None:
    """Return the upstream that comes of what consul-template found at the key; None: the last good one stays.

    As `templates/upstream.conf.ctmpl.j2` and `apply-upstream` do: lookups come back empty now and then.
    """
    try:
        return Endpoints.from_json(value).endpoints if value is not None else None
    except ValueError:
        return None


class Vm(Machine):
    """One VM of the fleet."""

    def __init__(self, world: World, name: str, skew_s: float) -> None:
        super().__init__(name)
        self.world = world
        self.skew_s = skew_s
        """How far its clock is ahead."""
        self.cut = False
        self.steady_since = 0.0
        """Since when it is on, thawed, not cut, and Consul can write."""
        self.blind_since: float | None = None
        """Since when it has not reached a Consul that can write."""
        self.frozen_at = self.thawed_at = float("-inf")
        self.units: dict[str, Unit] = {}
        self.addresses: dict[str, AddressState] = {}
        self.disk: dict[str, str] = {}
        self.rendered: dict[str, tuple[Endpoint, ...]] = {}
        """Service -> the upstream that nginx has here."""
        self.playbooks: frozenset[str] = frozenset()
        """Digests of the playbooks that its worker has; none in a fleet that has no releases."""
        self.daemons: list[Process] = []
        self.system = Process(world.engine, self, f"system@{name}")
        self.system.begin()

    @property
    def is_well(self) -> bool:
        """Say whether it works and is connected."""
        return self.on and not self.frozen and not self.cut

    def reaches(self, other: Vm) -> bool:
        """Say whether packets go both ways."""
        return self.is_well and other.is_well

    def set_address(self, service: str, state: AddressState) -> None:
        """Move the address; tells the invariants."""
        before = self.addresses.get(service, AddressState.NONE)
        if before is not state:
            self.addresses[service] = state
            self.world.note(f"{self.name}: address of {service} {before.value} -> {state.value}")
            self.world.checker.address_changed(self, service, before, state)
