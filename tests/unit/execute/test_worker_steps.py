"""Workers on one fake Consul, step by step, without threads."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from orchestrator.dispatch.consumer import Delivery
from orchestrator.domain import keys
from orchestrator.domain.records import Command, CommandState, HistoryEntry, Record, Request, RequestKind
from orchestrator.domain.wire import message_of
from orchestrator.execute.claim import ForbiddenTransition, stepped
from orchestrator.metrics.worker import WorkerMetrics
from orchestrator.store.port import KvPair, Unknown
from orchestrator.store.sessions import worker_session
from orchestrator.worker_steps import ALIVE_CHECK, LEASE_S, LOCK_DELAY_S, Cycle, Seen, Worker
from tests.fakes.fake_consul import CRITICAL, PASSING, FakeConsul
from tests.fakes.fake_plays import CONTROLLER, OPERATOR, SENDERS, FakeMailbox, FakePlays
from tests.simulation.world import policy_document
from tests.unit.execute.build import a_command, an_assignment, running

A, B = "messaging-server", "frontend-server"
COMMAND = a_command()
EPOCH = 1000.0


class Desk:
    """One worker with everything around it."""

    def __init__(self, fleet: Fleet, vm: str) -> None:
        self.fleet, self.vm = fleet, vm
        self.plays, self.mailbox = FakePlays(), FakeMailbox()
        self.metrics = WorkerMetrics(lambda: self.worker.session is not None, lambda: self.worker.plays_in_hand)
        self.worker = Worker(
            fleet.consul.port(vm),
            self.plays,
            self.mailbox,
            vm,
            SENDERS,
            lambda: EPOCH + fleet.consul.now,
            self.metrics.note,
        )
        self.stale: tuple[KvPair, ...] | None = None
        """What the watch shows, where it lags."""

    def cycle(self, *, known: bool = True) -> Cycle:
        for event in self.plays.events:
            self.worker.take_play_event(event)
        self.plays.events.clear()
        consul = self.fleet.consul
        pairs = self.stale if self.stale is not None else consul.peek_list(keys.ROOT)
        sessions = None
        if known:
            _, sessions = consul.port(self.vm).session_list(self.vm)
        return self.worker.cycle(Seen(pairs, sessions, known), consul.now)

    def deliver(self, body: bytes, tag: int = 1, *, redelivered: bool = False, sender: str | None = None) -> Delivery:
        """Deliver a message, as one of whoever may send it unless it is said whose it is."""
        if sender is None:
            sender = CONTROLLER if b'"id"' in body else OPERATOR
        delivery = Delivery(1, tag, body, redelivered, sender)
        self.worker.take_message(delivery)
        return delivery


class Fleet:
    """Two VMs with workers, and what is in KV."""

    def __init__(self) -> None:
        self.consul = FakeConsul([A, B])
        for vm in (A, B):
            self.consul.set_check(vm, ALIVE_CHECK, PASSING)
        self.put(keys.assignment("backend"), an_assignment())
        self.a, self.b = Desk(self, A), Desk(self, B)
        self.a.cycle()
        self.b.cycle()

    def put(self, key: str, record: Record) -> None:
        self.consul.port(A).kv_put(key, record.to_json().encode())

    def command(self, command: Command = COMMAND) -> Command:
        pair = self.consul.peek(keys.command(command.id))
        assert pair is not None
        return Command.from_json(pair.value)

    def create(self, command: Command = COMMAND) -> bytes:
        self.put(keys.command(command.id), command)
        return message_of(command, 0.0)

    def requests(self) -> list[Request]:
        return [Request.from_json(pair.value) for pair in self.consul.peek_list(keys.REQUESTS)]

    def refused(self) -> list[HistoryEntry]:
        """What is left to the leader for the journal."""
        return [HistoryEntry.from_json(pair.value) for pair in self.consul.peek_list(keys.REFUSED)]

    def stop_worker(self, vm: str) -> None:
        """Its check fails, so its session ends."""
        self.consul.set_check(vm, ALIVE_CHECK, CRITICAL)


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


def test_a_command_goes_from_its_message_to_its_result(fleet: Fleet) -> None:
    delivery = fleet.a.deliver(fleet.create())
    fleet.a.cycle()
    claimed = fleet.command()
    assert (claimed.state, claimed.worker, claimed.attempt) == (CommandState.RUNNING, A, 1)
    assert fleet.a.mailbox.acked == []
    fleet.consul.now = 1.5
    fleet.a.plays.begin_task(COMMAND.id, "start node-app", EPOCH + 1.25)
    fleet.a.cycle()
    assert (fleet.command().task, fleet.command().first_task) == ("start node-app", EPOCH + 1.25)
    fleet.a.plays.end(COMMAND.id, tail=("ok",))
    fleet.a.cycle()
    done = fleet.command()
    assert (done.state, done.rc, done.tail, done.finished) == (CommandState.SUCCEEDED, 0, ("ok",), EPOCH + 1.5)
    assert fleet.consul.peek(keys.command(COMMAND.id)).session is None  # type: ignore[union-attr]
    assert fleet.a.mailbox.acked == [delivery]


def test_what_becomes_of_a_command_is_logged_with_all_that_it_can_be_found_by(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        fleet.a.deliver(fleet.create())
        fleet.a.cycle()
        fleet.a.plays.end(COMMAND.id)
        fleet.a.cycle()
    told = [record.__dict__ for record in caplog.records if record.__dict__.get("command") == COMMAND.id]
    assert len(told) == 2, "the claim and the result"
    assert {(each["service"], each["epoch"], each["request"]) for each in told} == {("backend", 7, COMMAND.request_id)}


def test_the_play_is_told_what_the_command_says(fleet: Fleet) -> None:
    fleet.a.deliver(fleet.create())
    fleet.a.cycle()
    order = fleet.a.plays.orders[0]
    assert order.playbook == "activate_backend.yml"
    assert order.variables == {
        "kind": "failover",
        "target": A,
        "failed_instance": "backend-server",
        "source": "",
        "leaves": "",
        "clone": "",
        "recovered_instance": "",
        "epoch": 7,
        "service": "backend",
        "unit": "node-app",
        "enable_at_boot": False,
        "command_id": COMMAND.id,
    }


def test_a_message_that_is_faster_than_the_watch_is_no_matter(fleet: Fleet) -> None:
    fleet.a.stale = fleet.consul.peek_list(keys.ROOT)
    fleet.put(keys.assignment("backend"), an_assignment(8))
    fleet.a.deliver(fleet.create(a_command(epoch=8)))
    fleet.a.cycle()
    assert fleet.command().state is CommandState.RUNNING
    fleet.consul.now = 1.0
    fleet.a.cycle()
    assert COMMAND.id in fleet.a.plays.running, "the lagging watch does not make it think that the lock was lost"


def test_a_failed_play_fails_the_command_with_the_line_that_says_why(fleet: Fleet) -> None:
    fleet.a.deliver(fleet.create())
    fleet.a.cycle()
    tail = ("TASK [start] ***", "fatal: [vm]: FAILED! => no such unit", "vm : ok=0 failed=1")
    fleet.a.plays.end(COMMAND.id, rc=2, tail=tail)
    fleet.a.cycle()
    done = fleet.command()
    assert done.state is CommandState.FAILED
    assert done.reason == "The play failed with exit status 2: fatal: [vm]: FAILED! => no such unit"


def test_of_two_workers_that_pick_up_a_command_one_runs_it(fleet: Fleet) -> None:
    fleet.create()
    for now in (0.0, 1.0):
        fleet.consul.now = now
        before = fleet.consul.peek_list(keys.ROOT)
        fleet.a.stale = fleet.b.stale = before
        fleet.a.cycle()
        fleet.b.cycle()
    assert [len(desk.plays.orders) for desk in (fleet.a, fleet.b)] == [1, 0]


def test_a_play_whose_epoch_is_superseded_is_stopped_and_recorded_so(fleet: Fleet) -> None:
    fleet.a.deliver(fleet.create())
    fleet.a.cycle()
    fleet.put(keys.assignment("backend"), an_assignment(8))
    fleet.a.cycle()
    fleet.a.cycle()
    assert fleet.a.plays.running == {}
    assert fleet.command().state is CommandState.SUPERSEDED


def test_a_cancelled_command_is_stopped_and_recorded_so(fleet: Fleet) -> None:
    fleet.a.deliver(fleet.create())
    fleet.a.cycle()
    fleet.put(keys.command(COMMAND.id), fleet.command().with_(cancel_requested=True))
    fleet.a.cycle()
    fleet.a.cycle()
    assert (fleet.command().state, fleet.command().rc) == (CommandState.CANCELLED, 254)


def test_a_cancellation_that_comes_with_the_result_does_not_lose_the_result(fleet: Fleet) -> None:
    fleet.a.deliver(fleet.create())
    fleet.a.cycle()
    fleet.put(keys.command(COMMAND.id), fleet.command().with_(cancel_requested=True))
    fleet.a.plays.end(COMMAND.id)
    fleet.a.cycle()
    assert (fleet.command().state, fleet.command().cancel_requested) == (CommandState.SUCCEEDED, True)


def test_another_worker_takes_over_after_the_lock_delay_and_not_before(fleet: Fleet) -> None:
    fleet.a.deliver(fleet.create())
    fleet.a.cycle()
    fleet.stop_worker(A)
    for now in (0.1, 1.0, LOCK_DELAY_S - 0.1):
        fleet.consul.now = now
        fleet.b.cycle()
        assert fleet.b.plays.orders == []
    fleet.consul.now = LOCK_DELAY_S + 0.5
    fleet.b.cycle()
    taken = fleet.command()
    assert (taken.worker, taken.attempt, len(fleet.b.plays.orders)) == (B, 2, 1)


def test_a_worker_that_lost_its_session_stops_its_play_and_writes_nothing(fleet: Fleet) -> None:
    fleet.a.deliver(fleet.create())
    fleet.a.cycle()
    fleet.stop_worker(A)
    fleet.a.cycle()
    fleet.a.cycle()
    assert (fleet.a.plays.running, fleet.a.worker.session) == ({}, None)
    assert fleet.command().state is CommandState.RUNNING


def test_an_old_session_of_the_worker_s_that_shows_up_late_is_ended(fleet: Fleet) -> None:
    """As after a loss of power: it would hold a command's lock for ever, and nobody else may end it."""
    late = fleet.consul.port(A).session_create(worker_session(A), (ALIVE_CHECK,))
    own = fleet.a.worker.session
    fleet.a.cycle()
    fleet.b.cycle()
    assert (fleet.consul.session_exists(late), fleet.a.worker.session) == (False, own)


def test_a_worker_that_is_not_sure_of_consul_stops_its_play_before_another_may_begin_it(fleet: Fleet) -> None:
    fleet.a.deliver(fleet.create())
    fleet.a.cycle()
    fleet.consul.now = LEASE_S - 0.1
    fleet.a.cycle(known=False)
    assert COMMAND.id in fleet.a.plays.running
    fleet.consul.now = LEASE_S + 0.1
    fleet.a.cycle(known=False)
    assert fleet.a.plays.running == {}


def test_a_worker_that_was_frozen_stops_its_play_first(fleet: Fleet) -> None:
    fleet.a.deliver(fleet.create())
    fleet.a.cycle()
    fleet.consul.now = 60.0
    fleet.a.cycle(known=True)
    assert fleet.a.plays.running == {}


def test_a_worker_that_is_sure_again_and_kept_its_session_runs_the_play_again(fleet: Fleet) -> None:
    fleet.a.deliver(fleet.create())
    fleet.a.cycle()
    fleet.consul.now = LEASE_S + 0.1
    fleet.a.cycle(known=False)
    fleet.a.cycle()
    fleet.a.cycle()
    assert COMMAND.id in fleet.a.plays.running


def test_a_command_that_three_workers_began_is_given_up(fleet: Fleet) -> None:
    fleet.create(running(attempt=3))
    fleet.a.cycle()
    assert fleet.command().state is CommandState.FAILED
    assert fleet.command().reason.endswith("is given up: 3 workers began it and went away.")


@pytest.mark.parametrize("stage", ["before", "after"])
def test_a_claim_of_unknown_outcome_is_found_out_and_the_play_runs_once(fleet: Fleet, stage: str) -> None:
    fleet.a.deliver(fleet.create())
    failures = iter([True])

    def fail_once(node: str, operation: str, at: str) -> None:
        if operation == "txn" and at == stage and next(failures, False):
            raise Unknown("the answer was lost")

    fleet.consul.on_write = fail_once
    fleet.a.cycle()
    assert fleet.a.plays.orders == []
    fleet.consul.now = 0.5
    fleet.a.cycle()
    assert [order.attempt for order in fleet.a.plays.orders] == [1]


@pytest.mark.parametrize("stage", ["before", "after"])
def test_a_result_of_unknown_outcome_is_written_in_the_end(fleet: Fleet, stage: str) -> None:
    delivery = fleet.a.deliver(fleet.create())
    fleet.a.cycle()
    failures = iter([True])

    def fail_once(node: str, operation: str, at: str) -> None:
        if at == stage and next(failures, False):
            raise Unknown("the answer was lost")

    fleet.consul.on_write = fail_once
    fleet.a.plays.end(COMMAND.id)
    for now in (0.1, 1.0, 1.1):
        fleet.consul.now = now
        fleet.a.cycle()
    assert fleet.command().state is CommandState.SUCCEEDED
    assert fleet.a.mailbox.acked == [delivery]


@pytest.mark.parametrize("leave", ["finish", "release"])
def test_a_record_that_others_change_all_the_time_is_left_for_the_next_cycle(fleet: Fleet, leave: str) -> None:
    fleet.a.deliver(fleet.create())
    fleet.a.cycle()
    tries: list[str] = []

    def change_first(node: str, operation: str, at: str) -> None:
        if (node, operation, at) == (A, "txn", "before"):
            tries.append(operation)
            assert len(tries) < 100, "a cycle comes to an end"
            other = fleet.command().with_(task=f"changed {len(tries)} times")
            fleet.consul.port(B).kv_put(keys.command(COMMAND.id), other.to_json().encode())

    fleet.consul.on_write = change_first
    if leave == "finish":
        fleet.a.plays.end(COMMAND.id)
    else:
        fleet.a.worker.retire()
        fleet.a.worker.release_plays()
    fleet.a.cycle()
    assert fleet.command().state is CommandState.RUNNING
    assert not fleet.a.worker.is_idle
    fleet.consul.on_write = None
    fleet.consul.now = 1.0
    fleet.a.cycle()
    assert fleet.a.worker.is_idle
    found = fleet.command()
    assert (found.state, found.worker) == (
        (CommandState.SUCCEEDED, A) if leave == "finish" else (CommandState.RUNNING, None)
    )


def test_without_quorum_nothing_is_raised_and_all_goes_on_afterwards(fleet: Fleet) -> None:
    fleet.a.deliver(fleet.create())
    fleet.consul.quorum = False
    cycle = fleet.a.cycle(known=False)
    assert cycle.sentence
    fleet.consul.quorum = True
    fleet.consul.now = 1.0
    fleet.a.cycle()
    assert fleet.command().state is CommandState.RUNNING


def test_a_worker_that_retires_leaves_its_play_to_another_at_once(fleet: Fleet) -> None:
    fleet.a.deliver(fleet.create())
    fleet.a.cycle()
    fleet.a.worker.retire()
    fleet.a.worker.release_plays()
    fleet.a.cycle()
    assert fleet.a.worker.is_idle
    fleet.b.cycle()
    assert (fleet.command().worker, fleet.command().attempt) == (B, 2)


@pytest.mark.parametrize("rc", [70, 137, 143])
def test_a_play_that_was_killed_with_its_server_is_run_again(fleet: Fleet, rc: int) -> None:
    fleet.a.deliver(fleet.create())
    fleet.a.cycle()
    fleet.a.plays.end(COMMAND.id, rc)
    fleet.a.cycle()
    assert (fleet.command().state, fleet.command().attempt) == (CommandState.RUNNING, 2)


def test_a_worker_that_retires_takes_nothing(fleet: Fleet) -> None:
    fleet.a.worker.retire()
    fleet.a.deliver(fleet.create())
    fleet.a.cycle()
    assert fleet.command().state is CommandState.PENDING


def test_progress_is_written_at_most_four_times_a_second(fleet: Fleet) -> None:
    fleet.a.deliver(fleet.create())
    fleet.a.cycle()
    before = fleet.consul.index
    for tenth in range(10):
        fleet.consul.now = tenth / 10
        fleet.a.plays.begin_task(COMMAND.id, f"task {tenth}", EPOCH + tenth / 10)
        fleet.a.cycle()
    assert fleet.consul.index - before <= 4


# -- messages by hand ---------------------------------------------------------------------------------------------


def by_hand(**fields: Any) -> bytes:
    message = {
        "command_type": "failover",
        "instance_type": "backend",
        "failed_instance": "backend-server",
        "timestamp": 1.0,
    }
    return json.dumps(message | fields).encode()


def test_a_message_published_by_hand_becomes_a_request(fleet: Fleet) -> None:
    delivery = fleet.a.deliver(by_hand())
    fleet.a.cycle()
    [request] = fleet.requests()
    assert (request.kind, request.service, request.failed_instance) == (
        RequestKind.FAILOVER,
        "backend",
        "backend-server",
    )
    assert (request.origin, fleet.a.mailbox.acked) == ("message", [delivery])


def test_a_message_published_by_hand_that_comes_twice_is_one_request(fleet: Fleet) -> None:
    fleet.a.deliver(by_hand())
    fleet.a.cycle()
    fleet.consul.now = 2.0
    fleet.b.deliver(by_hand(), redelivered=True)
    fleet.b.cycle()
    assert len(fleet.requests()) == 1
    assert len(fleet.b.mailbox.acked) == 1


def test_a_message_published_by_hand_for_a_strange_service_keeps_its_key_plain(fleet: Fleet) -> None:
    fleet.a.deliver(by_hand(instance_type="../../orch/leader"))
    fleet.a.cycle()
    [request] = fleet.requests()
    assert request.id.split("-")[1] == "unknown"


def test_a_message_published_by_hand_may_name_the_unit_and_tell_the_time_as_text(fleet: Fleet) -> None:
    document = policy_document("cold", 5.0, 86400.0)
    document["services"]["backend"]["unit"] = "shop-web"
    fleet.consul.port(A).kv_put(keys.CONFIG, json.dumps(document).encode())
    fleet.a.cycle()
    fleet.a.deliver(by_hand(instance_type="shop-web", timestamp="2024-05-01T10:00:00Z"))
    fleet.a.cycle()
    assert [request.service for request in fleet.requests()] == ["backend"]
    assert fleet.a.mailbox.rejected == []


def test_a_message_published_by_hand_while_consul_is_away_waits(fleet: Fleet) -> None:
    fleet.consul.quorum = False
    fleet.a.deliver(by_hand())
    fleet.a.cycle(known=False)
    assert fleet.a.mailbox.acked == []
    fleet.consul.quorum = True
    fleet.a.cycle()
    assert len(fleet.requests()) == 1


@pytest.mark.parametrize("body", [b"", b"{}", b"what is this?", b"\xff\xfe", b"[1]", b"x" * 70_000])
def test_a_message_that_is_none_goes_to_the_dead_letter_queue(fleet: Fleet, body: bytes) -> None:
    delivery = fleet.a.deliver(body)
    assert fleet.a.mailbox.rejected == [delivery]


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (None, "there is no such command"),
        (b"{", "its record cannot be read: Invalid JSON: EOF while parsing an object at line 1 column 1"),
    ],
    ids=["none", "garbage"],
)
def test_a_message_of_no_command_is_refused_with_a_warning(
    fleet: Fleet, caplog: pytest.LogCaptureFixture, record: bytes | None, why: str
) -> None:
    if record is not None:
        fleet.consul.port(A).kv_put(keys.command(COMMAND.id), record)
    delivery = fleet.a.deliver(message_of(COMMAND, 0.0))
    with caplog.at_level(logging.WARNING):
        fleet.a.cycle()
    said = f"A message of {COMMAND.id} is refused: {why}."
    assert caplog.messages[-1] == f"{said} It goes to the dead-letter queue."
    assert fleet.a.mailbox.rejected == [delivery]
    fleet.a.cycle()
    assert [entry.reason for entry in fleet.refused()] == [said]


def test_a_message_of_a_command_that_is_over_is_no_reason_to_warn(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    delivery = fleet.a.deliver(fleet.create(a_command(state=CommandState.SUCCEEDED)))
    with caplog.at_level(logging.WARNING):
        fleet.a.cycle()
    assert caplog.messages == []
    assert fleet.a.mailbox.acked == [delivery]


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        (
            {"target": "database-server"},
            "its target is 'database-server', and 'messaging-server' in",
        ),
        ({"instance_type": "database"}, "its instance_type is 'database', and 'backend' in"),
        ({"epoch": 99}, f"its epoch is 99, and {COMMAND.epoch} in"),
        ({"command_type": "rotation"}, "its command_type is 'rotation', and 'failover' in"),
        ({"playbooks": "d1"}, "its playbooks is 'd1', and None in"),
    ],
    ids=["target", "service", "epoch", "kind", "playbooks"],
)
def test_a_message_that_says_otherwise_than_the_record_is_refused_and_hastens_nothing(
    fleet: Fleet, changed: dict[str, object], why: str
) -> None:
    forged = {**json.loads(fleet.create()), **changed}
    delivery = fleet.a.deliver(json.dumps(forged).encode())
    fleet.a.cycle()
    assert fleet.a.mailbox.rejected == [delivery]
    assert fleet.command().state is CommandState.PENDING
    fleet.a.cycle()
    (entry,) = fleet.refused()
    assert entry.reason == f"A message of {COMMAND.id} is refused: {why} the command's record."


@pytest.mark.parametrize(
    ("sender", "why"),
    [("orch_worker", "orch_worker may not"), (OPERATOR, f"{OPERATOR} may not announce"), ("", "does not say whose")],
)
def test_only_the_controller_announces_commands(fleet: Fleet, sender: str, why: str) -> None:
    delivery = fleet.a.deliver(fleet.create(), sender=sender)
    fleet.a.cycle()
    assert fleet.a.mailbox.rejected == [delivery]
    assert fleet.command().state is CommandState.PENDING
    assert why in fleet.refused()[0].reason


@pytest.mark.parametrize("sender", [CONTROLLER, "orch_worker", ""])
def test_only_an_operator_asks_for_something(fleet: Fleet, sender: str) -> None:
    delivery = fleet.a.deliver(by_hand(), sender=sender)
    fleet.a.cycle()
    assert (fleet.a.mailbox.rejected, fleet.requests()) == ([delivery], [])


def test_a_message_that_was_sent_once_more_is_refused_and_asks_for_nothing(fleet: Fleet) -> None:
    first = fleet.a.deliver(by_hand())
    fleet.a.cycle()
    fleet.consul.now = 60.0
    again = fleet.b.deliver(by_hand(), tag=2)
    fleet.b.cycle()
    assert len(fleet.requests()) == 1
    assert (fleet.a.mailbox.acked, fleet.b.mailbox.rejected) == ([first], [again])
    fleet.b.cycle()
    assert "the very same message has become a request" in fleet.refused()[0].reason


def test_the_same_words_are_another_message_after_an_hour(fleet: Fleet) -> None:
    fleet.a.deliver(by_hand())
    fleet.a.cycle()
    fleet.consul.now = 3601.0
    fleet.a.deliver(by_hand(), tag=2)
    fleet.a.cycle()
    assert len(fleet.requests()) == 2


def test_a_flood_of_refused_messages_is_one_entry_a_minute(fleet: Fleet) -> None:
    for tag in range(50):
        fleet.a.deliver(b"x" * 70_000, tag)
        fleet.a.cycle()
    assert [entry.kind for entry in fleet.refused()] == ["refused_message"]
    assert "70000 bytes long" in fleet.refused()[0].reason
    fleet.consul.now = 61.0
    fleet.a.cycle()
    assert fleet.refused()[1].reason.endswith("And 48 more since the last entry.")
    assert len(fleet.a.mailbox.rejected) == 50


def test_messages_of_a_lost_connection_are_forgotten(fleet: Fleet) -> None:
    fleet.a.deliver(fleet.create(a_command(state=CommandState.SUCCEEDED)))
    fleet.a.worker.forget_connection(1)
    fleet.a.cycle()
    assert fleet.a.mailbox.acked == []


# -- states -----------------------------------------------------------------------------------------------------------


def test_there_is_no_way_out_of_a_final_state() -> None:
    with pytest.raises(ForbiddenTransition):
        stepped(a_command(state=CommandState.SUCCEEDED), CommandState.RUNNING)


def test_an_assignment_that_cannot_be_read_stops_nothing_and_starts_nothing(fleet: Fleet) -> None:
    fleet.a.deliver(fleet.create())
    fleet.a.cycle()
    fleet.consul.port(A).kv_put(keys.assignment("backend"), b"{")
    fleet.create(a_command(2))
    fleet.consul.now = 1.5
    fleet.a.cycle()
    fleet.consul.now = 3.0
    fleet.a.cycle()
    assert list(fleet.a.plays.running) == [COMMAND.id]


def test_a_message_that_names_a_service_with_a_line_break_gets_a_key_that_can_be_typed(fleet: Fleet) -> None:
    fleet.a.deliver(json.dumps({"command_type": "failover", "instance_type": "backend\n"}).encode())
    fleet.a.cycle()
    (request,) = fleet.requests()
    assert request.id.isprintable()
    assert request.service == "backend\n"
