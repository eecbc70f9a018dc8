"""Whatever comes on the queue: a command's message is held, a person's becomes a request, the rest is dead-lettered."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.decide import decide
from orchestrator.dispatch.consumer import Delivery
from orchestrator.domain import keys
from orchestrator.domain.decision import Memory
from orchestrator.domain.records import Request
from orchestrator.domain.view import Kept
from orchestrator.domain.wire import message_of, parse_message
from orchestrator.observe.parse import parse_view
from orchestrator.worker_steps import ALIVE_CHECK, Seen, Worker
from tests.fakes.fake_consul import PASSING, FakeConsul
from tests.fakes.fake_plays import CONTROLLER, OPERATOR, SENDERS, FakeMailbox, FakePlays
from tests.fuzz.fleet import NOW, PENDING, POLICY, RECORDS, checks_without, pairs_with
from tests.fuzz.strange import bounded, expect_sentence, values

WORKER = "messaging-server"
OF_A_COMMAND = json.loads(message_of(RECORDS[keys.command(PENDING)], NOW))  # type: ignore[arg-type]
BY_HAND = {
    "command_type": "failback",
    "instance_type": "backend",
    "failed_instance": "backend-server",
    "recovered_instance": "backend-server",
    "target": "messaging-server",
    "timestamp": NOW,
}


class Place:
    """A worker with an empty KV and a mailbox."""

    def __init__(self) -> None:
        self.consul = FakeConsul([WORKER])
        self.consul.set_check(WORKER, ALIVE_CHECK, PASSING)
        self.mailbox = FakeMailbox()
        self.worker = Worker(self.consul.port(WORKER), FakePlays(), self.mailbox, WORKER, SENDERS, lambda: NOW)

    def take(self, delivery: Delivery) -> None:
        """Deliver the message, and let the worker come round."""
        self.worker.take_message(delivery)
        self.worker.cycle(Seen(self.consul.peek_list(keys.ROOT), (), True), self.consul.now)


@bounded(80)
@given(
    body=values(OF_A_COMMAND) | values(BY_HAND),
    redelivered=st.booleans(),
    sender=st.sampled_from((CONTROLLER, OPERATOR, "orch_worker", "")),
)
def test_a_message_is_kept_or_dead_lettered_and_never_lost(body: bytes, redelivered: bool, sender: str) -> None:
    place = Place()
    delivery = Delivery(1, 7, body, redelivered, sender)
    place.take(delivery)
    try:
        message = parse_message(body)
    except ValueError as refused:
        expect_sentence(str(refused))
        assert place.mailbox.rejected == [delivery]
        assert place.consul.peek_list(keys.REQUESTS) == ()
        return
    asked = place.consul.peek_list(keys.REQUESTS)
    if message.id is None and sender == OPERATOR:
        assert len(asked) == 1
        assert place.mailbox.acked == [delivery]
    else:
        # Nobody else may ask for anything, and KV is empty: there is no command of which a message could speak.
        assert asked == ()
        assert place.mailbox.rejected == [delivery]


@bounded(60)
@given(body=values(BY_HAND))
def test_what_a_message_asks_for_is_answered(body: bytes) -> None:
    """The leader reads the request, and whatever it names that is not there is refused with a reason."""
    place = Place()
    place.take(Delivery(1, 7, body, sender=OPERATOR))
    for asked in place.consul.peek_list(keys.REQUESTS):
        request = Request.from_json(asked.value)
        assert asked.key == keys.request(request.id)
        assert request.id.isprintable()
        view = parse_view((*pairs_with(), asked), checks_without(), POLICY)
        assert request in [kept.value for kept in view.requests if isinstance(kept, Kept)]
        outcome = decide(view, Memory(), POLICY, NOW + 1)
        assert outcome.sentence
