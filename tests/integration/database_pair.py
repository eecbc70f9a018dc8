"""A pair of real database servers, a primary and its standby, and the writes of an application."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pymysql

from orchestrator.domain.gtid import holds
from orchestrator.node.replication.facts import ServerFacts
from orchestrator.node.replication.mariadb import MariaDbServer
from tests.integration.mariadb_server import ACCOUNTS_AND_SCHEMA, Datadirs, MariaDb
from tests.integration.ports import free_port
from tests.integration.waiting import WAIT_S, wait_for

READ_ONLY, CONNECTION_LOST = 1290, 2013


class Commit:
    """One write of the application, in a thread: it may wait."""

    def __init__(self, at: MariaDb, number: int, values: str = "") -> None:
        self.number = number
        self._values = values or f"VALUES ({number}, 'x')"
        self.acknowledged = False
        self.error: int | None = None
        self._connection = at.client()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._connection.query(f"INSERT INTO t {self._values}")
            self.acknowledged = True
        except pymysql.MySQLError as error:
            self.error = error.args[0]

    @property
    def is_over(self) -> bool:
        return not self._thread.is_alive()

    def wait(self) -> Commit:
        """Wait until it is acknowledged or has failed."""
        self._thread.join(WAIT_S)
        assert self.is_over, "the commit still waits"
        return self


class Pair:
    """Two servers, A the primary, and what a guard on each VM calls them through."""

    def __init__(self, datadirs: Datadirs) -> None:
        port = free_port()
        self.a, self.b = MariaDb(datadirs, 1, port), MariaDb(datadirs, 2, port)
        self.guard_a, self.guard_b = MariaDbServer(self.a.settings), MariaDbServer(self.b.settings)

    def start(self) -> None:
        """Start both, A taking writes."""
        self.a.start()
        self.b.start()
        self.guard_a.open_writes()
        for statement in ACCOUNTS_AND_SCHEMA:
            self.a.ask(statement)

    def close(self) -> None:
        """End and delete both."""
        for guard in (self.guard_a, self.guard_b):
            guard.close()
        for server in (self.a, self.b):
            server.remove()

    def follow(self) -> None:
        """B follows A and has applied everything, the accounts and the table too."""
        written = self.guard_a.read().position
        self.guard_b.follow(self.a.address)
        read_until(
            self.guard_b,
            lambda facts: facts.replica is not None and facts.replica.receives and holds(facts.position, written),
            "B receives, and has everything",
        )

    def acknowledge(self) -> None:
        """B tells A what it receives, having everything."""
        self.guard_b.acknowledge(self.a.address, WAIT_S)
        read_until(self.guard_a, lambda facts: facts.replicas == 1, "B acknowledges")

    def join(self) -> None:
        """B is in sync, as a guard makes it."""
        self.follow()
        self.acknowledge()
        self.guard_a.join_replica(self.b.address, WAIT_S)

    def write(self, number: int) -> None:
        """Write to A, acknowledged."""
        assert Commit(self.a, number).wait().acknowledged

    def lose_replica(self) -> None:
        """The standby receives nothing more, and A knows."""
        self.b.ask("STOP SLAVE IO_THREAD")
        read_until(self.guard_a, lambda facts: facts.replicas == 0, "A knows that nobody receives")

    def waiting_commits(self, *numbers: int) -> list[Commit]:
        """Writes to A that wait for a replica."""
        commits = [Commit(self.a, number) for number in numbers]
        named = ", ".join(f"\"INSERT INTO t VALUES ({number}, 'x')\"" for number in numbers)
        states = f"SELECT count(*) AS n FROM information_schema.PROCESSLIST WHERE INFO IN ({named})"
        wait_for(lambda: self.a.ask(states)[0]["n"] == len(numbers), "the commits are on their way")
        read_until(self.guard_a, lambda facts: facts.waiting > 0, "a commit waits")
        return commits


def numbers(at: MariaDb) -> list[int]:
    """Return what was written there and can be read."""
    return [row["id"] for row in at.ask("SELECT id FROM listings.t ORDER BY id")]


def read_until(guard: MariaDbServer, wanted: Callable[[ServerFacts], bool], what: str) -> ServerFacts:
    """Read the server until it is as wanted; return that reading."""

    def look() -> ServerFacts | None:
        facts = guard.read()
        return facts if wanted(facts) else None

    return wait_for(look, what)
