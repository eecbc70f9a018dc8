"""What each account of the database must not do, with the statements and the settings that are deployed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pymysql
import pytest

from orchestrator.node.replication.mariadb import MariaDbServer
from orchestrator.node.replication.server import NotInTime, ServerAway
from tests.integration.database_pair import Pair, numbers, read_until
from tests.integration.mariadb_server import (
    APP_USER,
    BACKUP_PASSWORD,
    BACKUP_USER,
    FOUNDING,
    GUARD_PASSWORD,
    GUARD_USER,
    REPLICATION_PASSWORD,
    REPLICATION_USER,
    Datadirs,
)
from tests.integration.test_database_copy import answer
from tests.integration.waiting import wait_for
from tests.rendering import TEMPLATES, render
from tests.tls import make_tls

DENIED = {1044, 1045, 1142, 1227, 1370, 1410}
REPLICATION = {"user": REPLICATION_USER, "password": REPLICATION_PASSWORD, "database": None}
NEW_PASSWORD = "another-secret"


@pytest.fixture(scope="module")
def pair(datadirs: Datadirs) -> Iterator[Pair]:
    """A primary, and its standby in sync."""
    pair = Pair(datadirs)
    try:
        pair.start()
        pair.join()
        yield pair
    finally:
        pair.close()


def over_the_socket(pair: Pair, user: str, password: str) -> pymysql.Connection[pymysql.cursors.Cursor]:
    return pymysql.connect(unix_socket=str(pair.a.here / "s"), user=user, password=password, read_timeout=30)


FORBIDDEN = {
    APP_USER: (
        "CREATE DATABASE another",
        "SELECT * FROM mysql.global_priv",
        "SHOW MASTER STATUS",
        "STOP SLAVE",
        "SET GLOBAL read_only = 0",
        "INSERT INTO orch.heartbeat VALUES (9, NOW(), 9)",
        "CREATE USER a@b",
    ),
    REPLICATION_USER: (
        "SELECT * FROM listings.t",
        "INSERT INTO listings.t VALUES (999, 'x')",
        "STOP SLAVE",
        "SET GLOBAL read_only = 0",
        "DROP DATABASE listings",
    ),
    GUARD_USER: (
        "SELECT * FROM listings.t",
        "INSERT INTO listings.t VALUES (999, 'x')",
        "DROP DATABASE orch",
        "CREATE USER a@b",
        "SELECT * FROM mysql.global_priv",
        "GRANT PROCESS ON *.* TO orch_guard@localhost",
    ),
    BACKUP_USER: (
        "SELECT * FROM listings.t",
        "SET GLOBAL read_only = 0",
        "STOP SLAVE",
        "SHUTDOWN",
        "CREATE USER a@b",
    ),
}


@pytest.mark.parametrize("user", FORBIDDEN)
def test_an_account_is_refused_what_is_not_its_own(pair: Pair, user: str) -> None:
    connection = {
        APP_USER: pair.a.client,
        REPLICATION_USER: lambda: pair.a.client(**REPLICATION),
        GUARD_USER: lambda: over_the_socket(pair, GUARD_USER, GUARD_PASSWORD),
        BACKUP_USER: lambda: over_the_socket(pair, BACKUP_USER, BACKUP_PASSWORD),
    }[user]()
    with connection:
        for statement in FORBIDDEN[user]:
            with pytest.raises(pymysql.MySQLError) as refused, connection.cursor() as cursor:
                cursor.execute(statement)
            assert refused.value.args[0] in DENIED, statement


def test_nothing_is_let_in_over_the_network_without_tls(pair: Pair) -> None:
    for account in ({}, REPLICATION):
        plain = {**account, "ssl_disabled": True, "ssl_ca": None, "ssl_verify_cert": None, "ssl_verify_identity": None}
        with pytest.raises(pymysql.MySQLError):
            pair.a.client(**plain)
        pair.a.client(**account).close()


def test_guard_and_backup_come_by_the_socket_only(pair: Pair) -> None:
    for user, password in ((GUARD_USER, GUARD_PASSWORD), (BACKUP_USER, BACKUP_PASSWORD), ("root", "")):
        with pytest.raises(pymysql.MySQLError) as refused:
            pair.a.client(user=user, password=password, database=None)
        assert refused.value.args[0] in DENIED | {1130, 1698}


def test_a_guard_and_its_server_take_no_source_that_another_authority_has_signed(pair: Pair, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    stranger = make_tls(tmp_path)
    deceived = MariaDbServer(pair.b.settings.model_copy(update={"ca_file": stranger.ca}))
    with pytest.raises(ServerAway, match="certificate verify failed"):
        deceived.position_of(pair.a.address)
    try:
        with suppress(NotInTime):
            deceived.follow(pair.a.address)
        facts = read_until(deceived, lambda facts: bool(facts.replica and facts.replica.errno), "the server says why")
        assert facts.replica is not None
        assert not facts.replica.receives
        assert "certificate" in facts.replica.error.lower() or "ssl" in facts.replica.error.lower()
    finally:
        deceived.close()
        pair.join()


def test_replication_goes_over_tls_and_a_former_source_without_is_replaced(pair: Pair) -> None:
    sessions = "SELECT ID FROM information_schema.PROCESSLIST WHERE COMMAND = 'Binlog Dump'"
    assert pair.a.ask(sessions)
    row = pair.b.ask("SHOW SLAVE STATUS")[0]
    assert (row["Master_SSL_Allowed"], row["Master_SSL_Verify_Server_Cert"]) == ("Yes", "Yes")
    pair.b.ask("STOP SLAVE")
    pair.b.ask("CHANGE MASTER TO MASTER_SSL = 0, MASTER_SSL_VERIFY_SERVER_CERT = 0")
    pair.follow()
    row = pair.b.ask("SHOW SLAVE STATUS")[0]
    assert (row["Master_SSL_Allowed"], row["Master_SSL_Verify_Server_Cert"]) == ("Yes", "Yes")
    pair.join()


def test_passwords_are_changed_while_everybody_stays_connected(pair: Pair) -> None:
    renewed = render(
        TEMPLATES / "database-founding.sql.j2",
        "database-server",
        app_database_password=NEW_PASSWORD,
        orch_replication_password=REPLICATION_PASSWORD,
    )
    with pair.a.client() as before:
        assert answer(pair.a, "accounts", text=FOUNDING)["changed"] is True
        assert answer(pair.a, "accounts", text=FOUNDING)["changed"] is False
        assert answer(pair.b, "accounts", text=FOUNDING)["changed"] is False
        assert answer(pair.a, "accounts", text=renewed)["changed"] is True
        before.query("INSERT INTO t VALUES (1, 'with the former password')")
    with pytest.raises(pymysql.MySQLError):
        pair.a.client()
    pair.a.client(password=NEW_PASSWORD).close()
    wait_for(lambda: numbers(pair.b) == [1], "the standby follows")
    pair.b.client(password=NEW_PASSWORD).close()
    # And the guard's own, which each server has by itself: its connections live on, it reads its file for new ones.
    pair.a.accounts.write_text(pair.a.accounts.read_text().replace("orch_backup", "orch_backup2"))
    assert answer(pair.a, "accounts", text=renewed) == {"changed": True, "said": "changed: orch_backup2@localhost"}
    assert pair.a.ask("SELECT COUNT(*) AS n FROM mysql.global_priv WHERE User = 'orch_backup2'")[0]["n"] == 1
    assert pair.b.ask("SELECT COUNT(*) AS n FROM mysql.global_priv WHERE User = 'orch_backup2'")[0]["n"] == 0
