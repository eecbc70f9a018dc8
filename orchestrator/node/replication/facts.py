"""What one reading of a database server says: frozen values, no I/O.

In: rows that `mariadb` has read. Out: `ServerFacts`, from which the guard's rules decide. Must never guess: what
was not read is None, empty or `answers=False`, never a value that looks like an answer.
"""

from __future__ import annotations

from dataclasses import dataclass

_ACCESS_DENIED = 1045
"""ER_ACCESS_DENIED_ERROR."""

_FATAL_AT_SOURCE = 1236
"""ER_MASTER_FATAL_ERROR_READING_BINLOG, for many reasons. Of those, what the copy asks for was purged, or it has
transactions that the source has not: MariaDB's sentence then names the GTID."""

_DIVERGED_OR_PURGED = frozenset({1945, 1950, 1955})
"""ER_GTID_POSITION_NOT_FOUND_IN_BINLOG, ER_GTID_STRICT_OUT_OF_ORDER, ER_GTID_POSITION_NOT_FOUND_IN_BINLOG2."""

_ROWS_DIFFER = frozenset({1032, 1062})
"""The SQL thread found another content than the source had: a row is missing (ER_KEY_NOT_FOUND), or is there already
(ER_DUP_ENTRY)."""

_RELAY_LOG = frozenset({1594, 1595, 1610, 1743, 1744})
"""ER_SLAVE_RELAY_LOG_READ_FAILURE, ER_SLAVE_RELAY_LOG_WRITE_FAILURE, ER_SLAVE_CORRUPT_EVENT,
ER_NETWORK_READ_EVENT_CHECKSUM_FAILURE, ER_BINLOG_READ_EVENT_CHECKSUM_FAILURE: what was received is fetched again."""


@dataclass(frozen=True, slots=True)
class Replica:
    """The server as a copy of another one."""

    source: str
    """Address of the server that it replicates from."""
    receives: bool
    """The connection to the source stands."""
    applies: bool
    """What is received is applied."""
    semi_sync: bool
    """The source is told of each transaction that is safely received."""
    drained: bool
    """All that was received is applied."""
    behind_s: float | None
    """Age of what is being applied, in seconds by the source's clock; None while it is not known."""
    errno: int = 0
    """MariaDB's number of the last error that stopped receiving or applying; 0 is none."""
    error: str = ""
    """Its sentence."""
    received: str = ""
    """GTID position up to which transactions were received."""

    @property
    def needs_clone(self) -> bool:
        """Say whether this copy can never follow its source again: it has diverged, or what it needs was purged."""
        if self.errno == _FATAL_AT_SOURCE:
            return "GTID" in self.error
        return self.errno in _DIVERGED_OR_PURGED | _ROWS_DIFFER

    @property
    def relay_log_corrupt(self) -> bool:
        """Say whether what was received cannot be read: it is to be fetched again, the copy itself is good."""
        return self.errno in _RELAY_LOG

    @property
    def password_refused(self) -> bool:
        """Say whether the source does not accept the account that the copy comes with."""
        return self.errno == _ACCESS_DENIED

    @property
    def trouble(self) -> str:
        """Why it does not go on, as the end of a sentence; empty where nothing is wrong."""
        if not self.error:
            return ""
        if self.needs_clone:
            return f"can never follow it again and must be replaced: {self.error}"
        if self.relay_log_corrupt:
            return f"cannot read what it has received, which is fetched again: {self.error}"
        if self.password_refused:
            return f"is refused there, because of its account or password: {self.error}"
        return f"has stopped: {self.error}"


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """One reading of the server. With `answers` false the fields after `problem` say nothing."""

    at: float
    """Monotonic time at which the reading began: all that it says was true at this time or later."""
    answers: bool
    problem: str = ""
    """Why there is no answer, as a sentence."""
    writable: bool = False
    """read_only is off."""
    position: str = ""
    """GTID position of all that was committed here, by whichever server (@@gtid_current_pos)."""
    replica: Replica | None = None
    """None where the server replicates from nobody."""
    waits_for_replica: bool = False
    """Each commit waits until a replica has it (semi-sync is enabled and has not fallen back)."""
    replicas: int = 0
    """Connected replicas that acknowledge."""
    waiting: int = 0
    """Commits that wait for a replica now."""
    acknowledged: int = 0
    """Commits that a replica acknowledged since the server started."""
    proven: str | None = None
    """Address of the standby that `join_replica` proved to have everything, as long as commits have waited for it
    since; None otherwise, and after a restart of the guard."""
    acknowledges: bool = False
    """As a copy it tells its source what it has received. Off after a start of the server, which throws away what was
    received and not applied, until all of that was received again (`Server.acknowledge`)."""
    full: str = ""
    """That the disk with its data is full, as a sentence; known also where the server does not answer."""


def no_answer(at: float, problem: str) -> ServerFacts:
    """Return the facts of a server that could not be asked."""
    return ServerFacts(at=at, answers=False, problem=problem)
