"""Watching: what counts as news, what is known, and how a watcher goes on after trouble."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeAlias

import pytest

from orchestrator.observe.watch import CHECKS, Data, Observed, Snapshot, Source, Watch, checks_source, pulse_source
from orchestrator.store.port import Check, KvPair, Port, Unknown
from tests.fakes.fake_consul import FakeConsul

Answer: TypeAlias = "tuple[int, Data] | Exception"
WITHIN_S = 10.0
A, B = KvPair("orch/a", b"1", 5), KvPair("orch/a", b"2", 6)


class ScriptedAgent:
    """Gives scripted answers, one per query, then blocks until the test is over. Notes what it was asked with."""

    def __init__(self, *answers: Answer) -> None:
        self.asked: list[int] = []
        self.drained = threading.Event()
        self._answers = list(answers)
        self._over = threading.Event()

    def read(self, port: Port, index: int, wait_s: float) -> tuple[int, Data]:
        """Be a `Source.read`."""
        self.asked.append(index)
        if not self._answers:
            self.drained.set()
            self._over.wait(WITHIN_S)
            raise Unknown("the test is over")
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        """Let a blocked query go."""
        self._over.set()


@pytest.fixture
def watching() -> Iterator[Callable[[ScriptedAgent], Observed]]:
    """Watch one source that a scripted agent answers, until the test is over."""
    stop = threading.Event()
    agents: list[ScriptedAgent] = []

    def start(agent: ScriptedAgent) -> Observed:
        agents.append(agent)
        observed = Observed(["a"])
        port = FakeConsul(["vm-1"]).port("vm-1")
        Watch(lambda stale: port, observed, [Source("a", agent.read, swift=False)], stop).start()
        return observed

    yield start
    stop.set()
    for agent in agents:
        agent.close()


def settled(observed: Observed, agent: ScriptedAgent) -> Snapshot:
    """Return the snapshot after the agent gave all its answers."""
    assert agent.drained.wait(WITHIN_S)
    return observed.snapshot()


Watching: TypeAlias = "Callable[[ScriptedAgent], Observed]"


def test_before_the_first_answer_nothing_is_known() -> None:
    snapshot = Observed(["a", "b"]).snapshot()
    assert (snapshot.known, snapshot.complete, snapshot.pairs) == (False, False, ())
    assert snapshot.unknown_because == "a: not heard of yet; b: not heard of yet"


def test_an_answer_is_news_and_its_index_is_asked_for_next(watching: Watching) -> None:
    agent = ScriptedAgent((5, (A,)), (6, (B,)))
    snapshot = settled(watching(agent), agent)
    assert (snapshot.known, snapshot.pairs, snapshot.version) == (True, (B,), 2)
    assert agent.asked == [0, 5, 6]


def test_equal_data_is_no_event(watching: Watching) -> None:
    agent = ScriptedAgent((5, (A,)), (9, (A,)), (12, (A,)))
    assert settled(watching(agent), agent).version == 1
    assert agent.asked == [0, 5, 9, 12]


def test_an_index_that_goes_back_starts_over_from_zero_and_the_new_answer_counts(watching: Watching) -> None:
    agent = ScriptedAgent((9, (B,)), (3, ()), (3, (A,)))
    assert settled(watching(agent), agent).pairs == (A,)
    assert agent.asked == [0, 9, 0, 3]


def test_after_an_error_an_agent_that_is_behind_is_not_taken_for_one_that_was_restored() -> None:
    """First the agent was only behind, then Consul was restored."""
    answers: dict[str, list[Answer]] = {
        "copy": [(7, (A,)), Unknown("no leader"), (3, ()), (9, (B,)), (4, ()), (5, (A,))],
        "leader": [Unknown("no leader yet"), (8, (B,)), (4, ())],
    }
    over, told = threading.Event(), []
    cluster = FakeConsul(["vm-1"])
    ports = {stale: cluster.port("vm-1") for stale in (True, False)}

    def read(port: Port, index: int, wait_s: float) -> tuple[int, Data]:
        way = "copy" if port is ports[True] else "leader"
        told.append((way, index, observed.snapshot().known, observed.snapshot().pairs))
        if not answers[way]:
            over.set()
            stop.wait(WITHIN_S)
            raise Unknown("the test is over")
        answer = answers[way].pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    observed, stop = Observed(["a"]), threading.Event()
    Watch(ports.__getitem__, observed, [Source("a", read, swift=False)], stop).start()
    assert over.wait(WITHIN_S)
    stop.set()
    assert told == [
        ("copy", 0, False, ()),
        ("copy", 7, True, (A,)),
        ("copy", 0, False, (A,)),
        ("leader", 0, False, (A,)),  # what the agent that was behind has said does not count
        ("leader", 0, False, (A,)),
        ("copy", 8, True, (B,)),
        ("copy", 9, True, (B,)),
        ("leader", 0, True, (B,)),
        ("copy", 4, True, ()),  # the leader says so too: the past is another
        ("copy", 5, True, (A,)),
    ]


def test_an_index_of_zero_does_not_make_the_watcher_ask_without_blocking(watching: Watching) -> None:
    agent = ScriptedAgent((0, (A,)), (0, (A,)))
    settled(watching(agent), agent)
    assert agent.asked[:2] == [0, 1]


def test_while_a_source_cannot_be_read_its_last_data_stay_and_are_said_to_be_unknown(watching: Watching) -> None:
    agent = ScriptedAgent((5, (A,)), Unknown("no leader"), Unknown("no leader"))
    observed = watching(agent)
    snapshot = settled(observed, agent)
    assert (snapshot.known, snapshot.complete, snapshot.pairs) == (False, True, (A,))
    assert snapshot.unknown_because == "a: no leader"


def test_after_an_error_the_watcher_asks_from_zero_and_the_same_data_are_known_again(watching: Watching) -> None:
    agent = ScriptedAgent((5, (A,)), Unknown("no leader"), (5, (A,)))
    snapshot = settled(watching(agent), agent)
    assert (snapshot.known, snapshot.pairs, snapshot.version) == (True, (A,), 3)
    assert agent.asked == [0, 5, 0, 5]


def test_a_watcher_that_dies_of_a_bug_is_unknown_until_it_has_started_again(watching: Watching) -> None:
    agent = ScriptedAgent((5, (A,)), RuntimeError("a bug"), (5, (A,)))
    observed = watching(agent)
    snapshot = observed.wait(0, WITHIN_S)
    while snapshot.known:
        snapshot = observed.wait(snapshot.version, WITHIN_S)
    assert snapshot.unknown_because == "a: its watcher died: RuntimeError: a bug"
    assert settled(observed, agent).known
    assert agent.asked == [0, 5, 0, 5]


def test_of_two_ways_the_higher_index_counts_and_the_later_way_is_no_event() -> None:
    observed = Observed(["a"])
    assert observed.learn("a", 5, (A,))
    assert observed.learn("a", 6, (B,), swift=True)
    assert not observed.learn("a", 5, (A,))
    assert not observed.learn("a", 6, (B,))
    assert observed.snapshot().pairs == (B,)


def test_the_swift_way_alone_never_makes_a_source_known() -> None:
    observed = Observed(["a"])
    observed.learn("a", 6, (B,), swift=True)
    assert (observed.snapshot().known, observed.snapshot().pairs) == (False, (B,))
    assert observed.learn("a", 5, (A,))
    assert (observed.snapshot().known, observed.snapshot().pairs) == (True, (B,))


def test_a_reading_anew_replaces_what_has_a_higher_index() -> None:
    observed = Observed(["a"])
    observed.learn("a", 900, (B,))
    assert observed.learn("a", 5, (A,), anew=True)
    assert observed.snapshot().pairs == (A,)


def test_what_a_passing_check_says_wakes_nobody_and_is_kept() -> None:
    stop = threading.Event()
    told = [
        Check("a", "orch-backend:probe", status, output, "orch-backend")
        for status, output in (("passing", "1"), ("passing", "2"), ("critical", "2"), ("critical", "3"))
    ]
    agent = ScriptedAgent(*((index, (check,)) for index, check in enumerate(told, start=5)))
    observed = Observed([CHECKS])
    versions: list[int] = []

    def read(port: Port, index: int, wait_s: float) -> tuple[int, Data]:
        versions.append(observed.snapshot().version)
        return agent.read(port, index, wait_s)

    port = FakeConsul(["vm-1"]).port("vm-1")
    Watch(lambda stale: port, observed, [replace(checks_source(), read=read, swift=False)], stop).start()
    assert settled(observed, agent).checks == (told[-1],)
    assert versions == [0, 1, 1, 2, 3]
    stop.set()
    agent.close()


def test_news_that_are_kept_back_are_shown_with_the_next() -> None:
    observed = Observed(["a"])
    observed.learn("a", 5, (A,), news_in=len)
    assert not observed.learn("a", 6, (B,), news_in=len)
    assert observed.snapshot().pairs == (B,)


def test_a_snapshot_does_not_change_with_what_is_learnt_later() -> None:
    observed = Observed(["a"])
    observed.learn("a", 5, (A,))
    before = observed.snapshot()
    observed.learn("a", 6, (B,))
    assert (before.pairs, before.pair("orch/a"), before.pair("orch/b")) == ((A,), A, None)


def test_waiting_ends_at_once_when_there_is_news_already_and_after_the_timeout_when_there_is_none() -> None:
    observed = Observed(["a"])
    observed.learn("a", 5, (A,))
    assert observed.wait(0, WITHIN_S).version == 1
    assert observed.wait(1, 0.01).version == 1


def test_a_poke_wakes_the_consumer() -> None:
    observed = Observed(["a"])
    threading.Timer(0.05, observed.poke).start()
    assert observed.wait(0, WITHIN_S).version == 1


def test_news_that_come_together_wake_the_consumer_once() -> None:
    observed = Observed(["a"])

    def burst() -> None:
        for index in range(1, 6):
            observed.learn("a", index, (KvPair("orch/a", b"%d" % index, index),))

    threading.Timer(0.02, burst).start()
    assert observed.wait(0, WITHIN_S, quiet_s=0.5, longest_quiet_s=2.0).version == 5


def test_the_pulse_is_lost_while_the_cluster_has_no_leader() -> None:
    cluster, stop = FakeConsul(["vm-1"]), threading.Event()
    port = cluster.port("vm-1")
    pulse = pulse_source(stop, every_s=0.01)
    assert pulse.read(port, 1, 60.0) == (1, ())
    cluster.quorum = False
    with pytest.raises(Unknown, match="no leader"):
        pulse.read(port, 1, 60.0)
