"""The ledger's checker against real databases: it finds what a primary that waits for nobody loses, and only that."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.trials.books import Writing
from deploy.trials.ledger import Losses, losses, rows_of
from tests.integration.mariadb_server import (
    ACCOUNTS_AND_SCHEMA,
    APP_PASSWORD,
    REPLICATION_PASSWORD,
    REPLICATION_USER,
    Datadirs,
    MariaDb,
)
from tests.integration.ports import free_port
from tests.integration.waiting import wait_for

SCRIPT = Path(__file__).resolve().parents[2] / "deploy" / "trials" / "local_writer.py"
TABLE = """
CREATE TABLE listings.listings (
  id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY, request_key VARCHAR(64) NOT NULL UNIQUE,
  title VARCHAR(120) NOT NULL, city VARCHAR(80) NOT NULL, price DOUBLE NOT NULL, created_at DATETIME(3) NOT NULL,
  indexed_at DATETIME(3) NULL)
"""


@pytest.fixture
def pair(datadirs: Datadirs) -> Iterator[tuple[MariaDb, MariaDb]]:
    """A primary that waits for its standby, and that standby, caught up."""
    port = free_port()
    servers = [MariaDb(datadirs, number, port, rpl_semi_sync_slave_enabled="ON") for number in (1, 2)]
    primary, standby = servers
    try:
        for server in servers:
            server.start()
        primary.ask("SET GLOBAL read_only = 0")
        for statement in (*ACCOUNTS_AND_SCHEMA, TABLE):
            primary.ask(statement)
        standby.ask(
            f"CHANGE MASTER TO MASTER_HOST='{primary.address}', MASTER_PORT={port}, MASTER_USER='{REPLICATION_USER}',"
            f" MASTER_PASSWORD='{REPLICATION_PASSWORD}', MASTER_USE_GTID=slave_pos,"
            f" MASTER_SSL=1, MASTER_SSL_CA='{standby.tls.ca}', MASTER_SSL_VERIFY_SERVER_CERT=1"
        )
        standby.ask("START SLAVE")
        primary.ask("SET GLOBAL rpl_semi_sync_master_enabled = 1")
        wait_for(lambda: position(standby) == position(primary), "the standby has caught up")
        yield primary, standby
    finally:
        for server in servers:
            server.remove()


def position(server: MariaDb) -> str:
    return str(server.ask("SELECT @@gtid_current_pos AS at")[0]["at"])


def losses_of(primary: MariaDb, standby: MariaDb, notes: Path, *, waits: bool) -> Losses:
    """Write into the primary, part it from its standby, kill it some tries later; judge the standby by the ledger."""
    password_file = notes.with_name("password")
    password_file.write_text(APP_PASSWORD)
    words = [primary.address, "--port", str(primary.port), "--password-file", str(password_file)]
    words += ["--ca-file", str(primary.tls.ca)]
    command = [sys.executable, str(SCRIPT), *words, "--prefix", "k", "--by", "primary"]
    with Writing(command, notes, "k") as writing:
        wait_for(lambda: writing.acknowledged_since(0.0) >= 20, "writes are acknowledged")
        if not waits:
            primary.ask("SET GLOBAL rpl_semi_sync_master_enabled = 0")
        standby.ask("STOP SLAVE IO_THREAD")
        parted = time.time()
        wait_for(
            lambda: sum(one.began > parted for one in writing.tries()) >= 8, "writes are tried with nobody in sync"
        )
        assert bool(writing.acknowledged_since(parted)) is not waits
        primary.kill()
    wait_for(lambda: has_applied_all(standby), "the standby has applied what it has")
    found = standby.ask("SELECT request_key, id FROM listings.listings")
    rows = rows_of("".join(f"{row['request_key']}\t{row['id']}\t0\n" for row in found))
    assert len(rows) >= 20
    return losses(writing.tries(), rows)


def has_applied_all(standby: MariaDb) -> bool:
    return "has read all relay log" in standby.ask("SHOW SLAVE STATUS")[0]["Slave_SQL_Running_State"]


def test_a_primary_that_waits_for_its_standby_loses_nothing(pair: tuple[MariaDb, MariaDb], tmp_path: Path) -> None:
    assert losses_of(*pair, tmp_path / "notes", waits=True) == Losses()


def test_the_checker_finds_what_a_primary_that_waits_for_nobody_loses(
    pair: tuple[MariaDb, MariaDb], tmp_path: Path
) -> None:
    found = losses_of(*pair, tmp_path / "notes", waits=False)
    assert len(found.lost) >= 1
    assert found.doubled == ()
    assert "were acknowledged and are lost" in found.troubles()[0]
