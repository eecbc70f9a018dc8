"""Publisher and consumer against a real RabbitMQ."""

from __future__ import annotations

import json
import queue
import socket
import struct
import time
from collections.abc import Iterator

import pika
import pytest

from orchestrator.dispatch import publisher as publishing
from orchestrator.dispatch.consumer import Consumer, Delivery
from orchestrator.dispatch.publisher import Confirmed, Publisher
from orchestrator.domain.records import Command, MoveKind, Play
from orchestrator.domain.wire import DEAD_LETTER_QUEUE, QUEUE
from orchestrator.settings import AmqpSettings
from tests.integration.ports import free_port
from tests.integration.rabbitmq_broker import RabbitBroker
from tests.integration.waiting import WAIT_S, wait_for

# x-delivery-limit in templates/rabbitmq-definitions.json.j2.
DELIVERY_LIMIT = 10


def a_command(name: str) -> Command:
    return Command(
        id=f"0000000000001-backend-{name}",
        request_id="0000000000001-backend-r",
        service="backend",
        kind=MoveKind.FAILOVER,
        play=Play.ACTIVATE,
        playbook="activate_backend.yml",
        target="messaging-server",
        failed_instance="backend-server",
        epoch=7,
        created=1.0,
    )


class Fleet:
    """A publisher, consumers, and what came of them."""

    def __init__(self, amqp: AmqpSettings) -> None:
        self.amqp = amqp
        self.confirmed: queue.SimpleQueue[Confirmed] = queue.SimpleQueue()
        self.messages: queue.SimpleQueue[Delivery] = queue.SimpleQueue()
        self.lost: list[int] = []
        self.links: list[Publisher | Consumer] = []

    def publisher(self, amqp: AmqpSettings | None = None) -> Publisher:
        publisher = Publisher(amqp or self.amqp, self.confirmed.put, give_up_after_s=WAIT_S)
        publisher.start()
        self.links.append(publisher)
        return publisher

    def consumer(self, amqp: AmqpSettings | None = None) -> Consumer:
        consumer = Consumer(amqp or self.amqp, self.messages.put, self.lost.append)
        consumer.start()
        self.links.append(consumer)
        return consumer

    def message(self) -> Delivery:
        return self.messages.get(timeout=WAIT_S)

    def close(self) -> None:
        for link in self.links:
            link.stop()


@pytest.fixture
def fleet(rabbit_broker: RabbitBroker) -> Iterator[Fleet]:
    # No message of an earlier test, those that it had in hand included.
    rabbit_broker.delete_queues()
    rabbit_broker.make_queues()
    fleet = Fleet(rabbit_broker.settings)
    yield fleet
    fleet.close()


def test_a_published_command_is_confirmed_and_reaches_the_consumer(fleet: Fleet) -> None:
    consumer, publisher = fleet.consumer(), fleet.publisher()
    command = a_command("one")
    publisher.publish(command)
    delivery = fleet.message()
    assert json.loads(delivery.body)["id"] == command.id
    assert fleet.confirmed.get(timeout=WAIT_S).command_id == command.id
    assert publisher.waiting == 0
    consumer.ack(delivery)


def test_publishing_does_not_wait_for_a_broker_and_does_not_fail_without_one(fleet: Fleet) -> None:
    with socket.socket() as silent:
        # Accepts and says nothing: whoever waited for its answers would wait 50 times.
        silent.bind(("127.0.0.1", free_port()))
        silent.listen(8)
        publisher = fleet.publisher(fleet.amqp.model_copy(update={"port": silent.getsockname()[1]}))
        started = time.monotonic()
        for number in range(50):
            publisher.publish(a_command(str(number)))
        assert time.monotonic() - started < 5
        assert publisher.waiting == 50


def test_a_silent_broker_is_left_for_the_next_one(fleet: Fleet, rabbit_broker: RabbitBroker) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.2", rabbit_broker.port))
        silent.listen(8)
        publisher = fleet.publisher(fleet.amqp.model_copy(update={"hosts": ("127.0.0.2", "127.0.0.1")}))
        publisher.publish(a_command("one"))
        assert fleet.confirmed.get(timeout=WAIT_S).command_id == a_command("one").id


def test_a_message_in_hand_comes_again_after_the_connection_was_lost_and_its_old_tag_is_void(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A busy broker confirms late; a message that was sent once more would come in between.
    monkeypatch.setattr(publishing, "CONFIRM_TIMEOUT_S", WAIT_S)
    consumer, publisher = fleet.consumer(), fleet.publisher()
    publisher.publish(a_command("one"))
    first = fleet.message()
    consumer.call(lambda: consumer.drop("the test says so"))
    again = fleet.message()
    assert (again.body, again.redelivered, again.connection) == (first.body, True, first.connection + 1)
    assert fleet.lost == [first.connection]
    consumer.ack(first)
    consumer.ack(again)
    publisher.publish(a_command("two"))
    assert json.loads(fleet.message().body)["id"] == a_command("two").id, "the void ack did no harm"


def test_a_rejected_message_goes_to_the_dead_letter_queue(fleet: Fleet, rabbit_broker: RabbitBroker) -> None:
    consumer = fleet.consumer()
    wait_for(lambda: consumer.is_up, "the consumer is up")
    rabbit_broker.publish(b"what is this?")
    consumer.reject(fleet.message())
    wait_for(lambda: rabbit_broker.depth(DEAD_LETTER_QUEUE) == 1, "the message is in the dead-letter queue")


def test_a_message_that_is_never_acknowledged_ends_in_the_dead_letter_queue(
    fleet: Fleet, rabbit_broker: RabbitBroker
) -> None:
    rabbit_broker.publish(b"poison")
    deliveries = 0
    with rabbit_broker.connect() as connection:
        channel = connection.channel()
        while rabbit_broker.depth(DEAD_LETTER_QUEUE) == 0:
            if method := channel.basic_get(QUEUE)[0]:
                deliveries += 1
                channel.basic_nack(method.delivery_tag, requeue=True)
    assert deliveries == 1 + DELIVERY_LIMIT


class BeyondAllTime(pika.BasicProperties):
    """Properties with the header `at`, 2^62 s: AMQP can say that, and Python has no such time."""

    def encode(self) -> list[bytes]:
        table = struct.pack(">B2scQ", 2, b"at", b"T", 2**62)
        return [struct.pack(">HI", pika.BasicProperties.FLAG_HEADERS, len(table)), table]


def test_a_message_whose_properties_nobody_can_read_is_delivered_once_and_disturbs_no_other(
    fleet: Fleet, rabbit_broker: RabbitBroker
) -> None:
    consumer = fleet.consumer()
    wait_for(lambda: consumer.is_up, "the consumer is up")
    rabbit_broker.publish(b"in hand")
    in_hand = fleet.message()
    with rabbit_broker.connect() as connection:
        connection.channel().basic_publish("", QUEUE, b"strange", BeyondAllTime())
    rabbit_broker.publish(b"after it")
    strange, after = fleet.message(), fleet.message()
    assert (strange.body, strange.sender, after.body) == (b"strange", "", b"after it")
    assert strange.unreadable
    assert not after.unreadable
    consumer.reject(strange)
    wait_for(lambda: rabbit_broker.depth(DEAD_LETTER_QUEUE) == 1, "the message is in the dead-letter queue")
    assert (fleet.lost, after.connection) == ([], in_hand.connection)


def test_a_message_that_finds_no_queue_waits_until_there_is_one_again(
    fleet: Fleet, rabbit_broker: RabbitBroker
) -> None:
    publisher = fleet.publisher()
    wait_for(lambda: publisher.is_up, "the publisher is up")
    rabbit_broker.delete_queues()
    publisher.publish(a_command("one"))
    wait_for(lambda: not publisher.is_up, "the publisher has left the broker without a queue")
    rabbit_broker.make_queues()
    assert fleet.confirmed.get(timeout=WAIT_S).command_id == a_command("one").id
    fleet.consumer()
    assert json.loads(fleet.message().body)["id"] == a_command("one").id


def test_a_consumer_whose_queue_was_deleted_consumes_again(fleet: Fleet, rabbit_broker: RabbitBroker) -> None:
    consumer = fleet.consumer()
    wait_for(lambda: consumer.is_up, "the consumer is up")
    rabbit_broker.delete_queues()
    wait_for(lambda: fleet.lost, "the consumer has lost its queue")
    rabbit_broker.make_queues()
    rabbit_broker.publish(b"hello")
    assert fleet.message().body == b"hello"


def test_both_ends_come_back_after_the_broker_was_restarted_and_nothing_confirmed_is_lost(
    fleet: Fleet, rabbit_broker: RabbitBroker
) -> None:
    publisher = fleet.publisher()
    publisher.publish(a_command("before"))
    assert fleet.confirmed.get(timeout=WAIT_S).command_id == a_command("before").id
    rabbit_broker.stop()
    publisher.publish(a_command("meanwhile"))
    rabbit_broker.start()
    publisher.publish(a_command("after"))
    consumer = fleet.consumer()
    wanted = {a_command(name).id for name in ("before", "after")}
    seen: set[str] = set()
    while not wanted <= seen:
        delivery = fleet.message()
        seen.add(json.loads(delivery.body)["id"])
        consumer.ack(delivery)


def test_a_message_is_confirmed_within_milliseconds_on_a_connection_that_was_idle(fleet: Fleet) -> None:
    publisher = fleet.publisher()
    wait_for(lambda: publisher.is_up, "the publisher is up")
    started = time.time()
    publisher.publish(a_command("one"))
    took_s = fleet.confirmed.get(timeout=WAIT_S).at - started
    print(f"confirmed after {took_s * 1000:.1f} ms")
    assert took_s < WAIT_S
