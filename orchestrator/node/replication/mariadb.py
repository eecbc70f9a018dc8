"""A MariaDB server, asked over its Unix socket: the only module that talks to a database.

In: calls of `server.Server`. Out: `ServerFacts`, done, `ServerAway` or `NotInTime`. Statements are in `sql`. Not
thread-safe: one instance per thread; several instances in one process know each other's sessions.

What this module does about the server, each seen on 10.11:
- A commit that waits for a replica blocks SET GLOBAL read_only, and KILL QUERY acknowledges it. So sessions are killed
  whole (the client gets no answer) while SET GLOBAL read_only, sent on a second connection, lets no new write begin.
- Starting one of the two replication threads while both are stopped purges the relay log: what was acknowledged to
  the source and is not applied yet would be lost with the source. So applying is never stopped before it is done.
- A commit of the SQL thread waits for a replica too where semi-sync is on: a server that follows has it off.
- A commit that waits for room on a full disk has half of itself in the binlog, and the rest is never written when its
  session is killed: the server then counts a transaction that it has not, and can follow nobody. What ends it without
  a trace is the end of the processes; the next start leaves the half out.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pymysql
from pymysql.constants import CR
from pymysql.cursors import DictCursor

from orchestrator.domain.gtid import behind_by, holds
from orchestrator.node.replication.facts import Replica, ServerFacts
from orchestrator.node.replication.server import CALL_TIMEOUT_S, NotInTime, ServerAway
from orchestrator.node.replication.sql import MARIADB, objection_to
from orchestrator.settings import DatabaseSettings, SettingsError, read_secret

_READ_TIMEOUT_S = 1.5
"""Of one reading, all its statements together; below `CALL_TIMEOUT_S`, which holds whatever else is to be done."""
_LOOK_AGAIN_SOON_S = 0.02
_STATEMENTS_END_WITHIN_S = 0.1
"""What has not ended by itself by then is ended."""
_LOOK_AGAIN_S = 0.2
_RECEIVED_AGAIN_S = 0.05
_LEAST_S = 0.02

Row = Mapping[str, Any]


class _Sessions:
    """The sessions that this process has on the server: ours are left alone while they wait for something to do."""

    def __init__(self) -> None:
        self._ids: set[tuple[str, int]] = set()
        self._lock = threading.Lock()

    def add(self, socket: str, session: int) -> None:
        with self._lock:
            self._ids.add((socket, session))

    def remove(self, socket: str, session: int) -> None:
        with self._lock:
            self._ids.discard((socket, session))

    def on(self, socket: str) -> frozenset[int]:
        with self._lock:
            return frozenset(session for at, session in self._ids if at == socket)


_sessions = _Sessions()


class _Deadline:
    """When a call must be over."""

    def __init__(self, within_s: float) -> None:
        self._at = time.monotonic() + within_s

    @property
    def left_s(self) -> float:
        """Seconds left, never so few that a socket would not even be tried."""
        return max(_LEAST_S, self._at - time.monotonic())

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self._at


class _Link:
    """One connection to a server. Closed by its first error that is not the server's answer."""

    def __init__(self, deadline: _Deadline, **where: Any) -> None:
        """Connect; raises `ServerAway`, also where it is no MariaDB, or `NotInTime` with the server's own refusal."""
        self._socket = str(where.get("unix_socket", ""))
        self._connection: pymysql.Connection[DictCursor] | None = None
        with _translated():
            self._connection = pymysql.connect(
                **where,
                cursorclass=DictCursor,
                autocommit=True,
                connect_timeout=deadline.left_s,
                read_timeout=deadline.left_s,
                write_timeout=deadline.left_s,
            )
            self.session: int = self._connection.thread_id()  # type: ignore[no-untyped-call]
        objection = objection_to(self._connection.get_server_info())  # type: ignore[no-untyped-call]
        if objection:
            self.close()
            raise ServerAway(objection)
        if self._socket:
            _sessions.add(self._socket, self.session)

    @property
    def is_open(self) -> bool:
        """Say whether it can be used, as far as is known."""
        return self._connection is not None

    def fileno(self) -> int | None:
        """See `Server.fileno`."""
        # There is no public way to the socket of a connection; the driver forgets one that it closed by itself.
        socket = vars(self._connection)["_sock"] if self._connection is not None else None
        return None if socket is None else int(socket.fileno())

    def run(self, deadline: _Deadline, statement: str, *values: Any) -> list[Row]:
        """Run one statement and return its rows; raises `ServerAway`, or `NotInTime` with the server's sentence."""
        if self._connection is None:
            raise ServerAway("the connection to the database server is closed")
        # There is no public way to change the timeout of a connection; the driver reads it before each answer.
        vars(self._connection)["_read_timeout"] = deadline.left_s
        try:
            with _translated(), self._connection.cursor() as cursor:
                cursor.execute(statement, values or None)
                return list(cursor.fetchall())
        except ServerAway:
            self.close()
            raise

    def close(self) -> None:
        """Close it, without a word to a server that may hang."""
        connection, self._connection = self._connection, None
        if connection is not None:
            _sessions.remove(self._socket, self.session)
            with suppress(Exception):
                connection._force_close()  # type: ignore[attr-defined]


@contextmanager
def _translated() -> Iterator[None]:
    """Turn what the driver raises into `ServerAway` (no answer) or `NotInTime` (the server said no)."""
    try:
        yield
    except pymysql.MySQLError as error:
        number, sentence = (*error.args, "", "")[:2]
        text = str(sentence or number or error)
        if isinstance(number, int) and number and not CR.CR_ERROR_FIRST <= number <= CR.CR_ERROR_LAST:
            raise NotInTime(f"{text} (MariaDB {number})") from None
        raise ServerAway(f"the database server does not answer: {text}") from None
    except (OSError, ValueError) as error:
        raise ServerAway(f"the database server does not answer: {error}") from None


class MariaDbServer:
    """The real `Server`."""

    def __init__(self, settings: DatabaseSettings) -> None:
        self._settings = settings
        self._sql = MARIADB
        self._link: _Link | None = None
        self._proven: str | None = None

    def fileno(self) -> int | None:
        """See `Server.fileno`."""
        return self._link.fileno() if self._link is not None else None

    def close(self) -> None:
        """See `Server.close`."""
        if self._link is not None:
            self._link.close()

    # -- what it is like ------------------------------------------------------------------------------------------

    def read(self) -> ServerFacts:
        """See `Server.read`."""
        at, deadline = time.monotonic(), _Deadline(_READ_TIMEOUT_S)
        with _in_time_or_away():
            variables = self._run(deadline, self._sql.variables)[0]
            status = self._status(deadline)
            rows = self._run(deadline, self._sql.replica_status)
        replica = _replica_of(rows[0], variables, status) if rows else None
        waits = bool(variables["semi_sync_source"]) and status.get("Rpl_semi_sync_master_status") == "ON"
        if not waits:
            self._proven = None
        return ServerFacts(
            at=at,
            answers=True,
            writable=not variables["read_only"],
            position=str(variables["gtid_current_pos"]),
            replica=replica,
            waits_for_replica=waits,
            replicas=int(status.get("Rpl_semi_sync_master_clients", 0)),
            waiting=int(status.get("Rpl_semi_sync_master_wait_sessions", 0)),
            acknowledged=int(status.get("Rpl_semi_sync_master_yes_tx", 0)),
            proven=self._proven,
            acknowledges=bool(variables["semi_sync_replica"]),
        )

    def position_of(self, address: str) -> str:
        """See `Server.position_of`."""
        deadline = _Deadline(_READ_TIMEOUT_S)
        with _in_time_or_away(), self._connected_to(address, deadline) as there:
            return str(there.run(deadline, self._sql.variables)[0]["gtid_current_pos"])

    # -- writes ---------------------------------------------------------------------------------------------------

    def close_writes(self, within_s: float) -> None:
        """See `Server.close_writes`."""
        deadline = _Deadline(within_s)
        while True:
            self._set_read_only(deadline)
            # No commit goes on any more that the end of a session could acknowledge.
            for row in self._sessions_of_clients(deadline):
                self._end_session(row, deadline)
            # A session of ours that had died without our knowing may just have been told to take writes.
            if self._run(deadline, self._sql.variables)[0]["read_only"]:
                return
            if deadline.is_over:
                raise NotInTime("the database server was made writable again while it was made read-only")

    def _set_read_only(self, deadline: _Deadline) -> None:
        """Set read_only on a connection of its own. From then on no write begins; it is set when the last has ended."""
        other = self._open(deadline)
        problem: list[Exception] = []

        def run() -> None:
            try:
                other.run(deadline, self._sql.read_only_on)
            except Exception as error:  # also what the driver makes of a connection closed under it
                problem.append(error)

        setting = threading.Thread(target=run, name="read-only", daemon=True)
        setting.start()
        setting.join(min(_STATEMENTS_END_WITHIN_S, deadline.left_s))
        is_set, commit_waits = False, False
        try:
            while setting.is_alive() and not deadline.is_over:
                commit_waits = self._hurry(deadline, other.session)
                setting.join(_LOOK_AGAIN_SOON_S)
            is_set = not (setting.is_alive() or problem)
            if not is_set:
                why = str(problem[0]) if problem else "writes are still going on"
                why = "a commit waits for the standby, and ending it would acknowledge others" if commit_waits else why
                raise NotInTime(f"the database server did not become read-only in time: {why}")
        finally:
            if not is_set:
                # It would go on waiting, let no write begin, and be carried out at any later time.
                with suppress(NotInTime, ServerAway):
                    self._run(_Deadline(_LEAST_S * 5), self._sql.end_session, other.session)
            other.close()

    def _hurry(self, deadline: _Deadline, setting: int) -> bool:
        """End what is still being written, but for commits; return whether one waits for the standby.

        The end of such a one acknowledges, to the clients of others, what was committed together with it (a group
        commit). While one waits, nothing is ended at all: the next commits come after it, and who is ended would not
        wait when its turn comes.
        """
        rows = self._sessions_of_clients(deadline)
        states = {row["STATE"] for row in rows}
        if self._sql.waits_for_room in states:
            raise NotInTime("a commit waits for room on a full disk: only the end of the server undoes it whole")
        if self._sql.waits_for_replica in states:
            return True
        for row in rows:
            if row["ID"] != setting and row["STATE"] != self._sql.commits:
                self._end_session(row, deadline)
        return False

    def _sessions_of_clients(self, deadline: _Deadline) -> list[Row]:
        """Return all sessions but the replication's and this process's own that only wait for something to do."""
        ours, link = _sessions.on(str(self._settings.socket)), self._connected(deadline)
        return [
            row
            for row in self._run(deadline, self._sql.sessions)
            if int(row["ID"]) != link.session
            and row["USER"] != self._settings.replication_user
            and not (int(row["ID"]) in ours and row["COMMAND"] == "Sleep")
        ]

    def _end_session(self, row: Row, deadline: _Deadline) -> None:
        # It may have ended by itself meanwhile.
        with suppress(NotInTime):
            self._run(deadline, self._sql.end_session, int(row["ID"]))

    def open_writes(self) -> None:
        """See `Server.open_writes`."""
        self._run(_Deadline(CALL_TIMEOUT_S), self._sql.read_only_off)

    # -- as a copy ------------------------------------------------------------------------------------------------

    def follow(self, address: str) -> None:
        """See `Server.follow`."""
        deadline = _Deadline(CALL_TIMEOUT_S)
        variables = self._run(deadline, self._sql.variables)[0]
        if not variables["read_only"] or variables["semi_sync_source"]:
            # Also where it is read-only: switching semi-sync off acknowledges what waits.
            self.close_writes(deadline.left_s)
            self._run(deadline, self._sql.source_off)
        rows = self._run(deadline, self._sql.replica_status)
        if not rows:
            self._run(deadline, self._sql.start_from_here)
            self._replicate_from(address, deadline)
            return
        replica = _replica_of(rows[0], variables, self._status(deadline))
        if replica.relay_log_corrupt:
            self._run(deadline, self._sql.stop)
            self._run(deadline, self._sql.forget_relay_log)
            self._replicate_from(address, deadline)
        elif replica.password_refused or not self._is_source(rows[0], address):
            # Both threads are stopped for the change, and that ends what was received but not yet applied.
            if replica.applies:
                self._drain(deadline)
            self._run(deadline, self._sql.stop)
            self._replicate_from(address, deadline)
        elif not replica.needs_clone:
            self._go_on(rows[0], deadline)

    def _go_on(self, row: Row, deadline: _Deadline) -> None:
        """Start what is stopped. With both threads stopped this throws away what was received."""
        running = (row["Slave_IO_Running"], row["Slave_SQL_Running"])
        if running == ("No", "No"):
            self._run(deadline, self._sql.replica_off)
        if "No" in running:
            self._run(deadline, self._sql.start)

    def acknowledge(self, address: str, within_s: float) -> None:
        """See `Server.acknowledge`."""
        deadline = _Deadline(within_s)
        wanted = self.position_of(address)
        while True:
            rows = self._run(deadline, self._sql.replica_status)
            variables = self._run(deadline, self._sql.variables)[0]
            replica = _replica_of(rows[0], variables, {}) if rows else None
            if replica is None or not replica.receives or replica.source != address:
                raise NotInTime(f"nothing is received from {address}")
            if holds(replica.received or str(variables["gtid_current_pos"]), wanted):
                break
            if deadline.is_over:
                raise NotInTime(f"what {address} has, up to {wanted}, was not received in time: {replica.received}")
            time.sleep(_RECEIVED_AGAIN_S)
        for statement in self._sql.replica_on:
            self._run(deadline, statement)
        # It counts from the next connection; applying goes on, so that nothing that was received is thrown away.
        self._run(deadline, self._sql.stop_receiving)
        self._run(deadline, self._sql.start)

    def _is_source(self, row: Row, address: str) -> bool:
        wanted = (address, self._settings.port, self._settings.replication_user, "Slave_Pos")
        tls = (row["Master_SSL_Allowed"], row["Master_SSL_Verify_Server_Cert"], row["Master_SSL_CA_File"])
        if tls != ("Yes", "Yes", str(self._settings.ca_file)):
            return False
        return (row["Master_Host"], int(row["Master_Port"]), row["Master_User"], row["Using_Gtid"]) == wanted

    def _replicate_from(self, address: str, deadline: _Deadline) -> None:
        settings = self._settings
        password = _secret(settings.replication_password_file)
        where = (address, settings.port, settings.replication_user, password, str(settings.ca_file))
        self._run(deadline, self._sql.replica_off)
        self._run(deadline, self._sql.change_source, *where)
        self._run(deadline, self._sql.start)

    def promote(self, upto: str | None, within_s: float) -> None:
        """See `Server.promote`."""
        deadline = _Deadline(within_s)
        rows = self._run(deadline, self._sql.replica_status)
        if rows:
            self._end_receiving(rows[0], deadline)
            position = self._drain(deadline)
        else:
            position = str(self._run(deadline, self._sql.variables)[0]["gtid_current_pos"])
        if upto and not holds(position, upto):
            raise NotInTime(
                f"{behind_by(position, upto)} transactions up to {upto} were never received (at {position})"
            )
        if rows:
            self._run(deadline, self._sql.stop)
            self._run(deadline, self._sql.forget_source)

    def _end_receiving(self, row: Row, deadline: _Deadline) -> None:
        """Receive nothing more, and have what was received applied; never with both threads stopped in between."""
        replica = _replica_of(row, self._run(deadline, self._sql.variables)[0], {})
        if row["Slave_SQL_Running"] != "Yes" and not replica.drained:
            if replica.errno or row["Slave_IO_Running"] == "No":
                raise NotInTime(f"what was received cannot be applied: {replica.error or 'replication is stopped'}")
            self._run(deadline, self._sql.start_applying)
        self._run(deadline, self._sql.stop_receiving)

    def _drain(self, deadline: _Deadline) -> str:
        """Wait until all that was received is applied; returns the position. Raises `NotInTime`."""
        while True:
            rows = self._run(deadline, self._sql.replica_status)
            variables = self._run(deadline, self._sql.variables)[0]
            replica = _replica_of(rows[0], variables, {})
            if replica.drained:
                return str(variables["gtid_current_pos"])
            if not replica.applies:
                raise NotInTime(f"what was received cannot be applied: {replica.error or 'applying is stopped'}")
            if deadline.is_over:
                raise NotInTime(f"what was received, up to {replica.received}, was not applied in time")
            wait_s = min(_LOOK_AGAIN_S, deadline.left_s)
            self._run(_Deadline(wait_s + CALL_TIMEOUT_S), self._sql.wait_applied, replica.received, wait_s)

    # -- as a source ----------------------------------------------------------------------------------------------

    def wait_for_replica(self, on: bool) -> None:
        """See `Server.wait_for_replica`."""
        deadline = _Deadline(CALL_TIMEOUT_S)
        self._proven = None
        if not on:
            self._run(deadline, self._sql.source_off)
            return
        for statement in self._sql.source_on:
            self._run(deadline, statement)

    def join_replica(self, address: str, within_s: float) -> None:
        """See `Server.join_replica`."""
        deadline = _Deadline(within_s)
        try:
            self._create_heartbeat(deadline)
            position = str(self._run(deadline, self._sql.variables)[0]["gtid_current_pos"])
            self._wait_applied_at(address, position, deadline)
            if self.read().replicas == 0:
                raise NotInTime(f"the standby at {address} does not acknowledge what it receives")
            self.wait_for_replica(True)
            self._prove(address, deadline)
        except (ServerAway, NotInTime) as error:
            self.wait_for_replica(False)
            raise NotInTime(str(error)) from None
        self._proven = address

    def _create_heartbeat(self, deadline: _Deadline) -> None:
        if not self._run(deadline, self._sql.heartbeat_exists):
            for statement in self._sql.heartbeat_create:
                self._run(deadline, statement)

    def _wait_applied_at(self, address: str, position: str, deadline: _Deadline) -> None:
        """Wait until the standby has applied everything up to the position."""
        with self._connected_to(address, deadline) as there:
            wait_s = deadline.left_s
            row = there.run(_Deadline(wait_s + CALL_TIMEOUT_S), self._sql.wait_applied, position, wait_s)[0]
            if position and set(row.values()) != {0}:
                here = str(there.run(_Deadline(CALL_TIMEOUT_S), self._sql.variables)[0]["gtid_slave_pos"])
                raise NotInTime(f"the standby at {address} is {behind_by(here, position)} transactions behind")

    def _prove(self, address: str, deadline: _Deadline) -> None:
        """Make a write of our own wait for the standby: it is acknowledged after all that came before."""
        own = self._open(deadline)
        try:
            own.run(deadline, self._sql.heartbeat_write)
        except ServerAway:
            raise NotInTime(f"the standby at {address} did not acknowledge a write in time") from None
        finally:
            own.close()

    # -- how it is asked ------------------------------------------------------------------------------------------

    def _run(self, deadline: _Deadline, statement: str, *values: Any) -> list[Row]:
        """Run one statement. A connection that was broken while nobody used it (a restart) is replaced once."""
        was_open = self._link is not None and self._link.is_open
        link = self._connected(deadline)
        try:
            return link.run(deadline, statement, *values)
        except ServerAway:
            if not was_open or deadline.is_over:
                raise
        return self._connected(deadline).run(deadline, statement, *values)

    def _connected(self, deadline: _Deadline) -> _Link:
        if self._link is None or not self._link.is_open:
            self._link = self._open(deadline)
        return self._link

    def _open(self, deadline: _Deadline) -> _Link:
        settings = self._settings
        password = _secret(settings.password_file) if settings.password_file else ""
        return _Link(deadline, unix_socket=str(settings.socket), user=settings.user, password=password)

    @contextmanager
    def _connected_to(self, address: str, deadline: _Deadline) -> Iterator[_Link]:
        """Connect to another server, with the account of the replication."""
        settings = self._settings
        there = _Link(
            deadline,
            host=address,
            port=settings.port,
            user=settings.replication_user,
            password=_secret(settings.replication_password_file),
            ssl_ca=str(settings.ca_file),
            ssl_verify_cert=True,
            ssl_verify_identity=True,
        )
        try:
            yield there
        finally:
            there.close()

    def _status(self, deadline: _Deadline) -> Row:
        return {str(row["Variable_name"]): row["Value"] for row in self._run(deadline, self._sql.status)}


def _secret(path: Path) -> str:
    try:
        return read_secret(path)
    except SettingsError as error:
        raise NotInTime(str(error)) from None


def _replica_of(row: Row, variables: Row, status: Row) -> Replica:
    received = str(row["Gtid_IO_Pos"] or "")
    behind = row["Seconds_Behind_Master"]
    wrong = "SQL" if row["Last_SQL_Errno"] else "IO"
    return Replica(
        source=str(row["Master_Host"]),
        receives=row["Slave_IO_Running"] == "Yes",
        applies=row["Slave_SQL_Running"] == "Yes",
        semi_sync=status.get("Rpl_semi_sync_slave_status") == "ON",
        drained=holds(str(variables["gtid_slave_pos"]), received),
        behind_s=None if behind is None else float(behind),
        errno=int(row[f"Last_{wrong}_Errno"]),
        error=str(row[f"Last_{wrong}_Error"]),
        received=received,
    )


@contextmanager
def _in_time_or_away() -> Iterator[None]:
    """A question that the server answers with an error is no answer either."""
    try:
        yield
    except NotInTime as error:
        raise ServerAway(f"the database server does not let itself be asked: {error}") from None
