"""Asks a broker for orch's queues, as the worker. Declares nothing: what is missing is a finding."""

from __future__ import annotations

import ssl
import threading
from queue import Empty, SimpleQueue

import pika
from pika.exceptions import AMQPError

from orchestrator.doctor.facts import QueueFacts
from orchestrator.domain.sentence import one_line
from orchestrator.domain.wire import DEAD_LETTER_QUEUE, QUEUE
from orchestrator.settings import AmqpSettings, SettingsError, read_secret

CONNECT_TIMEOUT_S = 2.0
# A queue whose leader was lost a moment ago answers nothing, not even an error.
ANSWER_TIMEOUT_S = 6.0


def ask_queues(amqp: AmqpSettings) -> QueueFacts:
    """Ask the brokers one after the other until one answers, for `ANSWER_TIMEOUT_S` at most. Never raises."""
    try:
        credentials = pika.PlainCredentials(amqp.worker.user, read_secret(amqp.worker.password_file))
    except SettingsError as problem:
        return QueueFacts(problem=f"{problem} (ask as root)")
    problems: list[str] = []
    answers: SimpleQueue[QueueFacts] = SimpleQueue()

    def ask_each() -> None:
        for host in amqp.hosts:
            try:
                answers.put(_ask(host, amqp, credentials))
                return
            except (AMQPError, OSError) as problem:
                problems.append(f"{host}: {one_line(str(problem)) or type(problem).__name__}")
        answers.put(QueueFacts(problem="; ".join(problems)))

    # pika has no time-out for an answer, so it is the thread that is not waited for.
    threading.Thread(target=ask_each, name="asking brokers", daemon=True).start()
    try:
        return answers.get(timeout=ANSWER_TIMEOUT_S)
    except Empty:
        return QueueFacts(problem="; ".join([*problems, f"no answer within {ANSWER_TIMEOUT_S:g} s"]))


def _ask(host: str, amqp: AmqpSettings, credentials: pika.PlainCredentials) -> QueueFacts:
    given = pika.ConnectionParameters(
        host,
        amqp.port,
        amqp.vhost,
        credentials,
        ssl_options=pika.SSLOptions(ssl.create_default_context(cafile=str(amqp.ca_file)), host),
        socket_timeout=CONNECT_TIMEOUT_S,
        stack_timeout=CONNECT_TIMEOUT_S,
    )
    connection = pika.BlockingConnection(given)
    try:
        channel = connection.channel()
        waiting, dead = (
            channel.queue_declare(queue, passive=True).method.message_count for queue in (QUEUE, DEAD_LETTER_QUEUE)
        )
        return QueueFacts(waiting=waiting, dead=dead)
    finally:
        connection.close()
