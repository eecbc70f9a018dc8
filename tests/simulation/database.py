"""Two MariaDB servers: what is in each one's log, what was received, who waits for whom, and what a crash leaves.

A transaction is a number; a log is the list of them in the order of its commits, so that a position is a length. One
copy has diverged from another where the same place holds another number. What the servers do by themselves happens
here; what a guard has them do is in `attendant`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.node.replication.facts import Replica, ServerFacts, no_answer
from orchestrator.node.replication.server import NotInTime
from tests.simulation.engine import Call, Process
from tests.simulation.machines import Unit, Vm

if TYPE_CHECKING:
    from tests.simulation.world import World

LOST_AFTER_S = 4.0
"""slave_net_timeout: a copy that hears nothing for so long connects anew."""
CONNECT_EVERY_S = 1.0
LOOK_AGAIN_S = 0.25
DIVERGED, RELAY_LOG = 1236, 1594
RECEIVE_S = (0.001, 0.005)
APPLY_S = (0.001, 0.02)


@dataclass(slots=True)
class Commit:
    """A client's write that is in the log of the server it was sent to."""

    number: int
    place: int
    """The length of the log with it."""
    hears: Callable[[], bool]
    """Whether its client would get the answer now."""


def position_of(length: int) -> str:
    """Return a log's length as a GTID position."""
    return f"0-1-{length}" if length else ""


def length_of(position: str) -> int:
    """Return the length of a log that goes up to the GTID position."""
    return int(position.rpartition("-")[2]) if position else 0


class DatabaseUnit(Unit):
    """The unit `mariadb`: its server lives as long as it is warm."""

    server: Database

    def on_warm(self) -> None:
        """See `Unit`."""
        self.server.begin()

    def on_down(self) -> None:
        """See `Unit`."""
        self.server.end()

    def unhang(self) -> None:
        """See `Unit.unhang`."""
        if self.hung:
            super().unhang()
            self.server.catch_up()


class Database(Process):
    """One server. `log` and `source` are on the disk, everything else is gone with the process."""

    def __init__(self, world: World, vm: Vm, unit: DatabaseUnit) -> None:
        super().__init__(world.engine, vm, f"mariadb@{vm.name}")
        self.world = world
        self.vm = vm
        self.unit = unit
        self.address = world.policy.vms[vm.name].address
        self.log: list[int] = []
        self.source: Database | None = None
        self.slow = 0.0
        """By how many seconds applying lags, as long as the fault lasts."""
        self.stalled: list[Call] = []
        self.went_on_at = float("-inf")
        """When it was last let go on after a SIGSTOP."""
        self.connections = 0
        self.tell_end: Call = lambda: None
        """Its end ends the connection of the guard's attendant, which sees it at once."""
        self._forget()
        unit.server = self

    def _forget(self) -> None:
        self.read_only = True
        self.opened_at = self.closed_at = float("-inf")
        self.epoch = 0
        """Of the role lock under which writes were opened."""
        self.waits = False
        self.acknowledging = False
        """This copy tells its source what it has received (rpl_semi_sync_slave_enabled); off after a start."""
        self.receiving = self.applying = False
        """The two threads are started."""
        self.connected = False
        self.heard_at = 0.0
        self._as_of = self._connection = 0
        self.relay: list[int] = []
        self.errno, self.error = 0, ""
        self.waiting: list[Commit] = []
        self.confirmed = 0
        """Up to which length a copy has acknowledged, since it connected."""
        self.acknowledged = 0
        self.copies: dict[Database, int] = {}
        """Those that acknowledge -> the number of their connection."""
        self._pulling = self._applies_soon = False

    # -- its life -----------------------------------------------------------------------------------------------------

    def on_begin(self) -> None:
        """Come up as the configuration says: read-only, following nobody by itself."""
        self._forget()
        self.stalled = []

    def on_end(self) -> None:
        """What was not acknowledged may or may not be in the log afterwards."""
        if self.waiting and self.engine.chance(0.5):
            first = min(commit.place for commit in self.waiting)
            self.log = self.log[: self.engine.random.randint(first - 1, len(self.log))]
        for other in self.copies:
            other.later(self.engine.between(0.001, 0.05), other.look_at_source)
        self._part()
        self._forget()
        self.stalled = []
        self.tell_end()

    @property
    def hung(self) -> bool:
        """Say whether the process is stopped (SIGSTOP)."""
        return self.unit.hung

    @property
    def answers(self) -> bool:
        """Say whether it answers on its own VM."""
        return self.alive and not self.unit.hung and self.vm.on and not self.vm.frozen

    def can_ask(self, other: Database) -> bool:
        """Say whether it gets answers from the other one."""
        return other.answers and self.vm.reaches(other.vm)

    def soon(self, delay_s: float, call: Call) -> None:
        """Do it after the delay, if this life of the server lasts; while it is stopped nothing happens."""

        def unless_stopped() -> None:
            if self.unit.hung:
                self.stalled.append(call)
            else:
                call()

        self.later(delay_s, unless_stopped)

    def catch_up(self) -> None:
        """It goes on after a stop: with everything that came meanwhile."""
        stalled, self.stalled = self.stalled, []
        self.went_on_at = self.engine.now
        for call in stalled:
            self.later(self.engine.between(0.0, 0.01), call)

    # -- writes -------------------------------------------------------------------------------------------------------

    @property
    def writable(self) -> bool:
        """Say whether it takes writes."""
        return self.alive and not self.read_only

    def write(self, hears: Callable[[], bool]) -> None:
        """A client writes: it is committed here, and acknowledged now or when a copy has it."""
        if self.read_only or not self.answers:
            return
        commit = Commit(self.world.data.next_number(), len(self.log) + 1, hears)
        self.log.append(commit.number)
        if self.waits:
            self.waiting.append(commit)
        else:
            self._acknowledge(commit)
        self.tell_copies()

    def write_own(self, proof: list[float]) -> None:
        """A write of the guard's own (its heartbeat): `proof` gets the time at which it was acknowledged."""

        def hears() -> bool:
            proof.append(self.engine.now)
            return False

        commit = Commit(self.world.data.next_number(), len(self.log) + 1, hears)
        self.log.append(commit.number)
        self.waiting.append(commit)
        self.tell_copies()

    def _acknowledge(self, commit: Commit) -> None:
        if commit.hears():
            self.world.data.acknowledged(self, commit)

    def tell_copies(self) -> None:
        """There is something new to receive."""
        for copy in self.copies:
            copy.pull_soon()

    def take_confirmation(self, copy: Database, length: int) -> None:
        """A copy has received everything up to there."""
        if copy not in self.copies or not copy.vm.reaches(self.vm):
            return
        self.confirmed = max(self.confirmed, length)
        if self.waits:
            self._release(lambda commit: commit.place <= length)

    def _release(self, which: Callable[[Commit], bool]) -> None:
        released = [commit for commit in self.waiting if which(commit)]
        self.waiting = [commit for commit in self.waiting if not which(commit)]
        self.acknowledged += len(released)
        for commit in released:
            self._acknowledge(commit)

    def set_waits(self, on: bool) -> None:
        """Switch waiting for a copy on or off; off acknowledges what waits."""
        self.waits = on
        if not on:
            self._release(lambda commit: True)

    def close_writes(self) -> None:
        """Take no write any more. What waits for a copy goes on waiting, and keeps the server from it."""
        if self.waiting:
            raise NotInTime("a commit waits for the standby")
        if not self.read_only:
            self.read_only, self.closed_at = True, self.engine.now
            self.world.note(f"{self.name}: writes are closed")

    def open_writes(self, epoch: int) -> None:
        """Take writes."""
        if self.read_only:
            self.read_only, self.opened_at, self.epoch = False, self.engine.now, epoch
            self.world.note(f"{self.name}: writes are open at epoch {epoch}")
            self.world.data.opened(self)

    # -- as a source --------------------------------------------------------------------------------------------------

    def lose(self, copy: Database, connection: int) -> None:
        """The connection of a copy is gone."""
        if self.copies.get(copy) == connection:
            del self.copies[copy]

    # -- as a copy ----------------------------------------------------------------------------------------------------

    @property
    def received(self) -> int:
        """The length up to which transactions were received."""
        return len(self.log) + len(self.relay)

    @property
    def needs_clone(self) -> bool:
        """Say whether it can never follow its source again."""
        return self.errno == DIVERGED

    def replicate(self, source: Database) -> None:
        """Begin to replicate from there, from what is in the log."""
        self.source = source
        self.acknowledging = False
        self.relay, self.applying, self.errno, self.error = [], False, 0, ""
        self.stop_receiving()
        self.start()

    def start(self) -> None:
        """Start what is stopped of receiving and applying. With both stopped, what was received is thrown away."""
        if not self.receiving and not self.applying:
            self.relay, self.acknowledging = [], False
        if not self.applying and self.errno != RELAY_LOG:
            self.applying = True
            self._apply_soon()
        if not self.receiving and not self.needs_clone:
            self.receiving = True
            self.soon(self.engine.between(0.005, 0.05), self._connect)

    def stop_receiving(self) -> None:
        """End the connection to the source."""
        self.receiving = False
        self._disconnect()

    def forget_source(self) -> None:
        """Be nobody's copy."""
        self.stop_receiving()
        self.applying = False
        self.source, self.relay, self.errno, self.error = None, [], 0, ""

    def _disconnect(self) -> None:
        self._part()
        self.connected, self._connection = False, 0

    @property
    def is_heard(self) -> bool:
        """Say whether what this copy acknowledges reaches its source's count."""
        return self.source is not None and 0 < self._connection == self.source.copies.get(self)

    def _part(self) -> None:
        """The source learns of the end of a connection at once, or in its own time where no packet tells it."""
        source, connection = self.source, self._connection
        if source is None or not connection:
            return
        delay_s = 0.003 if self.vm.reaches(source.vm) else self.engine.between(0.5, 10.0)
        source.later(delay_s, lambda: source.lose(self, connection))

    def _connect(self) -> None:
        source = self.source
        if source is None or not self.receiving or self.connected:
            return
        if not self.can_ask(source):
            self.soon(CONNECT_EVERY_S, self._connect)
            return
        place = self.received
        last = (self.log + self.relay)[-1] if place else 0
        if place > len(source.log) or (place and source.log[place - 1] != last):
            self.receiving = False
            self.errno = DIVERGED
            self.error = f"requested to start from GTID {position_of(place)}, which is not in the binlog"
            self.world.note(f"{self.name}: has diverged from {source.name} at {place} of {len(source.log)}")
            return
        self.connected, self.heard_at = True, self.engine.now
        self._as_of = source.life
        if self.acknowledging:
            self.connections += 1
            source.copies[self] = self._connection = self.connections
        self.pull_soon()
        # A copy that does not acknowledge is told of news too, and not counted.
        if not self.is_heard:
            self.soon(LOOK_AGAIN_S, self._look_for_news)

    def _look_for_news(self) -> None:
        if self.connected and not self.is_heard:
            self._pull()
            self.soon(LOOK_AGAIN_S, self._look_for_news)

    def pull_soon(self) -> None:
        """Receive what is new."""
        if self.connected and not self._pulling:
            self._pulling = True
            self.soon(self.engine.between(*RECEIVE_S), self._pull)

    def _pull(self) -> None:
        self._pulling = False
        source = self.source
        if source is None or not self.connected:
            return
        if not self.can_ask(source) or self._is_reset_by(source):
            self.look_at_source()
            return
        self.heard_at = self.engine.now
        news = source.log[self.received :]
        if news:
            self.relay.extend(news)
            self._apply_soon()
        # As MariaDB does: what came over an earlier connection is acknowledged with the next transaction only.
        if news and source.waits and self.is_heard:
            length = self.received
            source.soon(self.engine.between(*RECEIVE_S), lambda: source.take_confirmation(self, length))

    def _is_reset_by(self, source: Database) -> bool:
        """The source answers and does not know our connection: it was restarted, or has given it up."""
        forgotten = self._connection and source.copies.get(self) != self._connection
        return self.can_ask(source) and (source.life != self._as_of or bool(forgotten))

    def look_at_source(self) -> None:
        """The source may be gone, or not be heard: go on trying, and connect anew after a while."""
        source = self.source
        if source is None or not self.connected:
            return
        if self.can_ask(source) and not self._is_reset_by(source):
            self.pull_soon()
        elif (
            self._is_reset_by(source)
            or (self.vm.reaches(source.vm) and not source.alive)
            or self.engine.now > self.heard_at + LOST_AFTER_S
        ):
            self._disconnect()
            self.soon(CONNECT_EVERY_S / 2, self._connect)
        else:
            self.soon(LOOK_AGAIN_S, self.look_at_source)

    def _apply_soon(self) -> None:
        if self.relay and self.applying and not self._applies_soon:
            self._applies_soon = True
            self.soon(self.engine.between(*APPLY_S) + self.slow, self._apply)

    def _apply(self) -> None:
        self._applies_soon = False
        if self.applying:
            self.log.extend(self.relay)
            self.relay = []
            self.tell_copies()

    def acknowledge(self) -> None:
        """Tell the source from now on what is received: takes a new connection."""
        self.acknowledging = True
        if self.connected and not self.is_heard:
            self.stop_receiving()
            self.start()

    def spoil_relay_log(self) -> None:
        """What was received cannot be read."""
        if self.alive and self.applying and self.source is not None:
            self.applying = False
            self.errno, self.error = RELAY_LOG, "relay log read failure"

    def take_clone(self, log: list[int]) -> None:
        """A clone of the source's data takes the place of this server's, which does not run."""
        assert not self.alive
        self.log, self.source = log, None

    # -- what it says -------------------------------------------------------------------------------------------------

    def facts(self) -> ServerFacts:
        """Return what a reading says now."""
        now = self.engine.now
        if not self.alive:
            return no_answer(now, "connection refused")
        if not self.answers:
            return no_answer(now, "no answer in time")
        return ServerFacts(
            at=now,
            answers=True,
            writable=not self.read_only,
            position=position_of(len(self.log)),
            replica=self._as_replica(),
            waits_for_replica=self.waits,
            replicas=len(self.copies),
            waiting=len(self.waiting),
            acknowledged=self.acknowledged,
            acknowledges=self.acknowledging,
        )

    def _as_replica(self) -> Replica | None:
        source = self.source
        if source is None:
            return None
        return Replica(
            source=source.address,
            receives=self.connected,
            applies=self.applying,
            semi_sync=self.connected and self.is_heard,
            drained=not self.relay,
            behind_s=0.0 if self.connected else None,
            errno=self.errno,
            error=self.error,
            received=position_of(self.received),
        )
