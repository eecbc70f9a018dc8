"""The simulated fleet: four VMs, Consul, a broker, the daemons; and what happens to them when something breaks."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from orchestrator.domain import keys
from orchestrator.domain.decision import Outcome
from orchestrator.domain.policy import Policy
from orchestrator.domain.records import Assignment, Command, LockValue, Release
from orchestrator.node.situation import AddressState
from orchestrator.observe.quorum import LONG_LOSS_S
from orchestrator.recorder import Inputs
from orchestrator.store.port import Unknown
from tests.fakes.fake_consul import CRITICAL, PASSING, FakeConsul
from tests.simulation.attendant import Attendant
from tests.simulation.broker import Broker
from tests.simulation.checker import Checker
from tests.simulation.daemons import (
    Controller,
    ControllerDaemon,
    Daemon,
    DiskKnowledge,
    GuardDaemon,
    WatchedHand,
    Worker,
    WorkerDaemon,
)
from tests.simulation.data import DATABASE, Data
from tests.simulation.database import DatabaseUnit
from tests.simulation.engine import Engine, Killed, Process
from tests.simulation.machines import Door, Renderer, Unit, Vm, keep_last_good
from tests.simulation.watching import source_of

START = 1_700_000_000.0
CONTROLLERS = WORKERS = ("messaging-server", "frontend-server")
FRONTEND, BACKEND = "frontend", "backend"
STANDBYS = ("cold", "hot")
LEASES_S = (1.0, 1.0, 3.0)
PRUNED_AFTER_S = 6.0
MIN_PEERS = 3


@dataclass(frozen=True, slots=True)
class Parts:
    """What runs in the daemons. Planted bugs are other parts."""

    controller: Callable[..., Controller] = Controller
    worker: Callable[..., Worker] = Worker
    hand: Callable[..., WatchedHand] = WatchedHand
    door: Callable[..., Door] = Door
    renderer: Renderer = keep_last_good
    attendant: Callable[..., Attendant] = Attendant
    knowledge: Callable[..., DiskKnowledge] = DiskKnowledge


def policy_document(
    standby: str, grace_s: float, interval_s: float, backend: str = "cold", *, lease_s: float | None = None
) -> dict[str, Any]:
    """Return the reference fleet with short times; `standby` is the frontend's, `backend` the backend's.

    `lease_s`: with the database, whose primary has this lease; None: without it.
    """

    def service(order: list[str], unit: str, port: int, **more: Any) -> dict[str, Any]:
        return {
            "order": order,
            "unit": unit,
            "port": port,
            "check": {"kind": "http"},
            "activate": f"activate_{unit}.yml",
            "deactivate": f"deactivate_{unit}.yml",
            **more,
        }

    replicated = service(
        ["database-server", "backend-server"],
        "mariadb",
        3306,
        standby="hot",
        check={"kind": "tcp"},
        replication={"kind": "mariadb", "lease_s": lease_s},
    )
    return {
        "vms": {
            "frontend-server": {"address": "10.0.8.49", "roles": ["controller", "worker"]},
            "backend-server": {"address": "10.0.0.22"},
            "messaging-server": {"address": "10.0.0.21", "roles": ["controller", "worker"]},
            "database-server": {"address": "10.0.10.169"},
        },
        "services": {
            BACKEND: service(["backend-server", "messaging-server"], "node-app", 3000, standby=backend),
            FRONTEND: service(
                ["frontend-server", "backend-server"],
                "nginx",
                80,
                standby=standby,
                front_door={"kind": "vip", "address": "10.0.0.100"},
            ),
            **({DATABASE: replicated} if lease_s is not None else {}),
        },
        "failback": {"grace_s": grace_s},
        "rotation": {"interval_hours": interval_s / 3600},
        "flapping": {"max_failovers": 3, "window_s": 60, "hold_s": 20},
        "dispatch": {"play_timeout_s": 20, "activation_timeout_s": 8, "keep_history": 30},
    }


class World:
    """Everything."""

    def __init__(
        self,
        seed: int,
        parts: Parts,
        *,
        document: dict[str, Any] | None = None,
        on_note: Callable[[str], None] | None = None,
        on_cycle: Callable[[Inputs, Outcome], None] | None = None,
    ) -> None:
        """`document`: the policy; without one it is drawn. `on_cycle` is given every cycle of a leading controller."""
        self.on_cycle = on_cycle
        self.engine = engine = Engine(seed)
        self.parts = parts
        self.trace: deque[tuple[float, str]] = deque(maxlen=60)
        self._on_note = on_note
        self.document = document or policy_document(
            engine.pick(STANDBYS),
            engine.between(3.0, 8.0),
            engine.pick((40.0, 90.0, 86400.0)),
            engine.pick(STANDBYS),
            lease_s=engine.pick(LEASES_S),
        )
        self.policy = Policy.model_validate(self.document)
        self.consul = FakeConsul(self.policy.vms, now=0.0)
        engine.on_time = self._turn_clock
        self.broker = Broker(self)
        self.checker = Checker(self)
        self.data = Data(self)
        self.vms = {name: Vm(self, name, engine.between(-0.05, 0.05)) for name in self.policy.vms}
        self.slow = False
        self.long_plays = False
        self.is_healed = False
        """Nothing befalls the fleet any more."""
        self.unsure_share = 0.0
        self._electing = False
        self._lost_quorum_at = 0.0
        self._peers = set(self.vms)
        self.controllers = [ControllerDaemon(self, self.vms[name]) for name in CONTROLLERS]
        self.workers = [WorkerDaemon(self, self.vms[name]) for name in WORKERS]
        self.guards = {name: GuardDaemon(self, vm) for name, vm in self.vms.items()}
        self._watchers: list[Daemon] = [*self.controllers, *self.workers, *self.guards.values()]
        self.consul.listeners.append(self._changed)
        self.consul.on_write = self._on_write
        for vm in self.vms.values():
            for name, service in self.policy.services.items():
                kind = DatabaseUnit if service.replication and vm.name in service.order else Unit
                vm.units[name] = kind(vm, name, service.unit)
        if DATABASE in self.policy.services:
            self.data.begin()
        self.consul.port("database-server").kv_put(keys.CONFIG, json.dumps(self.document).encode())
        self.releases: list[str] = []
        """Digests of the playbooks that were ever released, the newest last; empty in a fleet that has none."""
        # Drawn apart, so that a fleet without releases stays what it was.
        if seed % 4 == 0:
            self.release_playbooks("d1")
        for vm in self.vms.values():
            self.consul.set_check(vm.name, keys.LOAD_CHECK, PASSING)
            for daemon in vm.daemons:
                vm.system.later(engine.between(0.0, 1.0), daemon.restart)

    def release_playbooks(self, digest: str) -> None:
        """Let the workers' VMs have the playbooks beside the former ones, then commands be decided for them."""
        self.releases.append(digest)
        for name in WORKERS:
            self.vms[name].playbooks = frozenset(self.releases)
        record = Release(digest=digest, at=START + self.engine.now, by="operator", orch="0.1.0")
        self.consul.port("database-server").kv_put(keys.RELEASE, record.to_json().encode())

    # -- time and words -----------------------------------------------------------------------------------------------

    def wall(self, vm: Vm) -> float:
        """Return what the VM's clock shows."""
        return START + self.engine.now + vm.skew_s

    def _turn_clock(self, now: float) -> None:
        self.consul.now = now

    def note(self, what: str) -> None:
        """Remember what happened, for the trace."""
        self.trace.append((self.engine.now, what))
        if self._on_note is not None:
            self._on_note(f"{self.engine.now:8.3f}  {what}")

    def lag(self) -> float:
        """Draw how late a watcher hears of a change."""
        if self.slow and self.engine.chance(0.5):
            return self.engine.between(0.1, 2.0)
        return self.engine.between(0.002, 0.03)

    def run_until(self, time: float) -> None:
        """Let time pass."""
        step = 0.5
        while self.engine.now < time:
            self.engine.run_until(min(time, self.engine.now + step))
            self.checker.look_round()

    # -- Consul -------------------------------------------------------------------------------------------------------

    def _changed(self, change: tuple[str, str]) -> None:
        what, name = change
        if what == "kv":
            self.checker.key_changed(name)
            if name.endswith("/endpoints"):
                self._render_soon(name)
        source = source_of(change)
        if source is None:
            return
        for daemon in self._watchers:
            if daemon.watching is not None:
                daemon.watching.notice(source)

    def _on_write(self, node: str, operation: str, stage: str) -> None:
        process = self.engine.current
        if operation == "agent_register_check" and stage == "after":
            for unit in self.vms[node].units.values():
                self._probe_after(unit, self.engine.between(0.0, 1.0))
        if process is None:
            return
        if process.crashes_after:
            process.crashes_after -= 1
            if not process.crashes_after:
                self.note(f"{process.name} is killed {stage} its {operation}")
                raise Killed
        if self.unsure_share and not operation.startswith("agent") and self.engine.chance(self.unsure_share):
            self.note(f"{process.name}: the answer to its {operation} is lost ({stage} it was applied)")
            raise Unknown("the answer was lost")

    def _render_soon(self, key: str) -> None:
        service = key.split("/")[2]
        for vm in self.vms.values():
            vm.system.later(self.lag(), self._rendering(vm, service, key))

    def _render_all_soon(self, vm: Vm) -> None:
        for service in self.policy.services:
            vm.system.later(self.engine.between(0.1, 1.0), self._rendering(vm, service, keys.endpoints(service)))

    def _rendering(self, vm: Vm, service: str, key: str) -> Callable[[], None]:
        def render() -> None:
            # What cannot be reached is an empty lookup to consul-template, as is a key that is gone.
            pair = self.consul.peek(key) if self.blind_for(vm) == 0 else None
            upstream = self.parts.renderer(pair.value if pair else None)
            if upstream is not None:
                vm.rendered[service] = upstream
                self.checker.upstream_rendered(vm, service)

        return render

    def blind_for(self, vm: Vm) -> float:
        """Return for how long the VM has not reached a Consul that can write; 0.0: it does."""
        return self.engine.now - vm.blind_since if vm.blind_since is not None else 0.0

    def contact_changed(self) -> None:
        """Find out anew who reaches whom, after a VM came or went."""
        well = sum(1 for name in self._peers if self.vms[name].is_well)
        quorum = well > len(self._peers) // 2 and not self._electing
        if quorum != self.consul.quorum:
            self.note("there is a quorum again" if quorum else "the quorum is lost")
            self.consul.quorum = quorum
            self._gossip_after(quorum)
        for vm in self.vms.values():
            blind = not quorum or not vm.is_well
            if blind and vm.blind_since is None:
                vm.blind_since = self.engine.now
            elif not blind and vm.blind_since is not None:
                vm.blind_since = None
                vm.steady_since = self.engine.now
                self._render_all_soon(vm)
            else:
                continue
            for daemon in vm.daemons:
                if daemon.watching is not None:
                    daemon.watching.check_contact()

    def _gossip_after(self, quorum: bool) -> None:
        """After a long loss the new Raft leader may be one whose own gossip still calls VMs failed that are well."""
        now = self.engine.now
        if not quorum:
            self._lost_quorum_at = now
        elif now - self._lost_quorum_at >= LONG_LOSS_S and self.engine.chance(0.5):
            for vm in self.vms.values():
                if vm.is_well and self.engine.chance(0.6):
                    self.engine.at(self.engine.between(0.05, 0.5), self._calls_failed(vm))
                    self._gossip_soon(vm, self.engine.between(1.0, 4.0))

    def _calls_failed(self, vm: Vm) -> Callable[[], None]:
        def call() -> None:
            self.note(f"gossip of the new Raft leader calls {vm.name} failed")
            self.consul.set_reachable(vm.name, False)

        return call

    def elect(self, duration_s: float) -> None:
        """Let Consul be without a leader for a while."""
        self._electing = True
        self.contact_changed()

        def elected() -> None:
            self._electing = False
            self.contact_changed()

        self.engine.at(duration_s, elected)

    def _lost(self, vm: Vm) -> None:
        if self.engine.chance(0.3):
            self.elect(self.engine.between(0.3, 1.5))
        self.contact_changed()
        self._gossip_soon(vm, self.engine.between(0.8, 2.5))

        def prune() -> None:
            if not vm.is_well and self.consul.quorum and len(self._peers) > MIN_PEERS:
                self._peers.discard(vm.name)
                self.contact_changed()

        self.engine.at(PRUNED_AFTER_S, prune)

    def _found(self, vm: Vm) -> None:
        self.contact_changed()
        self._gossip_soon(vm, self.engine.between(0.1, 1.0))

        def join() -> None:
            if vm.is_well:
                self._peers.add(vm.name)
                self.contact_changed()

        self.engine.at(3.0, join)

    def _gossip_soon(self, vm: Vm, delay_s: float) -> None:
        self.engine.at(delay_s, lambda: self.consul.set_reachable(vm.name, vm.is_well))

    # -- VMs ----------------------------------------------------------------------------------------------------------

    def power_off(self, vm: Vm) -> None:
        """Take the power away."""
        if not vm.on:
            return
        self.note(f"{vm.name} is powered off")
        vm.on = vm.frozen = False
        vm.deferred.clear()
        vm.system.end()
        for daemon in vm.daemons:
            daemon.end()
        for unit in vm.units.values():
            unit.vanish()
        vm.addresses.clear()
        self.consul.set_stopped(vm.name, True)
        self._lost(vm)

    def power_on(self, vm: Vm) -> None:
        """Boot it: the agent, then what is enabled."""
        if vm.on:
            return
        self.note(f"{vm.name} boots")
        vm.on = True
        vm.system.begin()
        for check in self.consul.peek_agent_checks(vm.name):
            self.consul.set_check(vm.name, check, CRITICAL if check != keys.LOAD_CHECK else PASSING, "not run yet")
        self.consul.set_stopped(vm.name, False)
        self._found(vm)
        for unit in vm.units.values():
            if unit.enabled:
                vm.system.later(self.engine.between(0.3, 2.0), unit.start)
        for daemon in vm.daemons:
            vm.system.later(self.engine.between(0.3, 2.5), daemon.restart)
        for unit in vm.units.values():
            self._probe_after(unit, self.engine.between(0.5, 1.5))

    def freeze(self, vm: Vm) -> None:
        """Stop everything on it, without it knowing."""
        if vm.on and not vm.frozen:
            self.note(f"{vm.name} is frozen")
            vm.frozen = True
            vm.frozen_at = self.engine.now
            self._lost(vm)

    def thaw(self, vm: Vm) -> None:
        """Let it go on."""
        if vm.on and vm.frozen:
            self.note(f"{vm.name} goes on")
            vm.frozen = False
            vm.thawed_at = self.engine.now
            self.engine.thaw(vm)
            self._found(vm)
            for unit in vm.units.values():
                self.answers_changed(unit)

    def set_cut(self, vm: Vm, cut: bool) -> None:
        """Cut its link, or mend it."""
        if vm.cut != cut:
            self.note(f"{vm.name} is {'cut off' if cut else 'connected again'}")
            vm.cut = cut
            self.consul.set_cut(vm.name, cut)
            if cut:
                self._lost(vm)
            else:
                self._found(vm)

    # -- units and daemons --------------------------------------------------------------------------------------------

    def unit_changed(self, unit: Unit) -> None:
        """systemd tells the guard; the agent's probe will see."""
        guard = self.guards[unit.vm.name]
        self.note(f"{unit.vm.name}: {unit.name} is {unit.status.state.value}")
        if guard.alive:
            guard.later(self.engine.between(0.001, 0.02), lambda: guard.take_unit(unit))
        self.answers_changed(unit)

    def answers_changed(self, unit: Unit) -> None:
        """The agent's probe finds out within its interval; it takes two failures for it to turn critical."""
        self._probe_after(unit, self.engine.between(0.0, 1.0) if unit.answers else self.engine.between(1.0, 2.0))

    def _probe_after(self, unit: Unit, delay_s: float) -> None:
        def probe() -> None:
            check_id = keys.probe_check_id(unit.service)
            if check_id in self.consul.peek_agent_checks(unit.vm.name):
                status, output = (PASSING, "HTTP 200") if unit.answers else (CRITICAL, "no answer")
                self.consul.set_check(unit.vm.name, check_id, status, output)

        unit.vm.system.later(delay_s, probe)

    def alive_changed(self, daemon: Daemon) -> None:
        """The agent's check of a daemon follows its life within its interval."""
        delay_s = self.engine.between(0.0, 1.0) if daemon.alive else self.engine.between(0.8, 2.2)

        def check() -> None:
            status = PASSING if daemon.alive else CRITICAL
            self.consul.set_check(daemon.vm.name, keys.daemon_check_id(daemon.kind), status)

        daemon.vm.system.later(delay_s, check)

    @property
    def leader(self) -> Process | None:
        """The controller that holds the leader lock."""
        lock = self.consul.peek(keys.LEADER)
        holds = [c for c in self.controllers if c.alive and lock and lock.session == c.election.campaigns_with]
        return holds[0] if holds and lock and lock.session else None

    # -- is all well? -------------------------------------------------------------------------------------------------

    def complaint(self) -> str | None:
        """Say what is not as it should be in a fleet that nothing befalls any more."""
        for service in self.policy.services:
            wrong = self._complaint_about(service)
            if wrong is not None:
                return wrong
        waiting = self.checker.open_requests()
        if waiting:
            return f"request {waiting[0].id} is still {waiting[0].state.value}"
        for pair in self.consul.peek_list(keys.COMMANDS):
            command = Command.from_json(pair.value)
            if not command.is_final:
                return f"command {command.id} is still {command.state.value}"
        return None

    def _complaint_about(self, service: str) -> str | None:
        pair = self.consul.peek(keys.assignment(service))
        if pair is None:
            return f"{service} has no assignment"
        try:
            assignment = Assignment.from_json(pair.value)
        except ValueError:
            return f"the assignment of {service} cannot be read"
        active = self.vms[assignment.active]
        if assignment.active != assignment.designated:
            return f"{service} is active on {assignment.active} and designated on {assignment.designated}"
        if not active.units[service].answers:
            return f"{service} does not answer on {active.name}, where it is active"
        lock = self.consul.peek(keys.lock(service))
        held = LockValue.from_json(lock.value) if lock and lock.session else None
        if held is None or (held.vm, held.epoch) != (active.name, assignment.epoch):
            return f"{active.name} does not hold the role lock of {service} at epoch {assignment.epoch}"
        for vm in self.vms.values():
            rendered = vm.rendered.get(service)
            if rendered is None or rendered[0].vm != active.name:
                return f"{vm.name} does not send the traffic of {service} to {active.name}"
            if vm.units[service].runs and not assignment.may_run_on(vm.name):
                return f"{service} runs on {vm.name}, where it may not"
            if self.policy.services[service].front_door:
                up = vm.addresses.get(service) is AddressState.UP
                if up != (vm is active):
                    return f"{vm.name} {'has' if up else 'has not'} the address of {service}"
        if self.policy.services[service].replication:
            wrong = self.data.complaint(active.name)
            if wrong is not None:
                return wrong
        return self._complaint_about_standbys(service, assignment)

    def _complaint_about_standbys(self, service: str, assignment: Assignment) -> str | None:
        """Say where a hot standby does not run, or where traffic would not find it."""
        policy = self.policy.services[service]
        wanted = [name for name in policy.order if name != assignment.active] if policy.standby == "hot" else []
        for name in wanted:
            if not self.vms[name].units[service].answers:
                return f"no hot standby of {service} runs on {name}"
        for vm in self.vms.values():
            backups = [row.vm for row in vm.rendered[service] if row.backup]
            if backups != ([] if policy.replication else wanted):
                return f"{vm.name} has {backups or 'nobody'} as backups of {service}, and not {wanted}"
        return None
