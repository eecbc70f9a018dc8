"""The data of the replicated service: its clients, what they were promised, and what must hold of it at all times.

Clients write through the endpoints that are rendered on their VM, and one on each database VM writes to the server
beside it whatever anybody says. What a server acknowledged while its client could hear it counts as promised.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.domain import keys
from orchestrator.domain.records import Assignment, LockValue, Sync
from orchestrator.node.hand import PROMOTE_WITHIN_S
from orchestrator.node.instance import lock_view
from tests.simulation.checker import Violated
from tests.simulation.database import Commit, Database, DatabaseUnit
from tests.simulation.machines import Vm

if TYPE_CHECKING:
    from tests.simulation.world import World

DATABASE = "database"
WRITE_EVERY_S = (0.02, 0.18)
JUST_THAWED_S = 0.5
"""A VM that goes on after it stood still may for a moment not know how late it is."""
TOLD_S = PROMOTE_WITHIN_S + 2.0
"""A promotion may have been begun so long ago."""
GUARD_BACK_S = 2.0
"""Without a guard there is no lease; systemd brings it back, and once it has looked it takes as long as a lease."""


class Data:
    """Both servers, the clients and the invariants."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.servers: list[Database] = []
        self.promised: set[int] = set()
        """Every write that was acknowledged and not given up by an operator."""
        self._number = 0
        self._newest: Database | None = None
        """The server that was opened for writes at the highest epoch so far."""
        self.newest_epoch = 0
        self._last_promise: dict[Database, float] = {}
        self.given_up = 0
        self._complete: tuple[str, ...] = ()
        self._whole_until: dict[str, float] = {}

    # -- clients ------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Let the clients write."""
        for name in self._world.policy.services[DATABASE].order:
            vm = self._world.vms[name]
            unit = vm.units[DATABASE]
            assert isinstance(unit, DatabaseUnit)
            self.servers.append(Database(self._world, vm, unit))
        self._write_soon()

    def next_number(self) -> int:
        """Return the number of a new transaction."""
        self._number += 1
        return self._number

    def _write_soon(self) -> None:
        engine = self._world.engine
        engine.at(engine.between(*WRITE_EVERY_S) * (4 if self._world.is_healed else 1), self._write)

    def _write(self) -> None:
        self._write_soon()
        engine = self._world.engine
        vms = self._world.vms
        if engine.chance(0.4):
            server = engine.pick(self.servers)
            self._write_to(server, server.vm, server.vm)
        else:
            vm = engine.pick((*vms.values(), None))
            rendered = (vm or vms["messaging-server"]).rendered.get(DATABASE)
            for server in self.servers:
                if rendered is not None and rendered[0].vm == server.vm.name:
                    self._write_to(server, vm, server.vm)

    @staticmethod
    def _write_to(server: Database, client: Vm | None, there: Vm) -> None:
        """A client on no VM is outside and reaches every VM that works."""

        def hears() -> bool:
            if client is there:
                return there.on and not there.frozen
            return there.is_well and (client is None or client.is_well)

        if hears():
            server.write(hears)

    # -- what happened ------------------------------------------------------------------------------------------------

    def acknowledged(self, server: Database, commit: Commit) -> None:
        """A client was told that its write is done."""
        now, newest = self._world.engine.now, self._newest
        if newest is not None and newest is not server and self.newest_epoch > server.epoch:
            held = len(newest.log) >= commit.place and newest.log[commit.place - 1] == commit.number
            if not (held and now - server.vm.thawed_at < JUST_THAWED_S) and not self._is_excused(server):
                raise Violated(
                    f"{server.name} acknowledged a write {now - newest.opened_at:.2f} s after {newest.name} was opened "
                    f"at epoch {self.newest_epoch}"
                )
            if not held:
                self.given_up += 1
                return
        self._whole_copies_have_it(server, commit)
        self._one_at_a_time(server)
        self._last_promise[server] = now
        self.promised.add(commit.number)

    def _whole_copies_have_it(self, server: Database, commit: Commit) -> None:
        """What the record calls whole has every acknowledged write, from before it is acknowledged."""
        record = self._record()
        if record is None:
            return
        for other in self.servers:
            if other is server or other.vm.name not in record.complete or not other.acknowledging:
                continue
            if commit.number not in other.log[-200:] and commit.number not in other.relay:
                raise Violated(
                    f"{server.name} acknowledged a write that {other.name} lacks, which is recorded as whole"
                )

    def _one_at_a_time(self, server: Database) -> None:
        for other in self.servers:
            both = other is not server and other.writable and other.answers and not self._is_excused(other)
            they = self._last_promise.get(other, -1.0) > server.opened_at
            if both and they and self._last_promise.get(server, -1.0) > other.opened_at:
                raise Violated(f"{server.name} and {other.name} acknowledge writes at the same time")

    def opened(self, server: Database) -> None:
        """Writes were opened on a server: it must have everything, and no other may take any."""
        lacks = self.promised - set(server.log)
        if lacks:
            if not self._loss_is_accepted():
                raise Violated(f"{server.name} takes writes and lacks {len(lacks)} acknowledged ones")
            self.promised -= lacks
            self.given_up += len(lacks)
        for other in self.servers:
            # A guard that restarted while its server hung has no lease; it closes the writes when the server goes on.
            late = self._is_excused(other) or self._world.engine.now - other.went_on_at < JUST_THAWED_S
            if other is not server and other.writable and other.answers and not late:
                raise Violated(f"{server.name} was opened for writes while {other.name} still takes them")
        if server.epoch >= self.newest_epoch:
            self._newest, self.newest_epoch = server, server.epoch

    def _is_excused(self, server: Database) -> bool:
        """Its guard does not run, and so nobody keeps its lease; or it went on a moment ago, as if nothing had been."""
        now, guard = self._world.engine.now, self._world.guards[server.vm.name]
        replication = self._world.policy.services[DATABASE].replication
        back_s = GUARD_BACK_S + (replication.lease_s if replication else 0.0)
        return not guard.alive or now - guard.since < back_s or now - server.vm.thawed_at < JUST_THAWED_S

    def promoted(self, server: Database) -> None:
        """A copy is made nobody's copy."""
        record = self._record()
        if record is not None and server.vm.name not in record.complete and not self._loss_is_accepted():
            if self._was_whole_when_told(server) and not self._holds_lock(server):
                return  # It was told to before it had the lock, and stays read-only without.
            whole = " and ".join(record.complete)
            raise Violated(f"{server.name} is promoted although only the copy of {whole} is whole")

    def record_changed(self) -> None:
        """Note until when which copy was recorded as whole."""
        now = self._world.engine.now
        self._whole_until.update(dict.fromkeys(self._complete, now))
        record = self._record()
        self._complete = record.complete if record is not None else ()

    def _was_whole_when_told(self, server: Database) -> bool:
        return self._world.engine.now - self._whole_until.get(server.vm.name, float("-inf")) < TOLD_S

    def _holds_lock(self, server: Database) -> bool:
        pair = self._world.consul.peek(keys.lock(DATABASE))
        lock = lock_view(pair) if pair else None
        return lock is not None and lock.holder == server.vm.name

    def lock_changed(self, lock: LockValue) -> None:
        """Traffic is let in: the holder must take writes by then."""
        server = next((each for each in self.servers if each.vm.name == lock.vm), None)
        if lock.ready and server is not None and server.answers and not server.writable and not self._closes(server):
            raise Violated(f"{lock.vm} says that it is ready for traffic and takes no writes")

    def _closes(self, server: Database) -> bool:
        """It took writes a moment ago: the reading from which its guard said so may be as old."""
        return self._world.engine.now - server.closed_at < 3.0

    def _record(self) -> Sync | None:
        pair = self._world.consul.peek(keys.sync(DATABASE))
        try:
            return Sync.from_json(pair.value) if pair else None
        except ValueError:
            return None

    def _loss_is_accepted(self) -> bool:
        pair = self._world.consul.peek(keys.assignment(DATABASE))
        try:
            return pair is not None and Assignment.from_json(pair.value).accepts_data_loss
        except ValueError:
            return False

    # -- is all well? -------------------------------------------------------------------------------------------------

    def complaint(self, active: str) -> str | None:
        """Say what is not as it should be in a fleet that nothing befalls any more."""
        primary = next(server for server in self.servers if server.vm.name == active)
        standby = next(server for server in self.servers if server.vm.name != active)
        if not primary.writable:
            return f"{primary.name} takes no writes"
        lacks = self.promised - set(primary.log)
        if lacks and primary.writable:
            raise Violated(f"{primary.name} takes the writes and lacks {len(lacks)} acknowledged ones")
        if standby.source is not primary or not standby.connected:
            return f"{standby.name} does not replicate from {primary.name} ({standby.error})"
        record = self._record()
        if record is None or set(record.complete) != {primary.vm.name, standby.vm.name}:
            return f"the copies recorded as whole are {record.complete if record else 'not recorded'}"
        if not primary.waits:
            return f"{primary.name} waits for no copy"
        return None
