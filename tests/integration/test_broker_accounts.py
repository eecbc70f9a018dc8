"""What each account of the broker must not do, with the definitions and the TLS settings that are deployed."""

from __future__ import annotations

import socket
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError, ChannelClosedByBroker, ProbableAccessDeniedError, ProbableAuthenticationError

from orchestrator.dispatch.consumer import Consumer
from orchestrator.domain.wire import DEAD_LETTER_QUEUE, QUEUE
from tests.integration.ports import free_port
from tests.integration.rabbitmq_broker import APP, CONTROLLER, OPERATOR, VHOST, WORKER, RabbitBroker
from tests.integration.waiting import WAIT_S, wait_for
from tests.tls import make_tls

ACCESS_REFUSED, PRECONDITION_FAILED = 403, 406


def publish(channel: BlockingChannel, user_id: str | None = None, body: bytes = b"{}") -> None:
    """Publish one message on the queue of commands and wait for what becomes of it."""
    channel.confirm_delivery()
    channel.basic_publish("", QUEUE, body, pika.BasicProperties(user_id=user_id), mandatory=True)


FORBIDDEN: dict[str, tuple[str, Callable[[BlockingChannel], object]]] = {
    "the controller takes commands": (CONTROLLER, lambda channel: channel.basic_get(QUEUE)),
    "the controller deletes the queue": (CONTROLLER, lambda channel: channel.queue_delete(QUEUE)),
    "the controller declares a queue": (CONTROLLER, lambda channel: channel.queue_declare("another")),
    "the worker publishes commands": (WORKER, publish),
    "the worker reads dead letters": (WORKER, lambda channel: channel.basic_get(DEAD_LETTER_QUEUE)),
    "the worker purges another queue": (WORKER, lambda channel: channel.queue_purge(DEAD_LETTER_QUEUE)),
    "the worker declares a queue": (WORKER, lambda channel: channel.queue_declare("another")),
    "the operator takes commands": (OPERATOR, lambda channel: channel.basic_get(QUEUE)),
    "the operator purges the queue": (OPERATOR, lambda channel: channel.queue_purge(QUEUE)),
    "the operator declares a queue": (OPERATOR, lambda channel: channel.queue_declare("another")),
    "the operator publishes to another exchange": (
        OPERATOR,
        lambda channel: (channel.confirm_delivery(), channel.basic_publish("amq.direct", QUEUE, b"{}")),
    ),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_an_account_is_refused_what_is_not_its_own(rabbit_broker: RabbitBroker, what: str) -> None:
    user, attempt = FORBIDDEN[what]
    with rabbit_broker.connect(user) as connection:
        with pytest.raises(ChannelClosedByBroker) as refused:
            attempt(connection.channel())
        assert refused.value.reply_code == ACCESS_REFUSED


def test_the_application_has_its_own_queue_in_its_own_virtual_host_only(rabbit_broker: RabbitBroker) -> None:
    with rabbit_broker.connect(APP, "app") as connection:
        connection.channel().queue_declare("listings", durable=True, arguments={"x-queue-type": "quorum"})
        with pytest.raises(ChannelClosedByBroker) as refused:
            connection.channel().queue_declare("another")
        assert refused.value.reply_code == ACCESS_REFUSED
    for user, vhost in ((APP, VHOST), (CONTROLLER, "app"), (WORKER, "app"), (OPERATOR, "app")):
        with pytest.raises(ProbableAccessDeniedError):
            rabbit_broker.connect(user, vhost)


@pytest.mark.parametrize("claimed", [CONTROLLER, WORKER])
def test_nobody_publishes_in_another_s_name(rabbit_broker: RabbitBroker, claimed: str) -> None:
    with rabbit_broker.connect(OPERATOR) as connection:
        with pytest.raises(ChannelClosedByBroker) as refused:
            publish(connection.channel(), user_id=claimed)
        assert refused.value.reply_code == PRECONDITION_FAILED


def test_the_broker_takes_no_message_that_is_larger_than_its_limit(rabbit_broker: RabbitBroker) -> None:
    with rabbit_broker.connect(OPERATOR) as connection:
        with pytest.raises(ChannelClosedByBroker) as refused:
            publish(connection.channel(), user_id=OPERATOR, body=b"x" * (128 * 1024 + 1))
        assert refused.value.reply_code == PRECONDITION_FAILED


def test_there_is_no_guest_and_no_account_without_its_password(rabbit_broker: RabbitBroker) -> None:
    words = ["rabbitmqctl", "--quiet", "list_users", "--no-table-headers"]
    listed = subprocess.run(
        words, env=rabbit_broker.environment, capture_output=True, text=True, check=True, timeout=60
    )
    users = {line.split()[0] for line in listed.stdout.splitlines()}
    assert users == {CONTROLLER, WORKER, OPERATOR, APP, rabbit_broker.user}
    trusted = pika.SSLOptions(ssl.create_default_context(cafile=str(rabbit_broker.tls.ca)), "127.0.0.1")
    for user, password in (("guest", "guest"), (OPERATOR, ""), (OPERATOR, "wrong")):
        credentials = pika.PlainCredentials(user, password)
        where = pika.ConnectionParameters("127.0.0.1", rabbit_broker.port, VHOST, credentials, ssl_options=trusted)
        with pytest.raises(ProbableAuthenticationError):
            pika.BlockingConnection(where)


def test_whoever_speaks_without_tls_is_refused(rabbit_broker: RabbitBroker) -> None:
    credentials = pika.PlainCredentials(OPERATOR, rabbit_broker.passwords[OPERATOR])
    plain = pika.ConnectionParameters(
        "127.0.0.1", rabbit_broker.port, VHOST, credentials, connection_attempts=1, socket_timeout=WAIT_S
    )
    with pytest.raises(AMQPError):
        pika.BlockingConnection(plain)


def test_a_link_takes_no_broker_that_another_authority_has_signed(
    rabbit_broker: RabbitBroker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    consumer = Consumer(
        rabbit_broker.settings.model_copy(update={"ca_file": make_tls(tmp_path).ca}), lambda _: None, lambda _: None
    )
    assert "certificate verify failed" in why_not_connected(consumer, caplog)


def test_a_link_takes_no_broker_whose_certificate_is_another_s(
    rabbit_broker: RabbitBroker, caplog: pytest.LogCaptureFixture
) -> None:
    """What listens at an address that its certificate does not name is an impostor with a stolen certificate."""
    port = free_port()
    with subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", "python3", "-c", RELAY, str(port), str(rabbit_broker.port)]
    ) as relay:
        wait_for(lambda: is_open("127.0.0.77", port), "the impostor listens")
        settings = rabbit_broker.settings.model_copy(update={"hosts": ("127.0.0.77",), "port": port})
        consumer = Consumer(settings, lambda _: None, lambda _: None)
        assert "IP address mismatch" in why_not_connected(consumer, caplog)
        relay.kill()


# Passes on bytes, whichever they are, between an address that is in no certificate and the broker.
RELAY = """
import socket, sys, threading
listener = socket.create_server(("127.0.0.77", int(sys.argv[1])))
def pass_on(a, b):
    while data := a.recv(65536):
        b.sendall(data)
while True:
    client, _ = listener.accept()
    server = socket.create_connection(("127.0.0.1", int(sys.argv[2])))
    for pair in ((client, server), (server, client)):
        threading.Thread(target=pass_on, args=pair, daemon=True).start()
"""


def is_open(address: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((address, port)) == 0


def why_not_connected(consumer: Consumer, caplog: pytest.LogCaptureFixture) -> str:
    """Return what a link says of the broker that it does not take."""
    consumer.start()
    try:
        said: list[str] = wait_for(lambda: caplog.messages, "the link says what is wrong")
        return said[0]
    finally:
        assert not consumer.is_up
        consumer.stop()
