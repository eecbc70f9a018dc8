"""What befalls the fleet: faults of VMs, services, daemons, Consul and broker, and what operators do meanwhile."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable

from orchestrator.domain import keys
from orchestrator.domain.records import Command, Maintenance, Paused, Request, RequestKind, Sync
from orchestrator.store.port import CasPut, Unknown
from orchestrator.store.records import kept_or_unreadable
from tests.fakes.fake_plays import CONTROLLER, OPERATOR
from tests.simulation.daemons import Daemon
from tests.simulation.data import DATABASE
from tests.simulation.database import Database
from tests.simulation.machines import Unit, Vm
from tests.simulation.world import STANDBYS, START, WORKERS, World

HOUR_S = 3600.0
GARBAGE = (b"", b"{", b"null", b'"text"', b'{"service": "backend"}', b"\xff\xfe\x00", b"[1, 2]")


class Faults:
    """Draws faults for one run."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._engine = world.engine
        self._numbers = 0
        self._kinds: list[tuple[int, Callable[[], None]]] = [
            (6, self._power_off),
            (5, self._cut),
            (5, self._freeze),
            (3, self._two_vms),
            (2, self._election),
            (6, self._crash_unit),
            (6, self._kill_unit),
            (4, self._hang_unit),
            (3, self._stop_unit),
            (5, self._crash_daemon),
            (3, self._long_crash_of_daemon),
            (8, self._kill_leader_between_writes),
            (3, self._kill_a_worker_between_writes),
            (4, self._freeze_leader_in_a_failover),
            (4, self._lose_worker_in_a_play),
            (4, self._fail_in_a_play),
            (4, self._answers_are_lost),
            (3, self._broker_down),
            (3, self._broker_lossy),
            (4, self._slow_watches),
            (10, self._request),
            (4, self._rotate_key),
            (3, self._pause),
            (3, self._maintenance),
            (4, self._message_by_hand),
            (5, self._garbage),
            (2, self._deletion),
            (3, self._cancel),
            (2, self._load),
            (2, self._policy),
            (4, self._isolate_primary),
            (4, self._lose_one_copy_after_the_other),
            (4, self._move_to_a_slow_copy),
            (3, self._kill_a_guard_between_writes),
            (4, self._crash_guard_in_a_database_failover),
            (3, self._slow_copy),
            (2, self._spoil_relay_log),
            (2, self._accept_loss),
            (3, self._jump_clock),
        ]

    def scatter(self, begin: float, end: float) -> None:
        """Draw some faults and put them into the time between; often two come close together."""
        weights = [weight for weight, _ in self._kinds]
        calls = [call for _, call in self._kinds]
        at = begin
        few, some, many = (1, 4), (3, 9), (8, 18)
        for _ in range(self._engine.random.randint(*self._engine.pick((few, some, some, many)))):
            close = self._engine.chance(0.4)
            at += self._engine.between(0.0, 1.5) if close else self._engine.between(0.5, (end - begin) / 4)
            if at >= end:
                return
            (call,) = self._engine.random.choices(calls, weights)
            self._engine.at(at - self._engine.now, call)

    # -- VMs ----------------------------------------------------------------------------------------------------------

    def _vm(self) -> Vm:
        """Return a VM, more often one that matters."""
        name = self._engine.pick(
            (
                "backend-server",
                "backend-server",
                "messaging-server",
                "messaging-server",
                "frontend-server",
                "database-server",
                "database-server",
            )
        )
        return self._world.vms[name]

    def _power_off(self, vm: Vm | None = None) -> None:
        vm = vm or self._vm()
        self._world.power_off(vm)
        self._engine.at(self._engine.between(0.5, 20.0), lambda: self._world.power_on(vm))

    def _cut(self, vm: Vm | None = None) -> None:
        vm = vm or self._vm()
        self._world.set_cut(vm, True)
        self._engine.at(self._engine.between(0.3, 15.0), lambda: self._world.set_cut(vm, False))

    def _freeze(self, vm: Vm | None = None) -> None:
        vm = vm or self._vm()
        self._world.freeze(vm)
        self._engine.at(self._engine.between(0.2, 12.0), lambda: self._world.thaw(vm))

    def _two_vms(self) -> None:
        for vm in self._engine.random.sample(list(self._world.vms.values()), 2):
            self._engine.pick((self._power_off, self._cut, self._freeze))(vm)

    def _election(self) -> None:
        self._world.elect(self._engine.between(0.3, 4.0))

    def _jump_clock(self) -> None:
        """Set a VM's clock by an hour either way, back again later or not before the end."""
        vm = self._vm()
        was = vm.skew_s
        vm.skew_s += self._engine.pick((-HOUR_S, HOUR_S))
        self._world.note(f"the clock of {vm.name} jumps by {vm.skew_s - was:+g} s")
        if self._engine.chance(0.5):
            self._engine.at(self._engine.between(1.0, 20.0), lambda: setattr(vm, "skew_s", was))

    # -- playbooks -----------------------------------------------------------------------------------------------------

    def change_playbooks(self, begin: float, end: float) -> None:
        """In a fleet that has releases: somebody edits the playbooks of a worker or of both, or there are new ones."""
        if not self._world.releases:
            return
        for _ in range(self._engine.random.randint(1, 3)):
            self._engine.at(self._engine.between(begin, end), self._engine.pick((self._edit_playbooks, self._release)))

    def _edit_playbooks(self) -> None:
        names = self._engine.pick((WORKERS[:1], WORKERS[1:], WORKERS))
        for name in names:
            self._world.vms[name].playbooks = frozenset({"edited"})
        self._world.note(f"somebody edits the playbooks of {' and '.join(names)}")
        self._engine.at(self._engine.between(1.0, 15.0), lambda: self._have_the_releases(names))

    def _have_the_releases(self, names: tuple[str, ...]) -> None:
        for name in names:
            self._world.vms[name].playbooks = frozenset(self._world.releases)

    def _release(self) -> None:
        digest = f"d{len(self._world.releases) + 1}"
        self._world.note(f"the playbooks {digest} are released")
        with contextlib.suppress(Unknown):
            self._world.release_playbooks(digest)

    # -- services -----------------------------------------------------------------------------------------------------

    def _unit(self) -> Unit:
        """Return a unit, most often one that runs."""
        units = [unit for vm in self._world.vms.values() for unit in vm.units.values()]
        running = [unit for unit in units if unit.runs]
        return self._engine.pick(running if running and self._engine.chance(0.9) else units)

    def _crash_unit(self) -> None:
        self._unit().crash()

    def _kill_unit(self) -> None:
        unit = self._unit()
        unit.broken = True
        unit.crash()
        self._world.note(f"{unit.vm.name}: {unit.name} is killed and cannot start")
        self._engine.at(self._engine.between(2.0, 20.0), lambda: mend_unit(unit))

    def _hang_unit(self) -> None:
        unit = self._unit()
        unit.hang()
        self._world.note(f"{unit.vm.name}: {unit.name} hangs")
        self._engine.at(self._engine.between(0.5, 12.0), unit.unhang)

    def _stop_unit(self) -> None:
        unit = self._unit()
        if unit.runs:
            unit.stop()

    # -- daemons ------------------------------------------------------------------------------------------------------

    def _daemon(self) -> Daemon:
        return self._engine.pick([daemon for vm in self._world.vms.values() for daemon in vm.daemons])

    def _crash_daemon(self) -> None:
        self._daemon().end()

    def _long_crash_of_daemon(self) -> None:
        daemon = self._daemon()
        daemon.stays_down = True
        daemon.end()

        def repair() -> None:
            daemon.stays_down = False
            daemon.restart()

        self._engine.at(self._engine.between(3.0, 15.0), repair)

    def _kill_leader_between_writes(self) -> None:
        leader = self._world.leader or self._engine.pick(self._world.controllers)
        leader.crashes_after = self._engine.random.randint(1, 8)

    def _kill_a_worker_between_writes(self) -> None:
        self._engine.pick(self._world.workers).crashes_after = self._engine.random.randint(1, 8)

    def _freeze_leader_in_a_failover(self) -> None:
        """It wakes up with an old view of the fleet, just when another leads or is about to."""
        leader = self._world.leader
        if leader is not None:
            self._kill_unit()
            vm = self._world.vms[leader.machine.name]
            self._engine.at(self._engine.between(0.0, 0.1), lambda: self._world.freeze(vm))
            self._engine.at(self._engine.between(0.9, 3.5), lambda: self._world.thaw(vm))

    def _lose_worker_in_a_play(self) -> None:
        """Have something moved by plays that take long, and take the worker away that is at it."""

        def lose() -> None:
            for worker in self._world.workers:
                if worker.alive and not worker.worker.is_idle:
                    self._engine.pick((self._cut, self._freeze))(worker.vm)

        self._move_slowly(lose)

    def _fail_in_a_play(self) -> None:
        """Have something moved by plays that take long, and fail meanwhile what runs."""
        self._move_slowly(self._kill_unit)

    def _move_slowly(self, meanwhile: Callable[[], None]) -> None:
        self._world.long_plays = True
        self._rotate_key()

        def end() -> None:
            self._world.long_plays = False

        self._engine.at(self._engine.between(0.5, 4.0), meanwhile)
        self._engine.at(10.0, end)

    # -- the database -------------------------------------------------------------------------------------------------

    @property
    def _primary(self) -> Database:
        """The server that takes writes, or either of them."""
        servers = self._world.data.servers
        return next((each for each in servers if each.writable), servers[0])

    @property
    def _standby(self) -> Database:
        primary = self._primary
        return next(each for each in self._world.data.servers if each is not primary)

    def _isolate_primary(self) -> None:
        """Take the primary's VM away while its server goes on with what is on that VM."""
        self._engine.pick((self._cut, self._cut, self._freeze))(self._primary.vm)
        if self._engine.chance(0.3):
            self._engine.at(self._engine.between(0.0, 3.0), self._accept_loss)

    def _lose_one_copy_after_the_other(self) -> None:
        """The second fault comes before the first is over, in any order, and now and then something is half applied."""
        first, second = self._engine.random.sample((self._primary, self._standby), 2)
        if self._engine.chance(0.5):
            self._slow_copy()
        self._lose_copy(first)
        self._engine.at(self._engine.between(0.0, 3.0), lambda: self._lose_copy(second))

    def _move_to_a_slow_copy(self) -> None:
        """The standby has received more than it has applied when the primary goes, or gives the role up."""
        primary, standby = self._primary, self._standby
        self._slow_copy(standby)

        def move() -> None:
            if self._engine.chance(0.3):
                self._ask(DATABASE, RequestKind.FAILOVER, standby.vm.name)
            else:
                self._engine.pick((self._power_off, self._cut, self._freeze))(primary.vm)

        self._engine.at(self._engine.between(0.2, 3.0), move)

    def _lose_copy(self, server: Database) -> None:
        vm = server.vm
        ways = (server.unit.crash, lambda: self._power_off(vm), lambda: self._cut(vm), server.unit.hang)
        self._world.note(f"{server.name} is to be lost")
        self._engine.pick(ways)()
        self._engine.at(self._engine.between(2.0, 9.0), server.unit.unhang)

    def _kill_a_guard_between_writes(self) -> None:
        guard = self._world.guards[self._engine.pick(self._world.data.servers).vm.name]
        guard.crashes_after = self._engine.random.randint(1, 8)

    def _crash_guard_in_a_database_failover(self) -> None:
        """Between any two steps of a promotion or of a hand-over."""
        primary, standby = self._primary, self._standby
        if self._engine.chance(0.5):
            self._lose_copy(primary)
        else:
            self._ask(DATABASE, RequestKind.FAILOVER, standby.vm.name)
        for _ in range(2):
            guard = self._world.guards[self._engine.pick((primary, standby)).vm.name]
            self._engine.at(self._engine.between(0.0, 4.0), guard.end)

    def _slow_copy(self, server: Database | None = None) -> None:
        """What a copy has received is applied late."""
        server = server or self._engine.pick((self._standby, self._standby, self._primary))
        server.slow = self._engine.between(0.3, 6.0)
        self._world.note(f"{server.name} applies {server.slow:.1f} s late")

        def end() -> None:
            server.slow = 0.0

        self._engine.at(self._engine.between(2.0, 12.0), end)

    def _spoil_relay_log(self) -> None:
        self._world.note(f"the relay log of {self._standby.name} is spoilt")
        self._standby.spoil_relay_log()

    def _accept_loss(self) -> None:
        target = self._standby.vm.name
        self._world.note(f"an operator accepts that data is lost, to have the database on {target}")
        self._ask(DATABASE, RequestKind.FAILOVER, target, accepts=True)

    # -- ways of communication ----------------------------------------------------------------------------------------

    def _answers_are_lost(self) -> None:
        self._world.unsure_share = self._engine.pick((0.1, 0.3))

        def end() -> None:
            self._world.unsure_share = 0.0

        self._engine.at(self._engine.between(0.5, 8.0), end)

    def _broker_down(self) -> None:
        self._world.note("the broker is down")
        self._world.broker.set_up(False)
        self._engine.at(self._engine.between(1.0, 20.0), lambda: self._world.broker.set_up(True))

    def _broker_lossy(self) -> None:
        self._world.broker.lossy = True

    def _slow_watches(self) -> None:
        self._world.slow = True

        def end() -> None:
            self._world.slow = False

        self._engine.at(self._engine.between(1.0, 15.0), end)

    # -- operators ----------------------------------------------------------------------------------------------------

    def _put(self, key: str, value: bytes, *, index: int | None = None) -> None:
        """Write as an operator on a VM that reaches Consul; without one he is left alone."""
        port = self._world.consul.port("database-server")
        for vm in self._world.vms.values():
            if vm.is_well:
                port = self._world.consul.port(vm.name)
        try:
            if index is None:
                port.kv_put(key, value)
            else:
                port.txn((CasPut(key, value, index),))
        except Unknown:
            self._world.note(f"an operator could not write {key}")

    def _delete(self, key: str) -> None:
        try:
            self._world.consul.port(next(vm.name for vm in self._world.vms.values() if vm.is_well)).kv_delete(key)
        except (Unknown, StopIteration):
            self._world.note(f"an operator could not delete {key}")

    def _service(self) -> str:
        return self._engine.pick(tuple(self._world.policy.services))

    def _request(self) -> None:
        engine = self._engine
        service = self._service() if engine.chance(0.95) else "nonsense"
        kind = engine.pick(
            (
                RequestKind.FAILOVER,
                RequestKind.FAILOVER,
                RequestKind.FAILBACK,
                RequestKind.ROTATION,
                RequestKind.ACKNOWLEDGE,
            )
        )
        target = engine.pick(tuple(self._world.vms)) if kind is RequestKind.FAILOVER and engine.chance(0.5) else None
        self._ask(service, kind, target)

    def _ask(self, service: str, kind: RequestKind, target: str | None, *, accepts: bool = False) -> None:
        self._numbers += 1
        engine, now = self._engine, START + self._engine.now
        request = Request(
            id=f"{int(now * 1000):013d}-{service}-cli{self._numbers}",
            kind=kind,
            service=service,
            target=target,
            redesignate=engine.chance(0.7),
            accept_data_loss=accepts,
            origin="cli:op@host",
            created=now,
            updated=now,
        )
        self._world.note(f"an operator asks for {kind.value} of {service} to {target}")
        self._put(keys.request(request.id), request.to_json().encode(), index=0)

    def _rotate_key(self) -> None:
        service = self._service() if self._engine.chance(0.9) else "nonsense/else"
        self._world.note(f"an operator writes the rotate key of {service}")
        self._put(keys.rotate(service), b"now")

    def _pause(self) -> None:
        self._world.note("an operator pauses automation")
        self._put(keys.PAUSED, Paused(by="op", at=START).to_json().encode())
        self._engine.at(self._engine.between(1.0, 15.0), lambda: self._delete(keys.PAUSED))

    def _maintenance(self) -> None:
        vm = self._vm().name
        self._world.note(f"{vm} is in maintenance")
        self._put(keys.maintenance(vm), Maintenance(by="op", at=START).to_json().encode())
        self._engine.at(self._engine.between(1.0, 15.0), lambda: self._delete(keys.maintenance(vm)))

    def _message_by_hand(self) -> None:
        engine = self._engine
        service = engine.pick(("backend", "frontend", "backend", DATABASE, "oracle"))
        vm = engine.pick(tuple(self._world.vms))
        fields = engine.pick(
            (
                {"command_type": "failover", "instance_type": service, "failed_instance": vm, "timestamp": START},
                {"command_type": "failover", "instance_type": service, "timestamp": START + engine.now},
                {"command_type": "failback", "instance_type": service, "recovered_instance": vm, "timestamp": START},
                {"command_type": "nonsense"},
                {"command_type": "failover", "instance_type": service, "id": "no-such-command"},
            )
        )
        self._world.note(f"somebody publishes {fields}")
        if self._world.broker.up:
            sender = (OPERATOR, OPERATOR, OPERATOR, CONTROLLER, "")[int(engine.now) % 5]
            self._world.broker.put(json.dumps(fields).encode() if engine.chance(0.9) else b"\x00garbage", sender)

    def _garbage(self) -> None:
        found = [pair.key for pair in self._world.consul.peek_list(keys.ROOT)]
        wanted = [
            key for key in found if key.startswith((keys.SERVICES, keys.COMMANDS, keys.REQUESTS)) or key == keys.CONFIG
        ]
        services = [key for key in wanted if key.startswith((keys.SERVICES, keys.CONFIG))]
        if wanted:
            key = self._engine.pick(services if services and self._engine.chance(0.7) else wanted)
            self._world.note(f"somebody overwrites {key}")
            self._put(key, self._engine.pick(GARBAGE))

    def _deletion(self) -> None:
        found = [pair.key for pair in self._world.consul.peek_list(keys.SERVICES)]
        if found:
            key = self._engine.pick(found)
            self._world.note(f"somebody deletes {key}")
            self._delete(key)

    def _cancel(self) -> None:
        for pair in self._world.consul.peek_list(keys.COMMANDS):
            command = kept_or_unreadable(pair, Command)
            record = getattr(command, "value", None)
            if record is not None and not record.is_final:
                self._world.note(f"an operator cancels {record.id}")
                self._put(pair.key, record.with_(cancel_requested=True).to_json().encode(), index=pair.modify_index)
                return

    def _load(self) -> None:
        vm = self._vm()
        self._world.consul.set_check(vm.name, keys.LOAD_CHECK, "warning", "load 9.0")
        self._engine.at(
            self._engine.between(5.0, 30.0), lambda: self._world.consul.set_check(vm.name, keys.LOAD_CHECK, "passing")
        )

    def _policy(self) -> None:
        document = dict(self._world.document)
        document["failback"] = {"grace_s": self._engine.pick((2.5, 4.0, 0.001))}
        document["services"] = {
            name: service if "replication" in service else {**service, "standby": self._engine.pick(STANDBYS)}
            for name, service in document["services"].items()
        }
        self._world.note("an operator changes the policy")
        self._put(keys.CONFIG, json.dumps(document).encode())

    # -- the end ------------------------------------------------------------------------------------------------------

    def heal(self) -> None:
        """Put everything right that the faults broke; what orch broke stays as it is."""
        world = self._world
        world.note("everything is healed")
        world.unsure_share, world.slow, world.broker.lossy = 0.0, False, False
        world.long_plays = False
        world.is_healed = True
        self._have_the_releases(WORKERS)
        world.broker.set_up(True)
        for server in world.data.servers:
            server.slow = 0.0
        for vm in world.vms.values():
            world.set_cut(vm, False)
            world.thaw(vm)
            world.power_on(vm)
            world.consul.set_check(vm.name, keys.LOAD_CHECK, "passing")
            for unit in vm.units.values():
                mend_unit(unit)
            for daemon in vm.daemons:
                daemon.stays_down = False
                vm.system.later(self._engine.between(0.5, 1.5), daemon.restart)
        self._engine.at(5.0, self._tidy_up)
        self._engine.at(25.0, self._help_database)

    def _help_database(self) -> None:
        """Where nobody can tell any more which copy is whole, an operator looks at both and names one."""
        servers = self._world.data.servers
        if any(server.writable for server in servers):
            return
        record = self._world.consul.peek(keys.sync(DATABASE))
        if record is None:
            best = max(servers, key=lambda server: len(server.log))
            self._world.note(f"an operator promotes the copy of {best.vm.name}, of which there is no record")
            self._ask(DATABASE, RequestKind.FAILOVER, best.vm.name, accepts=True)
        self._engine.at(20.0, self._help_database)

    def _tidy_up(self) -> None:
        """What operators do when all is over: resume, end maintenance, remove what cannot be read."""
        world = self._world
        if not world.consul.quorum:
            self._engine.at(2.0, self._tidy_up)
            return
        self._put(keys.CONFIG, json.dumps(world.document).encode())
        for pair in world.consul.peek_list(keys.ROOT):
            if pair.key == keys.PAUSED or pair.key.startswith(keys.MAINTENANCE):
                self._delete(pair.key)
            kinds = {keys.REQUESTS: Request, keys.COMMANDS: Command, keys.sync(DATABASE): Sync}
            kind = next((kind for prefix, kind in kinds.items() if pair.key.startswith(prefix)), None)
            if kind is not None and not hasattr(kept_or_unreadable(pair, kind), "value"):
                self._delete(pair.key)


def mend_unit(unit: Unit) -> None:
    """Let it start again, and start it where it would run after a boot."""
    unit.broken = False
    unit.unhang()
    if unit.vm.on and unit.enabled and not unit.runs:
        unit.start()
