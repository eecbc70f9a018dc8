"""A guard's attendant of a database server and the lease, in virtual time: no thread waits, each step is an event.

`Asked` is `orchestrator.node.replication.server.Server` as generators: each yields how long it waits. All of it is part
of the guard's process: it dies with it, and a frozen VM runs none of it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from orchestrator.node.replication.attendant import READ_EVERY_S
from orchestrator.node.replication.facts import ServerFacts
from orchestrator.node.replication.lease import ASK_AGAIN, CLOSE_WITHIN_S, TIMEOUT, Lease
from orchestrator.node.replication.server import CALL_TIMEOUT_S, NotInTime, Server, ServerAway
from orchestrator.store.port import Port
from tests.simulation.database import RELAY_LOG, Database, length_of

if TYPE_CHECKING:
    from tests.simulation.daemons import GuardDaemon

STATEMENT_S = (0.005, 0.06)
SLOW_STATEMENT_S = (0.06, 0.3)
POLL_S = 0.05

Steps = Generator[float, None, None]


class Asked:
    """One guard's way to the server: the calls of `Server`."""

    def __init__(self, guard: GuardDaemon, database: Database) -> None:
        self._guard = guard
        self._engine = guard.engine
        self._database = database
        self._proven: str | None = None
        self.at_once = AtOnce(guard, database)

    # -- what it is like ----------------------------------------------------------------------------------------------

    def facts(self) -> ServerFacts:
        """See `Server.read`; what is not known is said in the facts."""
        facts = self._database.facts()
        if not facts.waits_for_replica:
            self._proven = None
        return replace(facts, proven=self._proven)

    # -- one statement ------------------------------------------------------------------------------------------------

    def _tell(self, effect: Callable[[], None], within_s: float = CALL_TIMEOUT_S) -> Steps:
        """A statement that reached a stopped server may be carried out when it goes on, although nobody waits."""
        slow = self._engine.chance(0.1)
        yield self._engine.between(*(SLOW_STATEMENT_S if slow else STATEMENT_S))
        database = self._database
        if not database.alive:
            raise ServerAway("the database server does not answer: connection refused")
        if database.hung:
            if self._engine.chance(0.5):
                database.stalled.append(effect)
            yield within_s
            raise ServerAway("the database server does not answer: no answer in time")
        effect()
        yield self._engine.between(0.001, 0.02)

    def _wait_until(self, is_so: Callable[[], bool], within_s: float, why: str) -> Steps:
        life, until = self._database.life, self._engine.now + within_s
        while not is_so():
            if self._engine.now >= until:
                raise NotInTime(why)
            yield POLL_S
            if self._database.life != life:
                raise ServerAway("the database server was restarted")

    # -- the calls ----------------------------------------------------------------------------------------------------

    def close_writes(self, within_s: float) -> Steps:
        """See `Server.close_writes`."""
        yield from self._tell(self._database.close_writes, within_s)

    def close_by_lease(self, lease: Lease) -> Steps:
        """See `Attending.close_writes`."""
        yield self._engine.between(*STATEMENT_S)
        lease.close(self.at_once)  # type: ignore[arg-type]

    def open_writes(self, lease: Lease, session: str) -> Steps:
        """See `Attending.open_writes`: the lease has the last look."""
        yield from self._tell(lambda: lease.open_writes(self.at_once, session))  # type: ignore[arg-type]

    def follow(self, address: str) -> Steps:
        """See `Server.follow`."""
        database, source = self._database, self._at(address)
        if not database.read_only or database.waits:
            yield from self.close_writes(CALL_TIMEOUT_S)
            yield from self._tell(lambda: database.set_waits(False))
        if database.source not in (None, source) and database.applying:
            yield from self._drained(CALL_TIMEOUT_S)
        yield from self._tell(lambda: self._follow(source))

    def _follow(self, source: Database) -> None:
        database = self._database
        if database.source is not source or database.errno == RELAY_LOG:
            database.replicate(source)
        elif not database.needs_clone:
            database.start()

    def acknowledge(self, address: str, within_s: float) -> Steps:
        """See `Server.acknowledge`."""
        database, source = self._database, self._at(address)
        yield self._engine.between(*STATEMENT_S)
        if not database.can_ask(source):
            raise ServerAway(f"{source.name} does not answer")
        if database.source is not source or not database.connected:
            raise NotInTime(f"nothing is received from {source.name}")
        length = len(source.log)
        yield from self._wait_until(lambda: database.received >= length, within_s, "it was not received in time")
        yield from self._tell(database.acknowledge)

    def promote(self, upto: str | None, within_s: float) -> Steps:
        """See `Server.promote`."""
        database = self._database
        if database.source is not None:
            if not database.applying and database.relay and (database.errno or not database.receiving):
                raise NotInTime(f"what was received cannot be applied: {database.error or 'replication is stopped'}")
            yield from self._tell(database.stop_receiving)
            yield from self._drained(within_s)
        missing = length_of(upto) - len(database.log) if upto else 0
        if missing > 0:
            raise NotInTime(f"{missing} transactions up to {upto} were never received")
        yield from self._tell(self._forget_source)

    def _drained(self, within_s: float) -> Steps:
        database = self._database
        if database.errno == RELAY_LOG:
            raise NotInTime(f"what was received cannot be applied: {database.error}")
        if database.relay and not database.applying:
            yield from self._tell(database.start)
        yield from self._wait_until(lambda: not database.relay, within_s, "what was received was not applied in time")

    def _forget_source(self) -> None:
        self._database.world.data.promoted(self._database)
        self._database.forget_source()

    def wait_for_replica(self, on: bool) -> Steps:
        """See `Server.wait_for_replica`."""
        self._proven = None
        yield from self._tell(lambda: self._database.set_waits(on))

    def join_replica(self, address: str, within_s: float) -> Steps:
        """See `Server.join_replica`."""
        try:
            yield from self._join(self._at(address), self._engine.now + within_s)
        except (ServerAway, NotInTime) as error:
            yield from self.wait_for_replica(False)
            raise NotInTime(str(error)) from None
        self._proven = address

    def _join(self, standby: Database, until: float) -> Steps:
        database, engine = self._database, self._engine
        yield engine.between(*STATEMENT_S)
        if not database.can_ask(standby):
            raise NotInTime(f"{standby.name} does not answer")
        length = len(database.log)
        left_s = until - engine.now
        yield from self._wait_until(lambda: len(standby.log) >= length, left_s, f"{standby.name} is behind")
        if standby not in database.copies:
            raise NotInTime(f"{standby.name} does not acknowledge what it receives")
        yield from self._tell(lambda: database.set_waits(True))
        proof: list[float] = []
        yield from self._tell(lambda: database.write_own(proof))
        yield from self._wait_until(lambda: bool(proof), until - engine.now, f"{standby.name} did not acknowledge")

    def _at(self, address: str) -> Database:
        return next(each for each in self._database.world.data.servers if each.address == address)


class AtOnce:
    """The server as the lease has it: it does what it is told at once, or does not answer."""

    def __init__(self, guard: GuardDaemon, database: Database) -> None:
        self._guard = guard
        self._database = database
        self.epoch = 0
        """Of the lease."""

    def open_writes(self) -> None:
        """See `Server.open_writes`."""
        self._database.open_writes(self.epoch)

    def close_writes(self, within_s: float) -> None:
        """See `Server.close_writes`."""
        if not self._database.answers:
            raise ServerAway("the database server does not answer")
        self._database.close_writes()


class Told:
    """Takes down what an action asks of a `Server`, to be done step by step."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self.steps: Steps | None = None

    def __getattr__(self, name: str) -> Callable[..., None]:
        call: Callable[..., Steps] = getattr(self._asked, name)

        def take_down(*values: Any) -> None:
            self.steps = call(*values)

        return take_down


class Attendant:
    """Keeps `node.hand.Attending` for one service of one life of a guard. The lease is the real one."""

    kind_of_asked = Asked

    def __init__(self, guard: GuardDaemon, service: str, database: Database, port: Port, lease_s: float) -> None:
        self._guard = guard
        self._engine = guard.engine
        self._service = service
        self._database = database
        self._port = port
        self._lease_s = lease_s
        self.asked = self.kind_of_asked(guard, database)
        self.lease = Lease(
            service,
            lease_s,
            lambda: port,
            lambda: self.asked.at_once,  # type: ignore[arg-type,return-value]
            self._kill_soon,
            self._lease_ended,
            lambda: guard.engine.now,
        )
        self._lease_turn = 0
        self._doing = ""
        self._told: object = None
        database.tell_end = lambda: guard.later(self._engine.between(0.0, 0.005), self._look)
        guard.later(self._engine.between(0.01, READ_EVERY_S), self._read)

    # -- `Attending` --------------------------------------------------------------------------------------------------

    def do(self, name: str, action: Callable[[Server], None]) -> bool:
        """See `Attending.do`."""
        if self._doing:
            return False
        told = Told(self.asked)
        action(told)  # type: ignore[arg-type]
        assert told.steps is not None
        self._doing, steps = name, told.steps
        self._guard.later(self._engine.between(0.0005, 0.003), lambda: self._step(steps))
        return True

    def arm(self, session: str, epoch: int, confirmed_at: float) -> None:
        """See `Attending.arm`."""
        self.asked.at_once.epoch = epoch
        self.lease.arm(session, epoch, confirmed_at)
        self._lease_turn += 1
        self._confirm(self._lease_turn)
        self._watch(self._lease_turn)

    def open_writes(self, server: Server, session: str) -> None:
        """See `Attending.open_writes`."""
        server.open_writes(self.lease, session)  # type: ignore[call-arg]

    def close_writes(self, server: Server) -> None:
        """See `Attending.close_writes`."""
        server.close_by_lease(self.lease)  # type: ignore[attr-defined]

    def disarm(self) -> None:
        """See `Attending.disarm`."""
        self.lease.disarm()

    # -- the lease's two threads --------------------------------------------------------------------------------------

    def _confirm(self, turn: int) -> None:
        if turn != self._lease_turn or self.lease.armed is None:
            return
        # A slow answer comes too late for the timeout.
        if self._guard.world.slow and self._engine.chance(0.5):
            again_s = self._lease_s * (TIMEOUT + ASK_AGAIN)
        else:
            again_s = self.lease.confirm(self._port)
            if self.lease.armed is not None and self.lease.armed.lost:
                self._guard.later(self._engine.between(0.0, 0.01), lambda: self._watch(turn, again=False))
        self._guard.later(again_s, lambda: self._confirm(turn))

    def _watch(self, turn: int, *, again: bool = True) -> None:
        if turn != self._lease_turn:
            return
        left_s = self.lease.watch(self.asked.at_once)  # type: ignore[arg-type]
        if left_s is not None and again:
            self._guard.later(max(0.001, left_s), lambda: self._watch(turn))

    def _kill_soon(self) -> None:
        """It did not answer for as long as it is waited for."""
        life, database = self._database.life, self._database

        def kill() -> None:
            if database.alive and database.life == life:
                database.unit.crash()

        self._guard.later(CLOSE_WITHIN_S, kill)

    def _lease_ended(self, sentence: str) -> None:
        self._guard.world.note(f"{self._guard.name}: the lease has ended: {sentence}")

        def take() -> None:
            self._guard.knowledge.lease(self._service, False)
            self._guard.wake()

        self._guard.later(self._engine.between(0.0, 0.005), take)

    # -- one thing at a time ------------------------------------------------------------------------------------------

    def _step(self, steps: Steps) -> None:
        try:
            delay_s = next(steps)
        except StopIteration:
            self._did(None)
        except (ServerAway, NotInTime) as problem:
            self._did(str(problem))
        else:
            self._guard.later(delay_s, lambda: self._step(steps))

    def _did(self, problem: str | None) -> None:
        name, self._doing = self._doing, ""
        if problem is not None:
            self._guard.world.note(f"{self._guard.name}: {name} failed: {problem}")
        known = self._guard.knowledge
        if problem is None and name == "CloseWrites":
            self.disarm()
            known.lease(self._service, False)
        self._tell(self.asked.facts())
        known.server_did(self._service, name, None if problem is None else self._engine.now)
        self._guard.wake()

    # -- readings -----------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        is_same = self._look()
        self._guard.later(READ_EVERY_S * (2 if is_same else 1), self._read)

    def _look(self) -> bool:
        """Read the server once; say whether it answers what it answered before."""
        if self._doing:
            return False
        facts = self.asked.facts()
        if self._words(facts) != self._told:
            self._guard.later(self._engine.between(0.001, 0.01), lambda: self._post(facts))
            return False
        # Nothing that any rule decides by: no need to go round for it.
        self._guard.knowledge.take_facts(self._service, facts)
        return facts.answers

    def _post(self, facts: ServerFacts) -> None:
        if not self._doing:
            self._tell(facts)
            self._guard.wake()

    def _tell(self, facts: ServerFacts) -> None:
        self._told = self._words(facts)
        self._guard.knowledge.take_facts(self._service, facts)

    @staticmethod
    def _words(facts: ServerFacts) -> object:
        replica = facts.replica and replace(facts.replica, received="", drained=True)
        waiting = facts.acknowledged if facts.waiting else -1
        return replace(facts, at=0.0, position="", acknowledged=0, waiting=waiting, replica=replica)
