"""The attendant: one action at a time, and news only."""

from __future__ import annotations

import queue
import socket
import threading
from dataclasses import replace

import pytest

from orchestrator.node.replication.attendant import POST_ANYWAY_S, READ_EVERY_S, Attendant, DataReading
from orchestrator.node.replication.server import NotInTime, Server, ServerAway
from tests.unit.node.replication.told_server import ToldServer


class Attended:
    """An attendant whose turns the test takes, with its server, and what it posted."""

    def __init__(self) -> None:
        self.server = ToldServer()
        self.posted: list[DataReading] = []
        self.full = ""
        self.attendant = Attendant(
            "database", lambda: self.server, lambda: self.full, self.posted.append, clock=lambda: 7.0
        )

    def turn(self) -> list[DataReading]:
        """One turn; returns what it posted."""
        del self.posted[:]
        self.attendant.attend(self.server)
        return list(self.posted)


@pytest.fixture
def attended() -> Attended:
    return Attended()


def test_a_reading_is_posted_when_something_changed_or_it_is_time(attended: Attended) -> None:
    facts = attended.server.facts
    assert attended.turn() == [DataReading("database", facts)]
    attended.server.facts = replace(facts, at=0.25)
    assert attended.turn() == [], "time alone is no news"
    attended.server.facts = replace(facts, at=0.5, waiting=1)
    assert [each.facts.waiting for each in attended.turn()] == [1]
    attended.server.facts = replace(facts, at=0.5 + POST_ANYWAY_S, waiting=1)
    assert len(attended.turn()) == 1


def test_what_does_not_change_is_read_half_as_often_and_what_does_not_answer_is_not(attended: Attended) -> None:
    facts = attended.server.facts
    assert attended.attendant.attend(attended.server) == READ_EVERY_S
    attended.server.facts = replace(facts, at=0.25)
    assert attended.attendant.attend(attended.server) == 2 * READ_EVERY_S
    attended.server.facts = replace(facts, at=0.75, position="0-1-7")
    assert attended.attendant.attend(attended.server) == READ_EVERY_S
    attended.server.trouble["read"] = ServerAway("it does not answer")
    assert [attended.attendant.attend(attended.server) for _ in range(3)] == [READ_EVERY_S] * 3


def test_a_server_that_ends_the_connection_is_read_at_once() -> None:
    server, posted = ToldServer(), queue.SimpleQueue[DataReading]()
    server.connection, far_end = socket.socketpair()
    attendant = Attendant("database", lambda: server, str, posted.put, read_every_s=3600.0)
    attendant.start()
    assert posted.get(timeout=10.0).facts.answers
    server.trouble["read"] = ServerAway("it is dead")
    far_end.close()
    assert posted.get(timeout=10.0).facts.problem == "it is dead"
    server.connection = None
    attendant.stop()


def test_an_action_is_announced_done_and_followed_by_a_reading(attended: Attended) -> None:
    attended.turn()
    assert attended.attendant.do("promotion", lambda server: server.promote("0-1-5", 2.0))
    assert attended.attendant.busy == "promotion"
    assert [(each.busy, each.did, each.failed) for each in attended.turn()] == [
        ("promotion", None, None),
        (None, "promotion", None),
    ]
    assert attended.server.told == ["promote 0-1-5 2.0"]
    assert attended.attendant.busy is None
    assert attended.turn() == [], "what was done is told once"


def test_a_second_action_is_refused_while_one_waits_or_goes_on(attended: Attended) -> None:
    refused: list[bool] = []

    def first(server: Server) -> None:
        refused.append(attended.attendant.do("third", Server.open_writes))

    assert attended.attendant.do("first", first)
    assert not attended.attendant.do("second", Server.open_writes)
    attended.turn()
    assert refused == [False]
    assert attended.server.told == []
    assert attended.attendant.do("fourth", lambda server: server.open_writes())


@pytest.mark.parametrize("problem", [NotInTime("it is behind"), ServerAway("it is behind")])
def test_an_action_that_fails_says_why(attended: Attended, problem: Exception) -> None:
    attended.server.trouble["follow"] = problem
    attended.attendant.do("following", lambda server: server.follow("10.0.0.1"))
    assert [(each.did, each.failed) for each in attended.turn()][-1] == (None, "it is behind")
    assert attended.attendant.busy is None


def test_a_server_that_is_away_is_told_as_no_answer(attended: Attended) -> None:
    attended.server.trouble["read"] = ServerAway("it does not answer")
    (reading,) = attended.turn()
    assert (reading.facts.answers, reading.facts.problem, reading.facts.at) == (False, "it does not answer", 7.0)


def test_a_disk_that_is_full_is_told_once_whether_the_server_answers_or_not(attended: Attended) -> None:
    attended.turn()
    attended.full = "the disk is full"
    assert [(each.facts.answers, each.facts.full) for each in attended.turn()] == [(True, "the disk is full")]
    assert attended.turn() == []
    attended.server.trouble["read"] = ServerAway("it hangs")
    assert [(each.facts.answers, each.facts.full) for each in attended.turn()] == [(False, "the disk is full")]


def test_a_bug_in_an_action_ends_neither_the_thread_nor_the_readings(
    attended: Attended, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(server: Server) -> None:
        raise KeyError("x")

    attended.attendant.do("a broken action", broken)
    assert attended.turn()[-1].failed == "a broken action broke off: KeyError('x')"
    assert "broke off" in caplog.text


def test_the_thread_does_an_action_at_once_and_ends_when_told() -> None:
    server, done = ToldServer(), threading.Event()
    attendant = Attendant(
        "database", lambda: server, str, lambda reading: done.set() if reading.did else None, read_every_s=3600.0
    )
    attendant.start()
    attendant.do("opening", lambda its: its.open_writes())
    assert done.wait(10.0)
    attendant.stop()
    assert server.told == ["open_writes", "close"]
