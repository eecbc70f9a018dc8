"""One sink is told by whoever leads, on a Consul in memory: what is delivered, written down, and repeated."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable

import pytest

from orchestrator.backoff import pauses
from orchestrator.domain import keys
from orchestrator.domain.history import UNTOLD
from orchestrator.domain.records import HistoryEntry, Told
from orchestrator.domain.sinks import SinkPolicy
from orchestrator.notify.notice import Notice, Undelivered
from orchestrator.notify.teller import Overtaken, Teller
from orchestrator.store.port import CasPut, Unknown
from tests.fakes.fake_consul import FakeConsul
from tests.unit.notify.build import NOW, entry_of, sink_of

VM, OTHER = "messaging-server", "frontend-server"
SINK = sink_of(entries=["failover", UNTOLD])


class Stage:
    """A journal, a leader, and a sink that takes what it is given or does what `answers` say first."""

    def __init__(self) -> None:
        self.consul = FakeConsul([VM, OTHER])
        self.over = threading.Event()
        self.heard: list[str] = []
        self.tries = 0
        self.answers: list[Callable[[], None]] = []
        self.now = NOW
        self.session = self.lead(VM)
        self.put(keys.notified("ops"), Told(sink="ops", upto=0, at=NOW).to_json().encode())

    def put(self, key: str, value: bytes) -> None:
        self.consul.port(VM).txn((CasPut(key, value, 0),))

    def lead(self, vm: str) -> str:
        """Let the VM's controller lead and return its session; the one before has ended."""
        pair = self.consul.peek(keys.LEADER)
        port = self.consul.port(vm)
        if pair is not None and pair.session is not None:
            port.session_destroy(pair.session)
        session = port.session_create(f"orch-controller@{vm}", ())
        assert port.lock_acquire(keys.LEADER, b"", session)
        return session

    def journal(self, *entries: HistoryEntry) -> None:
        for entry in entries:
            self.put(keys.history(entry.id), entry.to_json().encode())

    def deliver(self, sink: SinkPolicy, notice: Notice) -> str:
        self.tries += 1
        if self.answers:
            self.answers.pop(0)()
        self.heard.append(notice.entry.id)
        return "taken"

    def teller(self, vm: str = VM, session: str | None = None) -> Teller:
        port = self.consul.port(vm)
        lead = session or self.session
        return Teller(port, lead, SINK, self.deliver, self.over, lambda: self.now, pauses(0.0))

    def cursor(self) -> Told:
        pair = self.consul.peek(keys.notified("ops"))
        assert pair is not None
        return Told.from_json(pair.value)

    def journalled(self, kind: str) -> list[str]:
        """Return the sentences of such entries."""
        every = [json.loads(pair.value) for pair in self.consul.peek_list(keys.HISTORY)]
        return [entry["reason"] for entry in every if entry["kind"] == kind]


@pytest.fixture
def stage() -> Stage:
    return Stage()


def refuse(why: str, *, is_final: bool = False) -> Callable[[], None]:
    def answer() -> None:
        raise Undelivered(why, is_final=is_final)

    return answer


def test_each_entry_is_delivered_and_written_down_once(stage: Stage) -> None:
    stage.journal(entry_of(1), entry_of(2, "endpoints"), entry_of(3))
    teller = stage.teller()
    teller.round()
    teller.round()
    assert stage.heard == [entry_of(1).id, entry_of(3).id]
    assert stage.cursor().entry == entry_of(3).id
    stage.journal(entry_of(4))
    teller.round()
    assert stage.heard[2:] == [entry_of(4).id]


def test_what_fails_is_tried_again_until_it_is_delivered(stage: Stage) -> None:
    stage.journal(entry_of(1), entry_of(2))
    stage.answers = [refuse("connection refused"), refuse("no answer in time")]
    stage.teller().round()
    assert (stage.tries, stage.heard) == (4, [entry_of(1).id, entry_of(2).id])
    assert stage.journalled(UNTOLD) == []


def test_what_no_other_try_would_help_is_given_up_at_once_and_journalled(stage: Stage) -> None:
    stage.journal(entry_of(1), entry_of(2))
    stage.answers = [refuse("the webhook answered 422", is_final=True)]
    teller = stage.teller()
    teller.round()
    assert stage.heard == [entry_of(2).id]
    assert stage.journalled(UNTOLD) == [f"ops was not told of the entry {entry_of(1).id}: the webhook answered 422."]


def test_what_has_grown_too_old_while_it_failed_is_given_up_and_journalled(stage: Stage) -> None:
    stage.journal(entry_of(1), entry_of(2))

    def hours_pass() -> None:
        stage.now += SINK.give_up_after_s
        raise Undelivered("connection refused")

    stage.answers = [refuse("connection refused"), hours_pass]
    stage.teller().round()
    assert stage.heard == []
    (sentence,) = stage.journalled(UNTOLD)
    assert sentence.startswith("ops was not told of 2 entries from ")
    assert sentence.endswith(": connection refused.")


def test_an_old_entry_that_can_be_delivered_is(stage: Stage) -> None:
    stage.journal(entry_of(1, at=NOW - 2 * SINK.give_up_after_s))
    stage.teller().round()
    assert stage.heard == [entry_of(1).id]


def test_the_next_leader_goes_on_where_the_last_one_stopped(stage: Stage) -> None:
    stage.journal(entry_of(1), entry_of(2))
    stage.teller().round()
    session = stage.lead(OTHER)
    stage.journal(entry_of(3))
    stage.teller(OTHER, session).round()
    assert stage.heard == [entry_of(1).id, entry_of(2).id, entry_of(3).id]


def test_a_leader_that_is_deposed_in_the_midst_writes_nothing_and_the_next_one_repeats_what_was_in_flight(
    stage: Stage,
) -> None:
    stage.journal(entry_of(1), entry_of(2), entry_of(3))
    sessions: list[str] = []
    stage.answers = [lambda: None, lambda: sessions.append(stage.lead(OTHER))]
    with pytest.raises(Overtaken):
        stage.teller().round()
    assert stage.cursor().entry == entry_of(1).id
    stage.teller(OTHER, sessions[0]).round()
    assert stage.heard == [entry_of(n).id for n in (1, 2, 2, 3)]


def test_nothing_is_told_twice_because_consul_did_not_answer(stage: Stage) -> None:
    stage.journal(entry_of(1), entry_of(2))

    def unanswered(node: str, operation: str, when: str) -> None:
        stage.consul.on_write = None
        raise Unknown("no answer")

    stage.answers = [lambda: setattr(stage.consul, "on_write", unanswered)]
    teller = stage.teller()
    with pytest.raises(Unknown):
        teller.round()
    teller.round()
    assert stage.heard == [entry_of(1).id, entry_of(2).id]
    assert stage.cursor().entry == entry_of(2).id


def test_a_stop_ends_the_tries(stage: Stage) -> None:
    stage.journal(entry_of(1))

    def stopped() -> None:
        stage.over.set()
        raise Undelivered("connection refused")

    stage.answers = [stopped]
    stage.teller().run()
    assert (stage.tries, stage.heard, stage.cursor().entry) == (1, [], "")


def test_an_error_of_the_program_does_not_end_it(stage: Stage) -> None:
    stage.journal(entry_of(1))

    def bug() -> None:
        raise RuntimeError("a bug")

    stage.answers = [bug, stage.over.set]
    stage.teller().run()
    assert stage.heard == [entry_of(1).id]


def test_an_entry_that_cannot_be_read_holds_up_nobody(stage: Stage) -> None:
    stage.put(keys.history("0000000000001-x"), b"nonsense")
    stage.journal(entry_of(2))
    stage.teller().round()
    assert stage.heard == [entry_of(2).id]


def test_a_leader_that_does_not_know_yet_that_it_is_deposed_tells_nobody(stage: Stage) -> None:
    stage.journal(entry_of(1))
    stage.lead(OTHER)
    with pytest.raises(Overtaken):
        stage.teller().round()
    assert stage.heard == []
