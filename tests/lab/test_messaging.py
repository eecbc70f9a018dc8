"""The broker that clients are led to fails: listings go on being published, none is left out, and commands go on."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from deploy.machines.lab import Lab
from deploy.machines.places import LabError
from deploy.trials.books import left_unindexed, unlike_the_ledger
from deploy.trials.policy import apply_policy, policy_now
from deploy.trials.status import settle, wait_until
from tests.lab.fleet import (
    BROKERS,
    HOME,
    HOME_WITHIN_S,
    MOVED_WITHIN_S,
    SECOND,
    UNIT,
    ledger,
    orch,
    publish,
    reasons,
    service,
    unit_state,
    wait_served_by,
    wait_written,
)

BROKER, OTHER = HOME["messaging"], SECOND["messaging"]
LOST, SPARE = "database-server", "backend-server"
WITH_SPARE = (BROKER, OTHER, SPARE)
VHOSTS = ("orch", "app")
# The shortest that is longer than a start may take; the default is 300 s.
REPLACE_AFTER_S = 31.0
# A broker takes most of a minute to start on a busy machine, and each look at the queues 7 s for each of them while a
# member is silently gone.
REPLACED_WITHIN_S = 300.0


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
        "timestamp": time.time(),
    }
    publish(lab, json.dumps(failed), vm=OTHER)
    wait_served_by(lab, "frontend", SECOND["frontend"], within_s=60)


# Keeps a connection through the local proxy, and ends when that is closed.
HOLD = """
import pathlib, ssl
import pika
from orchestrator.settings import load_settings, read_secret
given, sign = load_settings().amqp, pathlib.Path("/run/orch-test-holds")
credentials = pika.PlainCredentials(given.worker.user, read_secret(given.worker.password_file))
tls = pika.SSLOptions(ssl.create_default_context(cafile=str(given.ca_file)), "127.0.0.1")
where = pika.ConnectionParameters("127.0.0.1", given.port, given.vhost, credentials, ssl_options=tls)
link = pika.BlockingConnection(where)
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


# -- queues and members


def says(lab: Lab, vm: str, expression: str) -> Any:
    """Return what the broker's Erlang answers."""
    return json.loads(lab.run(vm, ["rabbitmqctl", "eval", expression, "--formatter", "json"]).stdout)["value"]


def wait_all_see_each_other(lab: Lab) -> None:
    def is_so() -> bool:
        try:
            return all(
                len(says(lab, vm, "nodes().")) == 2 and not says(lab, vm, "rabbit_node_monitor:partitions().")
                for vm in BROKERS
            )
        except LabError:
            return False  # one of them is starting

    wait_until("all brokers see each other", is_so, REPLACED_WITHIN_S)


def test_a_broker_that_was_away_and_did_not_notice_is_one_of_them_again(fleet: Lab, tmp_path: Path) -> None:
    """As after a link that was lost for some seconds: the others hold it for lost, it has not paused itself."""
    with ledger(fleet, tmp_path, confirmed=True) as writers:
        fleet.run(OTHER, ["systemctl", "kill", "--signal=STOP", UNIT["messaging"]])
        try:
            wait_until("the others hold it for lost", lambda: len(says(fleet, BROKER, "nodes().")) == 1, MOVED_WITHIN_S)
        finally:
            fleet.run(OTHER, ["systemctl", "kill", "--signal=CONT", UNIT["messaging"]])
        wait_all_see_each_other(fleet)
        settle(fleet)
        wait_written(writers, time.time())
    assert unlike_the_ledger(fleet, writers) == []


def test_a_broker_whose_start_hangs_begins_anew(fleet: Lab, tmp_path: Path) -> None:
    """As after two that started at the same time: it waits for global names, and RabbitMQ's own help is in vain."""
    begins = "sys:suspend(global_name_server), spawn(rabbit_node_monitor, global_sync, []), ok."
    before = fleet.run(OTHER, ["systemctl", "show", "--property=MainPID", UNIT["messaging"]]).stdout

    def has_begun_anew() -> bool:
        shown = ["systemctl", "show", "--property=MainPID,ActiveState", UNIT["messaging"]]
        now = fleet.run(OTHER, shown).stdout
        return "ActiveState=active" in now and before not in now

    with ledger(fleet, tmp_path, confirmed=True) as writers:
        fleet.run(OTHER, ["rabbitmqctl", "eval", begins])
        wait_until("it has begun anew", has_begun_anew, REPLACED_WITHIN_S)
        wait_all_see_each_other(fleet)
        settle(fleet)
        wait_written(writers, time.time())
    assert unlike_the_ledger(fleet, writers) == []


def quorum_queues(lab: Lab, vm: str = BROKER) -> dict[str, dict[str, Any]]:
    """Return each quorum queue as the broker on the VM sees it, by its name."""
    found = {}
    for vhost in VHOSTS:
        words = ["rabbitmqctl", "-q", "list_queues", "-p", vhost, "name", "type", "leader", "online", "members"]
        rows = json.loads(lab.run(vm, [*words, "--formatter", "json"], timeout_s=60).stdout)
        found.update({row["name"]: row for row in rows if row["type"] == "quorum"})
    return found


def leaders(lab: Lab) -> set[str]:
    """Return the brokers that lead a quorum queue."""
    return {row["leader"].removeprefix("rabbit@") for row in quorum_queues(lab).values()}


def has_every_queue(lab: Lab, *vms: str) -> bool:
    """Say whether each quorum queue has a running replica on each of these brokers, and no other."""
    brokers = {f"rabbit@{vm}" for vm in vms}
    return all(set(row["online"]) == set(row["members"]) == brokers for row in quorum_queues(lab).values())


def wait_members(lab: Lab, *vms: str) -> None:
    """Wait until these are the members, all of them well and nothing left to be done."""

    def is_so() -> bool:
        cluster = service(lab, "messaging").get("cluster") or {}
        return cluster.get("members") == dict.fromkeys(vms, "healthy") and cluster["joining"] is None

    wait_until(f"the members are {', '.join(vms)}", is_so, REPLACED_WITHIN_S, 0.5)


@contextlib.contextmanager
def replaced_after(lab: Lab, seconds: float) -> Iterator[None]:
    """Have a member replaced that is away for so long, for the time of the block."""
    before = policy_now(lab)
    changed = json.loads(json.dumps(before))
    changed["services"]["messaging"]["cluster"]["replace_after_s"] = seconds
    apply_policy(lab, changed)
    try:
        yield
    finally:
        apply_policy(lab, before)


def test_the_leaders_of_the_queues_follow_the_endpoint_when_it_rotates(fleet: Lab) -> None:
    # Wherever they are: a fault of a broker may have had another one elected.
    orch(fleet, "rotate", "messaging", "--wait")
    wait_served_by(fleet, "messaging", OTHER)
    wait_until(f"the queues are led by {OTHER}", lambda: leaders(fleet) == {OTHER}, MOVED_WITHIN_S)
    orch(fleet, "failback", "messaging", "--wait")
    wait_until(f"the queues are led by {BROKER}", lambda: leaders(fleet) == {BROKER}, MOVED_WITHIN_S)


def test_the_spare_takes_the_place_of_a_broker_that_stays_away_and_gives_it_back(fleet: Lab, tmp_path: Path) -> None:
    with replaced_after(fleet, REPLACE_AFTER_S), ledger(fleet, tmp_path, confirmed=True) as writers:
        fault = fleet.fault("poweroff", LOST)
        wait_members(fleet, BROKER, OTHER, SPARE)
        assert has_every_queue(fleet, *WITH_SPARE)
        wait_written(writers, time.time())
        assert left_unindexed(fleet, writers) == []
        assert service(fleet, "messaging")["active"] == BROKER

        fleet.mend()
        wait_members(fleet, *BROKERS)
        assert has_every_queue(fleet, *BROKERS)
        assert unit_state(fleet, SPARE, "rabbitmq-server") == "inactive"
        settle(fleet)
        wait_written(writers, time.time())
    assert unlike_the_ledger(fleet, writers) == []
    assert left_unindexed(fleet, writers) == []
    said = reasons(fleet, fault.at)
    assert any(f"{SPARE} takes the place of {LOST} in the cluster of messaging" in reason for reason in said)
    assert not any("Moving messaging" in reason for reason in said)
