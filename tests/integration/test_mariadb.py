"""A pair of real MariaDB servers, handled as guards do."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator

import pymysql
import pytest

from orchestrator.domain.gtid import holds
from orchestrator.node.replication.attendant import Attendant, DataReading
from orchestrator.node.replication.facts import ServerFacts
from orchestrator.node.replication.mariadb import MariaDbServer
from orchestrator.node.replication.server import NotInTime, ServerAway
from tests.integration.database_pair import CONNECTION_LOST, READ_ONLY, Commit, Pair, numbers, read_until
from tests.integration.mariadb_server import Datadirs
from tests.integration.waiting import WAIT_S, wait_for


@pytest.fixture
def pair(datadirs: Datadirs) -> Iterator[Pair]:
    pair = Pair(datadirs)
    try:
        pair.start()
        yield pair
    finally:
        pair.close()


def test_a_new_standby_follows_and_catches_up(pair: Pair) -> None:
    pair.write(1)
    pair.guard_b.follow(pair.a.address)
    position = pair.guard_a.read().position
    facts = read_until(pair.guard_b, lambda facts: holds(facts.position, position), "B has caught up")
    assert numbers(pair.b) == [1]
    assert not facts.writable
    assert facts.replica is not None
    assert (facts.replica.source, facts.replica.errno) == (pair.a.address, 0)
    assert pair.guard_b.position_of(pair.a.address) == position


def test_following_again_changes_nothing(pair: Pair) -> None:
    pair.follow()
    threads = "SELECT ID FROM information_schema.PROCESSLIST WHERE COMMAND IN ('Slave_IO', 'Slave_SQL') ORDER BY ID"
    before = pair.b.ask(threads)
    pair.guard_b.follow(pair.a.address)
    assert len(before) == 2
    assert pair.b.ask(threads) == before


def test_a_standby_that_has_joined_is_waited_for_by_every_commit(pair: Pair) -> None:
    pair.join()
    facts = pair.guard_a.read()
    assert (facts.waits_for_replica, facts.replicas, facts.proven) == (True, 1, pair.b.address)
    pair.write(1)
    assert pair.guard_a.read().acknowledged > facts.acknowledged
    pair.lose_replica()
    (commit,) = pair.waiting_commits(2)
    assert not commit.is_over
    assert numbers(pair.a) == [1], "what is not acknowledged is not seen by others"
    pair.guard_b.follow(pair.a.address)
    assert commit.wait().acknowledged, "the standby is back and has it"
    pair.guard_b.promote(None, WAIT_S)
    assert numbers(pair.b) == [1, 2]


def test_commits_go_on_alone_once_they_are_told_not_to_wait(pair: Pair) -> None:
    pair.join()
    pair.lose_replica()
    (commit,) = pair.waiting_commits(1)
    pair.guard_a.wait_for_replica(False)
    assert commit.wait().acknowledged
    facts = pair.guard_a.read()
    assert (facts.waits_for_replica, facts.proven) == (False, None)


def test_a_standby_that_does_not_apply_does_not_join(pair: Pair) -> None:
    pair.follow()
    pair.b.ask("STOP SLAVE SQL_THREAD")
    pair.write(1)
    with pytest.raises(NotInTime, match=r"behind"):
        pair.guard_a.join_replica(pair.b.address, 0.5)
    assert not pair.guard_a.read().waits_for_replica
    pair.write(2)


def test_a_standby_that_has_everything_and_receives_no_more_does_not_join(pair: Pair) -> None:
    pair.join()
    pair.guard_a.wait_for_replica(False)
    pair.lose_replica()
    with pytest.raises(NotInTime, match="does not acknowledge"):
        pair.guard_a.join_replica(pair.b.address, 0.5)
    assert not pair.guard_a.read().waits_for_replica
    pair.write(1)


def test_a_standby_that_hangs_while_it_joins_holds_nothing_up(pair: Pair) -> None:
    pair.join()
    pair.guard_a.wait_for_replica(False)
    pair.b.freeze()
    with pytest.raises(NotInTime):
        pair.guard_a.join_replica(pair.b.address, 0.5)
    assert not pair.guard_a.read().waits_for_replica
    pair.write(1)


def test_a_commit_that_waits_is_not_ended_since_that_acknowledges_others_and_keeps_writes_from_being_closed(
    pair: Pair,
) -> None:
    pair.join()
    pair.lose_replica()
    # The first is written alone, what comes while it waits together: ending one of those would acknowledge the others.
    commits = [*pair.waiting_commits(1), *pair.waiting_commits(2, 3, 4, 5, 6, 7, 8)]
    before = pair.guard_a.read().position
    for _ in range(3):
        with pytest.raises(NotInTime, match="a commit waits for the standby"):
            pair.guard_a.close_writes(1.0)
    assert [commit.is_over for commit in commits] == [False] * 8
    assert (pair.guard_a.read().writable, pair.guard_a.read().position) == (True, before)
    # What a guard does then.
    pair.a.kill()
    assert {commit.wait().error for commit in commits} == {CONNECTION_LOST}
    pair.a.start()
    facts = pair.guard_a.read()
    assert (facts.writable, facts.waiting, facts.waits_for_replica) == (False, 0, False)


def test_closing_lets_commits_end_and_ends_what_takes_longer_and_every_connection(pair: Pair) -> None:
    pair.join()
    idle, open_transaction = pair.a.client(), pair.a.client()
    open_transaction.begin()
    open_transaction.query("INSERT INTO t VALUES (1, 'x')")
    long = Commit(pair.a, 2, "SELECT 2, SLEEP(60)")
    sleeps = "SELECT 1 FROM information_schema.PROCESSLIST WHERE INFO LIKE %s AND STATE = 'User sleep'"
    wait_for(lambda: pair.a.ask(sleeps, "INSERT%"), "the long statement runs")
    began = time.monotonic()
    pair.guard_a.close_writes(2.0)
    print(f"closed in {(time.monotonic() - began) * 1000:.0f} ms with a long statement")
    assert long.wait().error == CONNECTION_LOST
    for connection in (idle, open_transaction):
        with pytest.raises(pymysql.MySQLError):
            connection.query("COMMIT")
    assert numbers(pair.a) == []
    assert not pair.guard_a.read().writable


def test_closing_ends_within_its_time_under_load_and_nothing_is_acknowledged_afterwards(pair: Pair) -> None:
    stopped, closed_at, acknowledged_after = threading.Event(), [float("inf")], []

    def write_on(first: int) -> None:
        number = first
        while not stopped.is_set():
            try:
                with pair.a.client() as connection:
                    while True:
                        number += 1
                        asked_at = time.monotonic()
                        connection.query(f"INSERT INTO t VALUES ({number}, 'x')")
                        if asked_at > closed_at[0]:
                            acknowledged_after.append(number)
            except pymysql.MySQLError:
                stopped.wait(0.01)

    writers = [threading.Thread(target=write_on, args=(part * 1_000_000,), daemon=True) for part in range(4)]
    for writer in writers:
        writer.start()
    wait_for(lambda: len(numbers(pair.a)) > 50, "the writers write")
    pair.guard_a.close_writes(2.0)
    closed_at[0] = time.monotonic()
    there = numbers(pair.a)
    position = pair.guard_a.read().position
    with pytest.raises(pymysql.MySQLError, match="read-only"), pair.a.client() as connection:
        connection.query("INSERT INTO t VALUES (-1, 'x')")
    stopped.set()
    for writer in writers:
        writer.join(WAIT_S)
    assert (numbers(pair.a), pair.guard_a.read().position, acknowledged_after) == (there, position, [])


def test_closing_that_was_given_no_time_says_so_and_can_be_tried_again(pair: Pair) -> None:
    # Some time is always given: without a server that hangs it might be enough.
    pair.a.freeze()
    with pytest.raises((NotInTime, ServerAway)):
        pair.guard_a.close_writes(0.0)
    pair.a.thaw()
    pair.guard_a.open_writes()
    pair.write(1)
    pair.guard_a.close_writes(2.0)
    assert not pair.guard_a.read().writable


def test_the_application_cannot_write_to_a_server_that_is_read_only(pair: Pair) -> None:
    pair.follow()
    assert Commit(pair.b, 1).wait().error == READ_ONLY
    pair.a.stop()
    pair.a.start()
    assert Commit(pair.a, 1).wait().error == READ_ONLY, "a restart leaves no server writable"


def test_promotion_applies_all_that_was_received(pair: Pair) -> None:
    pair.join()
    pair.write(1)
    locked = pair.b.admin()
    locked.query("LOCK TABLES listings.t WRITE")
    for number in range(2, 30):
        pair.write(number)
    facts = pair.guard_b.read()
    assert facts.replica is not None
    assert not facts.replica.drained
    pair.a.kill()
    threading.Timer(0.5, locked.query, ("UNLOCK TABLES",)).start()
    began = time.monotonic()
    pair.guard_b.promote(None, WAIT_S)
    print(f"promoted in {time.monotonic() - began:.2f} s, 0.5 s of them behind a lock")
    assert numbers(pair.b) == list(range(1, 30))
    facts = pair.guard_b.read()
    assert (facts.replica, facts.writable) == (None, False)
    pair.guard_b.open_writes()
    assert Commit(pair.b, 30).wait().acknowledged


def test_applying_that_was_stopped_is_taken_up_before_receiving_ends(pair: Pair) -> None:
    pair.join()
    pair.b.ask("STOP SLAVE SQL_THREAD")
    for number in range(1, 10):
        pair.write(number)
    pair.guard_b.promote(None, WAIT_S)
    assert numbers(pair.b) == list(range(1, 10))


def test_a_copy_whose_threads_are_both_stopped_is_not_promoted_without_what_it_received(pair: Pair) -> None:
    pair.join()
    pair.b.ask("STOP SLAVE SQL_THREAD")
    pair.write(1)
    pair.b.ask("STOP SLAVE IO_THREAD")
    with pytest.raises(NotInTime, match="cannot be applied"):
        pair.guard_b.promote(None, 1.0)
    pair.guard_b.follow(pair.a.address)
    position = pair.guard_a.read().position
    read_until(pair.guard_b, lambda facts: holds(facts.position, position), "it is fetched again")
    assert numbers(pair.b) == [1]


def test_promotion_in_too_little_time_leaves_a_copy_that_can_be_promoted_later(pair: Pair) -> None:
    pair.join()
    with pair.b.admin() as locked:
        locked.query("LOCK TABLES listings.t WRITE")
        pair.write(1)
        pair.a.kill()
        with pytest.raises(NotInTime, match="not applied in time"):
            pair.guard_b.promote(None, 0.5)
        facts = pair.guard_b.read()
        assert facts.replica is not None
        assert (facts.replica.applies, facts.replica.source) == (True, pair.a.address)
    pair.guard_b.promote(None, WAIT_S)
    assert numbers(pair.b) == [1]


def test_a_copy_is_not_promoted_without_the_position_that_it_must_have(pair: Pair) -> None:
    pair.follow()
    pair.write(1)
    position = pair.guard_a.read().position
    domain, server, sequence = position.split("-")
    read_until(pair.guard_b, lambda facts: holds(facts.position, position), "B has caught up")
    with pytest.raises(NotInTime, match="2 transactions"):
        pair.guard_b.promote(f"{domain}-{server}-{int(sequence) + 2}", 0.5)
    assert pair.guard_b.read().replica is not None, "it still is a copy"
    pair.guard_b.promote(position, 2.0)
    assert pair.guard_b.read().replica is None


def test_a_planned_switch_loses_nothing_and_the_old_primary_follows_without_a_clone(pair: Pair) -> None:
    pair.join()
    pair.write(1)
    began = time.monotonic()
    pair.guard_a.close_writes(2.0)
    position = pair.guard_a.read().position
    pair.guard_b.promote(position, 2.0)
    pair.guard_b.open_writes()
    print(f"writes were paused for {(time.monotonic() - began) * 1000:.0f} ms")
    assert Commit(pair.b, 2).wait().acknowledged
    pair.guard_a.follow(pair.b.address)
    wait_for(lambda: numbers(pair.a) == [1, 2], "A has what B took")
    facts = pair.guard_a.read()
    assert facts.replica is not None
    assert (facts.replica.needs_clone, facts.waits_for_replica, facts.writable) == (False, False, False)
    pair.guard_a.acknowledge(pair.b.address, WAIT_S)
    read_until(pair.guard_b, lambda facts: facts.replicas == 1, "A acknowledges")
    pair.guard_b.join_replica(pair.a.address, WAIT_S)
    assert Commit(pair.b, 3).wait().acknowledged, "and back again"
    pair.guard_b.close_writes(2.0)
    pair.guard_a.promote(pair.guard_b.read().position, 2.0)
    pair.guard_a.open_writes()
    pair.guard_b.follow(pair.a.address)
    pair.write(4)
    wait_for(lambda: numbers(pair.b) == [1, 2, 3, 4], "B has what A took")


def test_an_old_primary_with_transactions_that_nobody_else_has_needs_a_clone(pair: Pair) -> None:
    pair.join()
    pair.write(1)
    pair.lose_replica()
    pair.waiting_commits(99)
    pair.guard_b.promote(None, 2.0)
    pair.guard_b.open_writes()
    assert Commit(pair.b, 2).wait().acknowledged
    with pytest.raises(NotInTime):
        pair.guard_a.follow(pair.b.address)
    pair.a.kill()
    pair.a.start()
    pair.guard_a.follow(pair.b.address)

    def diverged(facts: ServerFacts) -> bool:
        return facts.replica is not None and facts.replica.needs_clone

    facts = read_until(pair.guard_a, diverged, "A is seen to have diverged")
    assert facts.replica is not None
    assert "which is not in the master's binlog" in facts.replica.error
    pair.guard_a.follow(pair.b.address)
    assert diverged(pair.guard_a.read()), "following again does not hide it"
    assert numbers(pair.a) == [1, 99], "nothing is discarded"


def test_a_hung_server_is_away_within_two_seconds(pair: Pair) -> None:
    pair.guard_a.read()
    pair.a.freeze()
    for guard in (pair.guard_a, MariaDbServer(pair.a.settings)):
        for call in (guard.read, guard.open_writes, lambda guard=guard: guard.close_writes(0.3)):
            began = time.monotonic()
            with pytest.raises((ServerAway, NotInTime)):
                call()
            assert time.monotonic() - began < 2.5, "2 s, and what a busy machine adds"
    pair.a.thaw()
    read_until(pair.guard_a, lambda facts: facts.answers, "it answers again")


def test_a_server_that_was_restarted_is_asked_again_without_a_failure(pair: Pair) -> None:
    pair.guard_a.read()
    pair.a.stop()
    with pytest.raises(ServerAway):
        pair.guard_a.read()
    pair.a.start()
    assert pair.guard_a.read().answers
    pair.a.stop()
    pair.a.start()
    assert pair.guard_a.read().answers, "the broken connection was replaced unseen"


def test_a_server_that_dies_is_noticed_without_being_asked(pair: Pair) -> None:
    posted: queue.SimpleQueue[DataReading] = queue.SimpleQueue()
    attendant = Attendant("database", lambda: MariaDbServer(pair.a.settings), str, posted.put, read_every_s=3600.0)
    attendant.start()
    assert posted.get(timeout=WAIT_S).facts.answers
    pair.a.kill()
    assert not posted.get(timeout=WAIT_S).facts.answers
    attendant.stop()


def test_a_standby_whose_source_hangs_is_promoted_without_waiting_for_it(pair: Pair) -> None:
    pair.join()
    pair.write(1)
    pair.a.freeze()
    began = time.monotonic()
    pair.guard_b.promote(None, 2.0)
    took_s = time.monotonic() - began
    print(f"promoted in {took_s * 1000:.0f} ms while the source hangs")
    assert took_s < 2.0
    assert numbers(pair.b) == [1]


def test_a_wrong_replication_password_is_told_and_mended_when_it_is_right_again(pair: Pair) -> None:
    password_file = pair.b.settings.replication_password_file
    right = password_file.read_text()
    password_file.write_text("wrong\n")
    pair.guard_b.follow(pair.a.address)
    facts = read_until(pair.guard_b, lambda facts: facts.replica is not None and facts.replica.errno != 0, "an error")
    assert facts.replica is not None
    assert (facts.replica.errno, facts.replica.needs_clone, facts.replica.receives) == (1045, False, False)
    assert "Access denied for user 'orch_replication'" in facts.replica.error
    password_file.write_text(right)
    pair.guard_b.follow(pair.a.address)
    read_until(pair.guard_b, lambda facts: facts.replica is not None and facts.replica.receives, "it receives")


def test_what_was_received_into_a_corrupt_relay_log_is_fetched_again(pair: Pair) -> None:
    pair.join()
    pair.write(1)
    pair.b.ask("STOP SLAVE SQL_THREAD")
    for number in range(2, 30):
        pair.write(number)
    newest = pair.b.relay_logs()[-1]
    raw = bytearray(newest.read_bytes())
    for at in range(len(raw) - 900, len(raw) - 700):
        raw[at] ^= 0xFF
    newest.write_bytes(raw)
    pair.b.ask("START SLAVE SQL_THREAD")
    facts = read_until(pair.guard_b, lambda facts: facts.replica is not None and facts.replica.errno != 0, "an error")
    assert facts.replica is not None
    assert (facts.replica.relay_log_corrupt, facts.replica.needs_clone) == (True, False)
    with pytest.raises(NotInTime, match="cannot be applied"):
        pair.guard_b.promote(None, 1.0)
    pair.guard_b.follow(pair.a.address)
    wait_for(lambda: numbers(pair.b) == list(range(1, 30)), "nothing is missing")


def test_a_standby_that_starts_anew_acknowledges_nothing_before_it_has_everything_again(pair: Pair) -> None:
    pair.join()
    assert pair.guard_b.read().acknowledges
    pair.b.ask("STOP SLAVE SQL_THREAD")
    pair.write(1)
    pair.b.kill()
    pair.b.start()
    facts = pair.guard_b.read()
    assert (facts.acknowledges, numbers(pair.b)) == (False, []), "what it had acknowledged is not here"
    with pytest.raises(NotInTime, match="nothing is received"):
        pair.guard_b.acknowledge(pair.a.address, 0.2)
    pair.follow()
    read_until(pair.guard_a, lambda facts: facts.replicas == 0, "nobody acknowledges")
    (commit,) = pair.waiting_commits(2)
    pair.acknowledge()
    assert pair.guard_b.read().acknowledges
    # What it received before is not acknowledged by itself, but with the next one.
    pair.write(3)
    assert commit.wait().acknowledged
    pair.a.kill()
    pair.guard_b.promote(None, WAIT_S)
    assert numbers(pair.b) == [1, 2, 3]


def test_a_standby_does_not_acknowledge_before_it_has_received_everything(pair: Pair) -> None:
    pair.write(1)
    pair.follow()
    pair.a.freeze()
    with pytest.raises((NotInTime, ServerAway)):
        pair.guard_b.acknowledge(pair.a.address, 0.2)
    assert not pair.guard_b.read().acknowledges
    pair.a.thaw()
    pair.acknowledge()


def test_a_row_that_differs_needs_a_clone(pair: Pair) -> None:
    pair.join()
    pair.b.ask("SET STATEMENT sql_log_bin = 0 FOR INSERT INTO listings.t VALUES (1, 'other')")
    pair.write(1)
    facts = read_until(pair.guard_b, lambda facts: facts.replica is not None and facts.replica.errno != 0, "an error")
    assert facts.replica is not None
    assert facts.replica.needs_clone
