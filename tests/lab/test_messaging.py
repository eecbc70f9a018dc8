"""The broker that clients are led to fails: listings go on being published, none is left out, and commands go on."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deploy.machines.lab import Lab
from deploy.trials.books import left_unindexed, unlike_the_ledger
from deploy.trials.status import settle, wait_until
from tests.lab.fleet import (
    HOME,
    HOME_WITHIN_S,
    SECOND,
    ledger,
    orch,
    publish,
    reasons,
    unit_state,
    wait_served_by,
    wait_written,
)

BROKER, OTHER = HOME["messaging"], SECOND["messaging"]


@pytest.mark.parametrize("kind", ["stop", "poweroff"])
def test_the_broker_fails_listings_go_on_being_published_and_it_comes_home(
    fleet: Lab, tmp_path: Path, kind: str
) -> None:
    with ledger(fleet, tmp_path, confirmed=True) as writers:
        fault = fleet.fault(kind, BROKER, "messaging" if kind == "stop" else None)
        wait_served_by(fleet, "messaging", OTHER)
        wait_written(writers, time.time())
        move_by_hand_published_command(fleet)
        assert left_unindexed(fleet, writers) == []
        fleet.mend()
        wait_served_by(fleet, "messaging", BROKER, within_s=HOME_WITHIN_S)
        settle(fleet)
        wait_written(writers, time.time())
    assert unlike_the_ledger(fleet, writers) == []
    assert left_unindexed(fleet, writers) == []
    assert any(f"Moving messaging from {BROKER} to {OTHER}" in reason for reason in reasons(fleet, fault.at))


def move_by_hand_published_command(lab: Lab) -> None:
    """Move the frontend as the system that orch replaces was told to: the queue is there with one broker less."""
    failed = {
        "command_type": "failover",
        "instance_type": "frontend",
        "failed_instance": HOME["frontend"],
        "timestamp": 1.0,
    }
    publish(lab, json.dumps(failed), vm=OTHER)
    wait_served_by(lab, "frontend", SECOND["frontend"], within_s=60)


# Keeps a connection through the local proxy, and ends when that is closed.
HOLD = """
import pathlib
import pika
from orchestrator.settings import load_settings, read_secret
given, sign = load_settings().amqp, pathlib.Path("/run/orch-test-holds")
credentials = pika.PlainCredentials(given.user, read_secret(given.password_file))
link = pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", given.port, given.vhost, credentials))
sign.touch()
try:
    link.process_data_events(time_limit=60)
except pika.exceptions.AMQPError:
    print("closed")
sign.unlink()
"""


def test_a_connection_to_the_deposed_broker_is_closed_although_that_broker_runs_on(fleet: Lab) -> None:
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(fleet.run, OTHER, ["/opt/orch/venv/bin/python", "-c", HOLD], timeout_s=90)
        wait_until(
            "the connection is open",
            lambda: fleet.run(OTHER, ["test", "-e", "/run/orch-test-holds"], check=False).returncode == 0,
            30,
        )
        orch(fleet, "failover", "messaging", "--wait")
        assert held.result().stdout == "closed\n"
    assert unit_state(fleet, BROKER, "rabbitmq-server") == "active"


def test_a_broker_that_nobody_is_led_to_fails_and_nothing_is_moved_or_lost(fleet: Lab, tmp_path: Path) -> None:
    with ledger(fleet, tmp_path, confirmed=True) as writers:
        fault = fleet.fault("stop", OTHER, "messaging")
        wait_until("it is stopped", lambda: unit_state(fleet, OTHER, "rabbitmq-server") in ("inactive", "failed"), 60)
        wait_written(writers, time.time())
        fleet.mend()
        settle(fleet)
        wait_written(writers, time.time())
    assert unlike_the_ledger(fleet, writers) == []
    assert left_unindexed(fleet, writers) == []
    assert not any("Moving messaging" in reason for reason in reasons(fleet, fault.at))


def test_without_any_broker_listings_are_stored_and_published_when_one_is_back(fleet: Lab, tmp_path: Path) -> None:
    with ledger(fleet, tmp_path, rate=5.0) as writers:
        for vm in fleet.fleet.members("brokers"):
            fleet.fault("stop", vm, "messaging")
        wait_written(writers, time.time())
        fleet.mend()
        settle(fleet)
        wait_written(writers, time.time())
    assert unlike_the_ledger(fleet, writers) == []
    assert left_unindexed(fleet, writers, within_s=60) == []
