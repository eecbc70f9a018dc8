"""What the publisher does while there is no broker. With one: tests/integration/test_rabbitmq.py."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest

from orchestrator.dispatch.publisher import MAX_WAITING, Publisher
from orchestrator.settings import AmqpAccount, AmqpSettings
from tests.tls import make_tls
from tests.unit.execute.build import a_command


@pytest.fixture
def amqp(tmp_path: Path) -> AmqpSettings:
    (tmp_path / "password").write_text("secret\n")
    tls = make_tls(tmp_path)
    account = AmqpAccount(user="orch_controller", password_file=tmp_path / "password")
    return AmqpSettings(hosts=("127.0.0.1",), port=1, ca_file=tls.ca, controller=account)


def said_by_us(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What orch logged. The daemons' journal leaves out what pika itself logs of every try."""
    return [record.getMessage() for record in caplog.records if record.name.startswith("orchestrator")]


def wait_for_message(caplog: pytest.LogCaptureFixture) -> None:
    deadline = time.monotonic() + 30
    while not said_by_us(caplog) and time.monotonic() < deadline:
        time.sleep(0.01)


def test_a_command_waits_until_there_is_a_broker(amqp: AmqpSettings) -> None:
    publisher = Publisher(amqp)
    publisher.publish(a_command(1))
    publisher.publish(a_command(1))
    publisher.publish(a_command(2))
    assert publisher.waiting == 2


def test_a_command_is_given_up_when_it_has_waited_too_long(
    amqp: AmqpSettings, caplog: pytest.LogCaptureFixture
) -> None:
    publisher = Publisher(amqp, give_up_after_s=0.0)
    publisher.publish(a_command(1))
    publisher.publish(a_command(2))
    assert publisher.waiting == 1
    assert caplog.messages == [
        f"The messages of {a_command(1).id} are given up after 0 s without a broker; workers find the commands in KV."
    ]


def test_no_more_commands_wait_than_fit(amqp: AmqpSettings) -> None:
    publisher = Publisher(amqp)
    for number in range(MAX_WAITING + 10):
        publisher.publish(a_command(number))
    assert publisher.waiting == MAX_WAITING


def test_an_unreachable_broker_is_told_once_and_stopping_is_quick(
    amqp: AmqpSettings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    publisher = Publisher(amqp.model_copy(update={"hosts": ("127.0.0.1", "127.0.0.2")}))
    publisher.start()
    publisher.publish(a_command(1))
    wait_for_message(caplog)
    publisher.stop()
    (said,) = said_by_us(caplog)
    assert said.startswith("The publisher reaches no broker (127.0.0.2: ")


def test_a_missing_password_is_told_and_not_raised(amqp: AmqpSettings, caplog: pytest.LogCaptureFixture) -> None:
    amqp.controller.password_file.unlink()
    publisher = Publisher(amqp)
    publisher.start()
    wait_for_message(caplog)
    publisher.stop()
    assert "cannot be read" in caplog.messages[0]
