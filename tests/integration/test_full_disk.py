"""A disk that is full, of the primary or of the standby: it is told, and nothing that was acknowledged is lost."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import count

import pytest

from orchestrator.node.replication.disk import full_disk
from orchestrator.node.replication.facts import ServerFacts
from orchestrator.node.replication.server import NotInTime
from orchestrator.node.replication.sql import MARIADB
from tests.integration.database_pair import CONNECTION_LOST, Commit, Pair, numbers, read_until
from tests.integration.mariadb_server import Datadirs
from tests.integration.waiting import WAIT_S, wait_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a disk needs root")

DISK_BYTES = 128 << 20


@pytest.fixture
def pair(datadirs: Datadirs) -> Iterator[Pair]:
    """Two servers that are not started yet."""
    pair = Pair(datadirs)
    try:
        yield pair
    finally:
        pair.close()


def follows(facts: ServerFacts) -> bool:
    return facts.replica is not None and facts.replica.receives and facts.replica.drained


def write_until(pair: Pair, hangs: Callable[[], bool]) -> tuple[Commit, list[int]]:
    """Write until a commit hangs; return it, and what was acknowledged before. A block has room for a few."""
    written: list[int] = []
    for number in count(2):
        commit = Commit(pair.a, number)
        wait_for(lambda commit=commit: commit.is_over or hangs(), "a commit ends or hangs")
        if not commit.is_over:
            return commit, written
        assert commit.acknowledged
        written.append(number)
    raise AssertionError


def test_a_primary_on_a_full_disk_acknowledges_nothing_more_and_follows_when_there_is_room(pair: Pair) -> None:
    disk = pair.a.on_small_disk(DISK_BYTES)
    pair.start()
    pair.join()
    pair.write(1)
    assert full_disk(pair.a.settings.datadir) == ""
    disk.fill()
    hung, written = write_until(
        pair, lambda: any(row["STATE"] == MARIADB.waits_for_room for row in pair.a.ask(MARIADB.sessions))
    )
    assert full_disk(disk.folder) == f"the disk that holds {disk.folder} is full"
    assert pair.guard_a.read().answers, "only who looks at the disk learns of it"
    with pytest.raises(NotInTime, match="only the end of the server"):
        pair.guard_a.close_writes(2.0)
    assert not hung.is_over
    # So the lease has its processes killed.
    pair.a.kill()
    assert hung.wait().error == CONNECTION_LOST
    pair.guard_b.promote(None, WAIT_S)
    pair.guard_b.open_writes()
    assert numbers(pair.b) == [1, *written]
    disk.free()
    pair.a.start()
    pair.guard_a.follow(pair.b.address)
    assert Commit(pair.b, 1000).wait().acknowledged
    wait_for(lambda: numbers(pair.a) == [1, *written, 1000], "it follows, and nothing of its own is left")


def test_without_a_standby_on_a_full_disk_the_primary_goes_on_alone_and_nothing_is_missing_afterwards(
    pair: Pair,
) -> None:
    disk = pair.b.on_small_disk(DISK_BYTES)
    pair.start()
    pair.join()
    pair.write(1)
    disk.fill()
    hung, written = write_until(pair, lambda: pair.guard_a.read().waiting > 0)
    assert full_disk(disk.folder) == f"the disk that holds {disk.folder} is full"
    # Whether its server answers meanwhile depends on which of its threads has met the full disk.
    # As the guard does, once it has recorded that nobody is in sync.
    pair.guard_a.wait_for_replica(False)
    assert hung.wait().acknowledged
    pair.write(1000)
    disk.free()
    pair.b.kill()
    pair.b.start()
    pair.join()
    read_until(pair.guard_b, follows, "it follows")
    assert numbers(pair.b) == numbers(pair.a) == [1, *written, hung.number, 1000]
