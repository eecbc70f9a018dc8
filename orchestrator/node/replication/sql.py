"""Every statement that is sent to a database server, in one table per product; no I/O.

In: what a server greets with. Out: `Statements`, or why they are not for it. `%s` is a value, filled in
by the driver. Must hold all SQL of the guard: whoever checks what it does to a server reads this file.

There is one table, MariaDB's. What MySQL 8 and newer would need is more than another one (docs/architecture.md, "Why
not MySQL"), so its servers are refused by name instead of being told what they take for something else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

OLDEST_MARIADB = (10, 11)
SEMI_SYNC_TIMEOUT_MS = 315_360_000_000
"""Ten years: commits wait until the guard decides; it is never the server that gives up waiting."""
CONNECT_RETRY_S = 1
HEARTBEAT_S = 0.5
"""The source sends a heartbeat this often when it has nothing else to send; slave_net_timeout (2 s) must exceed it."""

READ_STATUS = (
    "Rpl_semi_sync_slave_status",
    "Rpl_semi_sync_master_status",
    "Rpl_semi_sync_master_clients",
    "Rpl_semi_sync_master_wait_sessions",
    "Rpl_semi_sync_master_yes_tx",
)


@dataclass(frozen=True, slots=True)
class Statements:
    """What a guard says to its server."""

    variables: str
    """One row: read_only, gtid_current_pos, gtid_slave_pos, semi_sync_source, semi_sync_replica."""
    status: str
    """Rows (Variable_name, Value) of `READ_STATUS`."""
    replica_status: str
    sessions: str
    """Rows (ID, USER, COMMAND, STATE) of all sessions that are not the server's own and not a replica's."""
    waits_for_room: str
    """STATE of a session whose write has found no room on the disk and is tried again until there is some."""
    waits_for_replica: str
    """STATE of a session whose commit waits for a replica, and with it those of others that were written together."""
    commits: str
    """STATE of a session whose commit is on its way to that."""
    end_session: str
    read_only_on: str
    read_only_off: str
    source_on: tuple[str, ...]
    """Each commit waits for a replica, without end, also while there is none."""
    source_off: str
    replica_on: tuple[str, ...]
    """Acknowledge to the source; counts from the next start of receiving. And do not wait long for a source that hangs:
    who stops receiving connects to it first, to end the connection there (5 s by default, 0 is without end)."""
    replica_off: str
    start_from_here: str
    """A server that was nobody's replica goes on from what is here."""
    change_source: str
    """Values: address, port, user, password, file of the authority that has signed the source's certificate."""
    start: str
    start_applying: str
    stop: str
    stop_receiving: str
    forget_relay_log: str
    """What was received is discarded and fetched again; the source stays set."""
    forget_source: str
    wait_applied: str
    """Values: position, seconds. One row with one column: 0 when it is applied, -1 when it was not in time."""
    heartbeat_exists: str
    heartbeat_create: tuple[str, ...]
    heartbeat_write: str


_STATUS_NAMES = ", ".join(f"'{name}'" for name in READ_STATUS)

MARIADB = Statements(
    variables="SELECT @@global.read_only AS read_only, @@global.gtid_current_pos AS gtid_current_pos,"
    " @@global.gtid_slave_pos AS gtid_slave_pos, @@global.rpl_semi_sync_master_enabled AS semi_sync_source,"
    " @@global.rpl_semi_sync_slave_enabled AS semi_sync_replica",
    status=f"SHOW GLOBAL STATUS WHERE Variable_name IN ({_STATUS_NAMES})",
    replica_status="SHOW SLAVE STATUS",
    sessions="SELECT ID, USER, COMMAND, STATE FROM information_schema.PROCESSLIST WHERE USER NOT IN ('system user',"
    " 'event_scheduler') AND COMMAND NOT IN ('Binlog Dump', 'Daemon', 'Slave_IO', 'Slave_SQL', 'Slave_worker')",
    waits_for_room="Waiting for someone to free space",
    waits_for_replica="Waiting for semi-sync ACK from slave",
    commits="Commit",
    end_session="KILL HARD CONNECTION %s",
    read_only_on="SET GLOBAL read_only = ON",
    read_only_off="SET GLOBAL read_only = OFF",
    source_on=(
        f"SET GLOBAL rpl_semi_sync_master_timeout = {SEMI_SYNC_TIMEOUT_MS}",
        "SET GLOBAL rpl_semi_sync_master_wait_point = AFTER_SYNC",
        "SET GLOBAL rpl_semi_sync_master_wait_no_slave = ON",
        "SET GLOBAL rpl_semi_sync_master_enabled = ON",
    ),
    source_off="SET GLOBAL rpl_semi_sync_master_enabled = OFF",
    replica_on=(
        "SET GLOBAL rpl_semi_sync_slave_kill_conn_timeout = 1",
        "SET GLOBAL rpl_semi_sync_slave_enabled = ON",
    ),
    replica_off="SET GLOBAL rpl_semi_sync_slave_enabled = OFF",
    start_from_here="SET GLOBAL gtid_slave_pos = @@global.gtid_current_pos",
    change_source="CHANGE MASTER TO MASTER_HOST = %s, MASTER_PORT = %s, MASTER_USER = %s, MASTER_PASSWORD = %s,"
    " MASTER_SSL = 1, MASTER_SSL_CA = %s, MASTER_SSL_VERIFY_SERVER_CERT = 1,"
    f" MASTER_USE_GTID = slave_pos, MASTER_CONNECT_RETRY = {CONNECT_RETRY_S}, MASTER_DELAY = 0,"
    f" MASTER_HEARTBEAT_PERIOD = {HEARTBEAT_S}",
    start="START SLAVE",
    start_applying="START SLAVE SQL_THREAD",
    stop="STOP SLAVE",
    stop_receiving="STOP SLAVE IO_THREAD",
    forget_relay_log="RESET SLAVE",
    forget_source="RESET SLAVE ALL",
    wait_applied="SELECT MASTER_GTID_WAIT(%s, %s)",
    # IF NOT EXISTS alone would be written to the binary log each time.
    heartbeat_exists="SELECT 1 FROM information_schema.TABLES WHERE TABLE_SCHEMA = 'orch' AND TABLE_NAME = 'heartbeat'",
    heartbeat_create=(
        "CREATE DATABASE IF NOT EXISTS orch",
        "CREATE TABLE IF NOT EXISTS orch.heartbeat (id TINYINT PRIMARY KEY, at DATETIME(6) NOT NULL,"
        " server_id INT UNSIGNED NOT NULL) ENGINE = InnoDB",
    ),
    heartbeat_write="REPLACE INTO orch.heartbeat (id, at, server_id) VALUES (1, UTC_TIMESTAMP(6), @@global.server_id)",
)


def objection_to(version: str) -> str:
    """Return why `MARIADB` is not for a server that greets with `version`, as a sentence; empty where it is.

    It greets with "10.11.19-MariaDB-0+deb12u1", some with 5.5.5- before it, for clients that know no other first digit.
    """
    number = re.match(r"(?:5\.5\.5-)?(\d+)\.(\d+)", version)
    if number is None or "MariaDB" not in version:
        return f"the database server is no MariaDB ({version}), and orch replicates no other product"
    if (int(number[1]), int(number[2])) < OLDEST_MARIADB:
        oldest = ".".join(map(str, OLDEST_MARIADB))
        return f"the database server is MariaDB {number[1]}.{number[2]}, and orch needs {oldest} or newer"
    return ""
