"""The daemons: our real controller, worker and guard logic, each with a loop in virtual time around it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from orchestrator.controller import Controller, Loop
from orchestrator.dispatch.consumer import Delivery
from orchestrator.domain import keys
from orchestrator.domain.decision import Outcome
from orchestrator.domain.policy import Policy
from orchestrator.domain.records import Assignment, Command
from orchestrator.execute.play import Ended, Order, PlayEnded, TaskStarted
from orchestrator.execute.releases import Found
from orchestrator.guard import FROZEN_S, LONGEST_WAIT_S
from orchestrator.node import duties as do
from orchestrator.node.address import Door
from orchestrator.node.hand import Hand
from orchestrator.node.knowledge import ASSIGNMENTS_FILE, FEEDS_OF_FRESHNESS, POLICY_FILE, Knowledge
from orchestrator.node.rounds import Rounds
from orchestrator.node.situation import ProbeResult, ProbeState, Situation, UnitState
from orchestrator.observe.watch import CALM_PREFIXES, SWIFT_PREFIXES
from orchestrator.recorder import Inputs
from orchestrator.store.election import Election
from orchestrator.worker import SESSIONS as WORKER_SESSIONS
from orchestrator.worker import seen_in
from orchestrator.worker_steps import Worker
from tests.fakes.fake_plays import SENDERS
from tests.simulation.attendant import Attendant
from tests.simulation.database import DatabaseUnit
from tests.simulation.engine import Process
from tests.simulation.machines import Unit, Vm
from tests.simulation.watching import CHECKS, PULSE, SESSIONS, Watching, reads_of

if TYPE_CHECKING:
    from tests.simulation.world import World

WAKE_S = 0.002
BUSY_ROUND_S = 0.5
IDLE_ROUND_S = 3.0


class Daemon(Process):
    """A daemon of ours under systemd: it comes back by itself, and the agent's check of it follows."""

    kind = ""

    def __init__(self, world: World, vm: Vm) -> None:
        super().__init__(world.engine, vm, f"{self.kind}@{vm.name}")
        self.world = world
        self.vm = vm
        self.watching: Watching | None = None
        self.stays_down = False
        self._waking = False
        vm.daemons.append(self)

    def on_begin(self) -> None:
        """Begin with nothing but what is on the disk and in Consul."""
        self._waking = False
        self.set_up()
        self.world.alive_changed(self)

    def on_end(self) -> None:
        """Let the check notice, and systemd restart it."""
        self.world.note(f"{self.name} died")
        self.watching = None
        self.tear_down()
        self.world.alive_changed(self)
        if self.vm.on and not self.stays_down:
            self.vm.system.later(self.engine.between(0.1, 2.0), self.restart)

    def restart(self) -> None:
        """Start it unless it runs or is kept from it."""
        if self.vm.on and not self.alive and not self.stays_down:
            self.begin()

    def heard(self, source: str) -> None:
        """A watcher has news."""
        self.wake()

    def wake(self, delay_s: float = WAKE_S) -> None:
        """Go round soon."""
        if not self._waking:
            self._waking = True
            self.later(delay_s, self._awake)

    def _awake(self) -> None:
        self._waking = False
        self.go_round()

    def set_up(self) -> None:
        """Make the real thing."""
        raise NotImplementedError

    def tear_down(self) -> None:
        """What goes with the process."""

    def go_round(self) -> None:
        """One turn of its loop."""
        raise NotImplementedError


class ControllerDaemon(Daemon):
    """`orch controller`."""

    kind = "controller"

    def set_up(self) -> None:
        """See `controller.run`."""
        port = self.world.consul.port(self.vm.name)
        prefixes = [key for key in (*SWIFT_PREFIXES, *CALM_PREFIXES) if key != keys.RELEASE or self.world.releases]
        self.watching = Watching(self, port, reads_of(self.vm.name, *prefixes, CHECKS))
        self.election = Election(port, self.vm.name)
        controller = self.world.parts.controller(port, self._publish, self._record)
        self.loop = Loop(
            port,
            self.watching,  # type: ignore[arg-type]
            self.election,
            controller,
            SimpleNamespace(beat=lambda sentence: None),  # type: ignore[arg-type]
            wall=lambda: self.world.wall(self.vm),
            monotonic=lambda: self.engine.now,
        )
        self._turn = 0

    def go_round(self) -> None:
        """See `Loop.run`."""
        self.loop.round()
        self._turn += 1
        self._come_round(self._turn, self.loop.patience_s)

    def _come_round(self, turn: int, patience_s: float) -> None:
        def look() -> None:
            if self._turn == turn:
                self.go_round()

        self.later(patience_s, look)

    def _publish(self, command: Command) -> None:
        self.world.broker.publish(self, command)

    def _record(self, inputs: Inputs, outcome: Outcome) -> None:
        for decision in outcome.decisions:
            self.world.note(f"{self.name}: {decision.sentence}")
        if self.world.on_cycle is not None:
            self.world.on_cycle(inputs, outcome)


class SimulatedPlays:
    """Runs plays in virtual time; keeps `execute.play.Plays`."""

    def __init__(self, daemon: WorkerDaemon) -> None:
        self._daemon = daemon
        self._cancelled: set[str] = set()
        self._running: dict[str, Order] = {}

    def start(self, order: Order) -> None:
        """See `Plays.start`."""
        daemon, engine = self._daemon, self._daemon.engine
        self._running[order.command_id] = order
        daemon.world.checker.play_began(daemon, order)
        begun = engine.between(*((4.0, 16.0) if daemon.world.long_plays else (0.2, 0.6)))
        daemon.later(begun, lambda: self._tell(TaskStarted(order.command_id, "Have its unit right", daemon.wall())))
        daemon.later(begun + engine.between(0.05, 0.6), lambda: self._reach(order, engine.now + 10.0))

    def cancel(self, command_id: str) -> None:
        """See `Plays.cancel`."""
        order = self._running.get(command_id)
        if order is not None and command_id not in self._cancelled:
            self._cancelled.add(command_id)
            self._daemon.later(self._daemon.engine.between(0.05, 0.3), lambda: self._end(order, Ended.CANCELLED, None))

    def abandon(self) -> None:
        """The worker died, and its plays with it."""
        for order in list(self._running.values()):
            self._daemon.world.checker.play_ended(self._daemon, order)
        self._running.clear()

    def _reach(self, order: Order, give_up_at: float) -> None:
        """Log in to the target and do what the play does there; wait for one that is frozen."""
        if not self._is_on(order):
            return
        daemon, engine = self._daemon, self._daemon.engine
        target = daemon.world.vms[str(order.variables["target"])]
        if target.on and target.frozen and not target.cut and engine.now < give_up_at:
            daemon.later(0.3, lambda: self._reach(order, give_up_at))
        elif not daemon.vm.reaches(target):
            daemon.later(engine.between(0.5, 2.5), lambda: self._end(order, Ended.EXITED, 4))
        else:
            self._do(order, target.units[str(order.variables["service"])])

    def _do(self, order: Order, unit: Unit) -> None:
        daemon = self._daemon
        daemon.world.checker.play_acts(daemon, order)
        daemon.world.note(f"{daemon.name}: {order.playbook} acts on {unit.vm.name}")
        unit.enabled = bool(order.variables["enable_at_boot"])
        source = daemon.world.vms.get(str(order.variables["source"]))
        activates = order.playbook.startswith("activate")
        if activates and source is not None and isinstance(unit, DatabaseUnit) and unit.server.needs_clone:
            daemon.later(daemon.engine.between(0.5, 2.0), lambda: self._clone(order, unit, source))
            return
        if activates:
            unit.start()
        else:
            unit.stop()
        daemon.later(daemon.engine.between(0.3, 1.2), lambda: self._check(order, unit))

    def _clone(self, order: Order, unit: DatabaseUnit, source: Vm) -> None:
        """The data was streamed from the source beside what is there: it takes its place, if it is still unwanted."""
        daemon, there = self._daemon, source.units[unit.service]
        if not self._is_on(order):
            return
        if not isinstance(there, DatabaseUnit) or not daemon.vm.reaches(unit.vm) or not unit.vm.reaches(source):
            self._end(order, Ended.EXITED, 4)
        elif not there.answers or not unit.server.needs_clone or unit.server.writable:
            self._end(order, Ended.EXITED, 2)
        else:
            daemon.world.note(f"{daemon.name}: {unit.server.name} is cloned from {there.server.name}")
            copy = list(there.server.log)
            unit.stop()
            daemon.later(daemon.engine.between(0.1, 0.5), lambda: self._swap(order, unit, copy))

    def _swap(self, order: Order, unit: DatabaseUnit, copy: list[int]) -> None:
        if not self._is_on(order):
            return
        if not self._daemon.vm.reaches(unit.vm) or unit.runs:
            self._end(order, Ended.EXITED, 4)
            return
        unit.server.take_clone(copy)
        unit.start()
        self._daemon.later(self._daemon.engine.between(1.2, 2.0), lambda: self._check(order, unit))

    def _check(self, order: Order, unit: Unit) -> None:
        """The last task: the play succeeds if the unit is as it should be."""
        wrong = order.playbook.startswith("activate") and not unit.runs
        self._end(order, Ended.EXITED, 2 if wrong or not self._daemon.vm.reaches(unit.vm) else 0)

    def _is_on(self, order: Order) -> bool:
        return self._running.get(order.command_id) is order and order.command_id not in self._cancelled

    def _end(self, order: Order, how: Ended, rc: int | None) -> None:
        if self._running.get(order.command_id) is not order:
            return
        if how is Ended.EXITED and order.command_id in self._cancelled:
            return
        del self._running[order.command_id]
        self._cancelled.discard(order.command_id)
        self._daemon.world.checker.play_ended(self._daemon, order)
        self._tell(PlayEnded(order.command_id, order.attempt, how, rc, ("fatal: it failed",) if rc else ()))

    def _tell(self, event: TaskStarted | PlayEnded) -> None:
        self._daemon.worker.take_play_event(event)
        self._daemon.wake()


class WorkerDaemon(Daemon):
    """`orch worker`."""

    kind = "worker"

    def set_up(self) -> None:
        """See `worker.run`."""
        port = self.world.consul.port(self.vm.name)
        # Not where there are no releases, so that such a fleet stays what it was before there were any.
        playbooks = (keys.installed(self.vm.name),) if self.world.releases else ()
        reads = reads_of(self.vm.name, keys.COMMANDS, keys.SERVICES, keys.CONFIG, *playbooks)
        reads[WORKER_SESSIONS] = lambda port: port.session_list(self.vm.name)
        self.watching = Watching(self, port, reads)
        self.plays = SimulatedPlays(self)
        self.worker: Worker = self.world.parts.worker(
            port,
            self.plays,
            self.world.broker,
            self.vm.name,
            SENDERS,
            self.wall,
            look_at_playbooks=self._playbooks,
        )
        self.world.broker.connect(self)
        self._turn = 0

    def _playbooks(self) -> Found:
        have = sorted(self.vm.playbooks)
        return Found(have[-1] if have else None, dict.fromkeys(have, Path("/nowhere")))

    def tear_down(self) -> None:
        """Its plays and its connection to the broker go with it."""
        self.plays.abandon()
        self.world.broker.disconnect(self)

    def wall(self) -> float:
        """Return the VM's clock."""
        return self.world.wall(self.vm)

    def take(self, delivery: Delivery) -> None:
        """A message arrives."""
        self.worker.take_message(delivery)
        self.wake()

    def go_round(self) -> None:
        """See `_Daemon.step`."""
        assert self.watching is not None
        cycle = self.worker.cycle(seen_in(self.watching.wait()), self.engine.now)
        patience_s = IDLE_ROUND_S if self.worker.is_idle else BUSY_ROUND_S
        if cycle.wake_at is not None:
            patience_s = min(patience_s, max(0.001, cycle.wake_at - self.engine.now))
        self._turn += 1
        turn = self._turn

        def look() -> None:
            if self._turn == turn:
                self.go_round()

        self.later(patience_s, look)


class DiskKnowledge(Knowledge):
    """The guard's knowledge with the VM's disk in memory."""

    def __init__(self, vm: Vm) -> None:
        self._disk = vm.disk
        super().__init__(vm.name, Path("/nowhere"))

    def _kept_policy(self) -> Policy | None:
        text = self._disk.get(POLICY_FILE)
        return Policy.model_validate_json(text) if text else None

    def _kept_assignments(self) -> dict[str, Assignment]:
        kept = json.loads(self._disk.get(ASSIGNMENTS_FILE, "{}"))
        return {name: Assignment.model_validate(each) for name, each in kept.items()}

    def _keep(self, name: str, text: str) -> None:
        self._disk[name] = text


class GuardDaemon(Daemon):
    """`orch guard`."""

    kind = "guard"

    def set_up(self) -> None:
        """See `guard.Guard`."""
        port = self.world.consul.port(self.vm.name)
        reads = reads_of(self.vm.name, keys.SERVICES, SESSIONS, keys.CONFIG, PULSE)
        self.watching = Watching(self, port, reads, tells_all=True)
        self.knowledge = self.world.parts.knowledge(self.vm)
        self.hand = self.world.parts.hand(self.vm, port, self._probe, self._stop_unit)
        self.rounds = Rounds(self.knowledge, port, self.hand, lambda: self.engine.now)
        self.attendants: dict[str, Attendant] = {}
        self._waiting_since = self.engine.now
        self._turn = 0
        self._follow_policy()

    def heard(self, source: str) -> None:
        """See `Guard._take_reading`."""
        assert self.watching is not None
        snapshot, known = self.watching.wait(), self.knowledge
        name = source.partition("@")[0]
        feed = "services" if name == keys.SERVICES else name
        problem = snapshot.unknown.get(source)
        if problem is not None:
            if feed in FEEDS_OF_FRESHNESS:
                known.lose(feed, problem)
            self.wake()
            return
        if known.troubled.pop(feed, None) is not None:
            self.rounds.read_agent_soon()
        found = snapshot.data[source]
        if name == keys.CONFIG:
            if known.take_policy(found[0] if found else None):  # type: ignore[arg-type]
                self._follow_policy()
        elif name == SESSIONS:
            known.sessions.offer(self.watching.index_of(source), found)  # type: ignore[arg-type]
        elif name != PULSE:
            known.kv.offer(self.watching.index_of(source), found)  # type: ignore[arg-type]
        self.wake()

    def take_unit(self, unit: Unit) -> None:
        """systemd reports a change."""
        self.knowledge.take_unit(unit.name, unit.status)
        self.wake()

    def go_round(self) -> None:
        """See `Guard.run`."""
        now = self.engine.now
        began = self._waiting_since
        if self.vm.thawed_at >= began:
            # The real loop comes round each LONGEST_WAIT_S at least: its present wait began shortly before the freeze.
            began += LONGEST_WAIT_S * ((self.vm.frozen_at - began) // LONGEST_WAIT_S)
        if now > began + LONGEST_WAIT_S + FROZEN_S and self.vm.thawed_at >= began:
            self.rounds.doubt("this VM stood still")
        wake_at = self.rounds.run()
        self._waiting_since = now
        self._turn += 1
        turn = self._turn

        def look() -> None:
            if self._turn == turn:
                self.go_round()

        self.later(max(0.001, wake_at - now), look)

    def _follow_policy(self) -> None:
        policy = self.knowledge.policy
        if policy is None:
            return
        doors: dict[str, Door] = {
            name: self.world.parts.door(self.vm, name) for name, each in policy.services.items() if each.front_door
        }
        self.rounds.doors = doors
        self._attend(policy)
        self.rounds.read_addresses_soon()
        for unit in self.vm.units.values():
            self.knowledge.take_unit(unit.name, unit.status)

    def _attend(self, policy: Policy) -> None:
        """Have an attendant for each server of a replicated service on this VM."""
        for name, service in policy.services.items():
            unit = self.vm.units.get(name)
            if isinstance(unit, DatabaseUnit) and self.vm.name in service.order and name not in self.attendants:
                assert service.replication is not None
                port, lease_s = self.world.consul.port(self.vm.name), service.replication.lease_s
                self.attendants[name] = self.world.parts.attendant(self, name, unit.server, port, lease_s)
        self.hand.servers = self.attendants

    def _probe(self, at: Situation) -> None:
        unit = self.vm.units[at.service]

        def answer() -> None:
            state = ProbeState.OK if unit.answers else ProbeState.FAILED
            self.rounds.take_probe(
                at.service, ProbeResult(state, "HTTP 200" if unit.answers else "no answer", self.engine.now)
            )
            self.wake()

        self.later(self.engine.between(0.002, 0.02) if unit.answers or not unit.hung else 0.8, answer)

    def _stop_unit(self, name: str) -> None:
        unit = next(each for each in self.vm.units.values() if each.name == name)
        self.world.note(f"{self.name}: stops {name}")
        self.world.checker.guard_stops(self.vm, unit)
        unit.enabled = False
        if unit.status.state is not UnitState.STOPPED:
            unit.stop()


class WatchedHand(Hand):
    """The real hand; notes what it does in the trace."""

    def __init__(self, vm: Vm, port: object, probe: Callable[[Situation], None], stop: Callable[[str], None]) -> None:
        super().__init__(vm.name, port, probe, stop, self._reload, lambda: vm.world.engine.now)  # type: ignore[arg-type]
        self._machine = vm

    def carry_out(self, duty: do.Duty, at: Situation | None, doors: object) -> None:
        """See `Hand.carry_out`."""
        if not isinstance(duty, do.ProbeNow):
            self._machine.world.note(f"guard@{self._machine.name}: {type(duty).__name__}: {duty.reason}")
        super().carry_out(duty, at, doors)  # type: ignore[arg-type]

    def _reload(self, unit: str) -> None:
        """A unit goes on through a reload, and has no connections here."""


__all__ = [
    "Controller",
    "ControllerDaemon",
    "Daemon",
    "DiskKnowledge",
    "GuardDaemon",
    "WatchedHand",
    "Worker",
    "WorkerDaemon",
]
