"""The script that has a broker be a member, with real brokers: joining, leaders that follow the endpoint, the spare."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pika
import pytest

from tests.integration.rabbitmq_broker import VHOST, RabbitBroker
from tests.integration.waiting import wait_for
from tests.library import module

SCRIPT = Path(__file__).resolve().parents[2] / "templates" / "broker-member"
STUCK = SCRIPT.with_name("broker-stuck")
WAIT_S = 180.0
PUBLISH_EVERY_S = 0.005
QUORUM = {"x-queue-type": "quorum"}
QUEUES = ("commands", "listings")

Cluster = tuple[RabbitBroker, ...]

erlang_cookie = module("orch_erlang_cookie")


def member(broker: RabbitBroker, brokers: Cluster, *more: str) -> subprocess.CompletedProcess[str]:
    """Run the script as on the VM of the broker."""
    words = [str(SCRIPT), *more, *(each.node for each in brokers)]
    return subprocess.run(words, env=broker.environment, capture_output=True, text=True, timeout=WAIT_S)


def leaders(broker: RabbitBroker) -> dict[str, str]:
    """Return the node that leads each queue."""
    words = ["rabbitmqctl", "--quiet", "list_queues", "-p", VHOST, "name", "leader", "--formatter", "json"]
    done = subprocess.run(words, env=broker.environment, capture_output=True, text=True, timeout=WAIT_S, check=True)
    return {row["name"]: row["leader"] for row in json.loads(done.stdout)}


@pytest.fixture(scope="module")
def cluster(rabbit_cluster: Cluster) -> Cluster:
    """Three members, and two quorum queues with a replica on each."""
    for broker in rabbit_cluster[1:]:
        done = member(broker, rabbit_cluster)
        assert done.returncode == 0, done.stderr
        assert "has joined the cluster" in done.stdout
    with rabbit_cluster[0].connect() as connection:
        for queue in QUEUES:
            connection.channel().queue_declare(queue, durable=True, arguments=QUORUM)
    return rabbit_cluster


class Publisher(threading.Thread):
    """Publishes with confirms, one message after the other, and notes what was confirmed."""

    def __init__(self, broker: RabbitBroker) -> None:
        super().__init__(daemon=True)
        self._broker = broker
        self._ending = threading.Event()
        self.begun = threading.Event()
        self.confirmed: list[str] = []

    def run(self) -> None:
        """See `Thread`."""
        number = 0
        with self._broker.connect() as connection:
            channel = connection.channel()
            channel.confirm_delivery()
            while not self._ending.wait(PUBLISH_EVERY_S):
                number += 1
                channel.basic_publish("", QUEUES[0], str(number).encode(), pika.BasicProperties(delivery_mode=2))
                self.confirmed.append(str(number))
                self.begun.set()

    def end(self) -> None:
        """Let it end after the message in hand."""
        self._ending.set()
        self.join(WAIT_S)
        assert not self.is_alive()


@contextmanager
def publishing_at(broker: RabbitBroker) -> Iterator[Publisher]:
    """Publish meanwhile."""
    publisher = Publisher(broker)
    publisher.start()
    assert publisher.begun.wait(WAIT_S)
    try:
        yield publisher
    finally:
        publisher.end()


def lost(broker: RabbitBroker, confirmed: set[str]) -> set[str]:
    """Take what is in the queue; return what was confirmed and does not come."""
    missing = set(confirmed)
    with broker.connect() as connection:
        channel = connection.channel()
        for method, _, body in channel.consume(QUEUES[0], auto_ack=True, inactivity_timeout=10.0):
            if method is None:
                break
            missing.discard(body.decode())
            if not missing:
                break
    return missing


def test_leaders_come_to_whoever_is_active_and_no_confirmed_message_is_lost(cluster: Cluster) -> None:
    with publishing_at(cluster[0]) as publisher:
        for broker in (cluster[1], cluster[2], cluster[0], cluster[1]):
            before = len(publisher.confirmed)
            done = member(broker, cluster, "--lead")
            assert (done.returncode, done.stderr) == (0, "")
            assert done.stdout.endswith("2 of 2 queues have their leader here\n")
            assert leaders(broker) == dict.fromkeys(QUEUES, broker.node)
            assert len(publisher.confirmed) > before
    assert lost(cluster[2], set(publisher.confirmed)) == set()


def test_a_standby_that_is_started_leaves_the_leaders_where_they_are(cluster: Cluster) -> None:
    member(cluster[0], cluster, "--lead")
    assert member(cluster[1], cluster).returncode == 0
    assert leaders(cluster[1]) == dict.fromkeys(QUEUES, cluster[0].node)


def without_a_replica_on(broker: RabbitBroker, other: RabbitBroker) -> None:
    """Take the broker's replica of the second queue away."""
    member(other, (other,), "--lead")
    words = ["rabbitmq-queues", "--quiet", "delete_member", "--vhost", VHOST, QUEUES[1], broker.node]
    subprocess.run(words, env=other.environment, check=True, timeout=WAIT_S)


def test_a_queue_without_a_replica_on_the_active_broker_gets_one_and_then_its_leader(cluster: Cluster) -> None:
    without_a_replica_on(cluster[1], cluster[0])
    done = member(cluster[1], cluster, "--lead")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"; {cluster[1].node} now has a replica of each queue; 2 of 2 queues" in done.stdout
    assert leaders(cluster[1]) == dict.fromkeys(QUEUES, cluster[1].node)


def test_a_leader_that_cannot_come_is_told_and_the_others_come(cluster: Cluster) -> None:
    without_a_replica_on(cluster[1], cluster[0])
    # With a broker of the group away no queue gets another replica.
    done = member(cluster[1], cluster, "--lead", "away@localhost")
    assert done.returncode == 0, done.stderr
    assert "1 of 2 queues have their leader here; that of queue 'listings' in vhost 'orch' stays where it is (" in (
        done.stdout
    )
    assert leaders(cluster[1]) == {QUEUES[0]: cluster[1].node, QUEUES[1]: cluster[0].node}
    assert member(cluster[1], cluster, "--lead").returncode == 0


def test_with_the_old_leader_away_the_leaders_come_too(cluster: Cluster) -> None:
    member(cluster[0], cluster, "--lead")
    cluster[0].stop()
    try:
        done = member(cluster[1], cluster, "--lead")
        assert done.returncode == 0, done.stderr
        assert leaders(cluster[1]) == dict.fromkeys(QUEUES, cluster[1].node)
    finally:
        cluster[0].start()


def test_an_old_leader_that_is_silent_is_let_go_of_at_once(cluster: Cluster) -> None:
    silent, active, _ = cluster
    member(silent, cluster, "--lead")
    done = member(active, cluster, "--failed", silent.node)
    assert (done.returncode, "let go" in done.stdout) == (0, False), "it answers"
    with silent.frozen():
        done = member(active, cluster, "--lead", "--failed", silent.node)
        assert (done.returncode, done.stderr) == (0, "")
        assert f"; {silent.node} gave no answer and is let go; 2 of 2 queues have their leader here" in done.stdout
        assert leaders(active) == dict.fromkeys(QUEUES, active.node)


def doubt(broker: RabbitBroker, other: RabbitBroker) -> None:
    """Have the replicas of a broker be told what Ra's failure detector tells of one that has gone silent.

    It does so by itself some time after that, here before anything else: no election comes for 5 to 6 s then.
    """
    event = f"{{node_event, '{other.node}', down}}"
    told = f"[Name ! {event} || Q <- rabbit_amqqueue:list(), {{Name, _}} <- [amqqueue:get_pid(Q)]]."
    subprocess.run(["rabbitmqctl", "--quiet", "eval", told], env=broker.environment, timeout=WAIT_S, check=True)


def test_queues_of_a_silent_one_that_was_doubted_before_elect_at_once(cluster: Cluster) -> None:
    silent, active, third = cluster
    member(silent, cluster, "--lead")
    with silent.frozen():
        for each in (active, third):
            doubt(each, silent)
        done = member(active, cluster, "--within", "1.5", "--failed", silent.node)
        assert (done.returncode, done.stderr) == (0, "")
        assert leaders(active) == dict.fromkeys(QUEUES, active.node), "whoever asks for it is elected"


def why_stuck(broker: RabbitBroker, *words: str) -> str:
    """Ask as orch-broker-heal.service does; an answer that is none of the script's own ends the test."""
    done = subprocess.run(
        [str(STUCK), *words, broker.node], env=broker.environment, capture_output=True, text=True, timeout=WAIT_S
    )
    assert (done.returncode in (0, 1), done.stderr) == (True, "")
    return done.stdout.strip()


def is_apart(broker: RabbitBroker) -> bool:
    return "has stayed apart" in why_stuck(broker)


def test_one_that_has_not_noticed_that_the_others_had_lost_it_stays_apart_until_it_begins_anew(
    cluster: Cluster,
) -> None:
    unaware, active, third = cluster
    member(active, cluster, "--lead")
    assert [is_apart(broker) for broker in cluster] == [False] * 3
    unaware.freeze()
    try:
        assert "is let go" in member(active, cluster, "--failed", unaware.node).stdout
        unaware.thaw()
        wait_for(lambda: is_apart(unaware), "it is apart from the others")
        assert [is_apart(broker) for broker in cluster] == [True, False, False], "most of them stay as they are"
        done = member(active, (active, third), "--within", "1", "--release", unaware.node)
        assert done.returncode == 1, "whom only some forget is a member still"
        assert f"{unaware.node} stays a member: the cluster is partitioned (says " in done.stderr
    finally:
        unaware.thaw()
        unaware.stop()
        unaware.start()
    wait_for(lambda: members(third) == nodes(*cluster), "all see all")
    assert [is_apart(broker) for broker in cluster] == [False] * 3
    wait_for(lambda: replicas(third) == dict.fromkeys(QUEUES, nodes(*cluster)), "each replica runs")


def test_one_that_hangs_in_its_start_is_found_when_the_help_of_rabbitmq_was_in_vain_and_ended(cluster: Cluster) -> None:
    hanging, other, third = cluster
    begins = "sys:suspend(global_name_server), spawn(rabbit_node_monitor, global_sync, []).\n"
    evaluate = ["erl_call", "-sname", hanging.node, "-e"]
    subprocess.run(evaluate, input=begins, env=hanging.environment, text=True, timeout=WAIT_S, check=True)
    try:
        assert why_stuck(hanging) == "", "the help of RabbitMQ is still to come"
        said = wait_for(lambda: why_stuck(hanging), "its start is seen to hang")
        assert said == f"<4>{hanging.node} hangs in its start: it begins anew"
        for broker in (other, hanging):
            why_stuck(broker, "--end")
        wait_for(lambda: not hanging.runs, "its Erlang is ended")
        assert other.runs, "one that does not hang is let be"
    finally:
        hanging.stop()
        hanging.start()
    wait_for(lambda: members(third) == nodes(*cluster), "all see all")
    wait_for(lambda: replicas(third) == dict.fromkeys(QUEUES, nodes(*cluster)), "each replica runs")
    assert why_stuck(hanging) == ""


# -- the spare


def ctl(broker: RabbitBroker, *words: str) -> str:
    """Run rabbitmqctl on the broker."""
    words = ("rabbitmqctl", "--quiet", *words)
    return subprocess.run(words, env=broker.environment, capture_output=True, text=True, timeout=WAIT_S).stdout


def members(broker: RabbitBroker) -> set[str]:
    """Return the members of the cluster as the broker sees them."""
    return set(json.loads(ctl(broker, "cluster_status", "--formatter", "json"))["disk_nodes"])


def replicas(broker: RabbitBroker) -> dict[str, set[str]]:
    """Return on which brokers each queue has a replica that runs."""
    told = ctl(broker, "list_queues", "-p", VHOST, "name", "type", "online", "--formatter", "json")
    return {row["name"]: set(row["online"]) for row in json.loads(told) if row["type"] == "quorum"}


def nodes(*brokers: RabbitBroker) -> set[str]:
    return {broker.node for broker in brokers}


def test_the_spare_takes_the_place_of_a_member_only_when_it_is_lost_and_gives_it_back_and_no_message_is_lost(
    cluster: Cluster, rabbit_spare: RabbitBroker
) -> None:
    first, second, lost = cluster
    with_spare = (first, second, rabbit_spare)
    member(first, cluster, "--lead")
    with publishing_at(first) as publisher:
        done = member(rabbit_spare, with_spare, "--instead-of", lost.node)
        assert done.returncode == 1
        assert f"{lost.node} runs, so it is not lost: it stays a member" in done.stderr
        assert lost.node in members(first)

        lost.stop()
        done = member(rabbit_spare, with_spare, "--instead-of", lost.node)
        assert (done.returncode, done.stderr) == (0, "")
        assert f"{lost.node} has left it" in done.stdout
        assert members(first) == nodes(*with_spare)
        assert replicas(first) == dict.fromkeys(QUEUES, nodes(*with_spare))

        # What was forgotten does not come back by itself, nor with what it held.
        assert f"{lost.node} is no member" in member(lost, with_spare, "--ask", lost.node).stdout
        with pytest.raises(RuntimeError, match="did not become ready"):
            lost.start()
        lost.put_data_aside()
        lost.start()
        # The spare leads a queue: its end must not end that.
        member(rabbit_spare, with_spare, "--lead")
        done = member(lost, cluster, "--release", rabbit_spare.node)
        assert (done.returncode, done.stderr) == (0, "")
        assert "has joined the cluster" in done.stdout
        assert members(first) == nodes(*cluster)
        assert replicas(first) == dict.fromkeys(QUEUES, nodes(*cluster))
        before = len(publisher.confirmed)
        member(first, cluster, "--lead")
    assert len(publisher.confirmed) > before
    assert lost_of(second, publisher) == set()
    # As the play leaves it: stopped, its data put aside where it is needed next.
    rabbit_spare.stop()
    rabbit_spare.put_data_aside()
    rabbit_spare.start()


def lost_of(broker: RabbitBroker, publisher: Publisher) -> set[str]:
    return lost(broker, set(publisher.confirmed))


def test_the_brokers_take_a_new_cookie_without_a_restart(cluster: Cluster) -> None:
    def run(broker: RabbitBroker, *words: str) -> tuple[int, str]:
        command = ["rabbitmqctl", "--quiet", *words]
        done = subprocess.run(command, env=broker.environment, capture_output=True, text=True, timeout=WAIT_S)
        return done.returncode, done.stderr or done.stdout

    def take(broker: RabbitBroker, cookie: str, *, runs: bool = True) -> bool:
        path, owner = str(broker.cookie_file), broker.cookie_file.owner()
        return bool(erlang_cookie.replaced(partial(run, broker), lambda: runs, path, cookie, owner))

    former, new = cluster[0].cookie_file.read_text(), "ANOTHER" + "X" * 33
    with publishing_at(cluster[0]) as publisher:
        assert [take(broker, new) for broker in cluster] == [True] * 3
        assert [take(broker, new) for broker in cluster] == [False] * 3
        # From another VM, which is a new connection; and the members have never lost each other.
        for broker, other in zip(cluster, (*cluster[1:], cluster[0]), strict=True):
            status, said = run(broker, "-n", other.node, "cluster_status", "--formatter", "json")
            assert status == 0, said
            assert len(json.loads(said)["running_nodes"]) == 3
        confirmed = len(publisher.confirmed)
        wait_for(lambda: len(publisher.confirmed) > confirmed, "messages are confirmed as before")

    # Interrupted between the broker and the file, and run again; then one that does not answer to either.
    replace_text(cluster[0].cookie_file, former)
    assert take(cluster[0], new)
    assert run(cluster[0], "ping")[0] == 0
    replace_text(cluster[0].cookie_file, former)
    with pytest.raises(erlang_cookie.No, match="it runs and does not answer"):
        take(cluster[0], "NOBODY'S")
    assert cluster[0].cookie_file.read_text() == former
    assert take(cluster[0], new, runs=False)
    assert [take(broker, former) for broker in cluster] == [True] * 3
    assert {broker.cookie_file.stat().st_mode & 0o777 for broker in cluster} == {0o400}


def replace_text(path: Path, text: str) -> None:
    """Write what only its owner may read, whose mode allows nobody to write."""
    owner = path.stat()
    path.unlink()
    path.write_text(text)
    path.chmod(0o400)
    os.chown(path, owner.st_uid, owner.st_gid)


def test_a_member_that_holds_the_only_copy_of_something_stays(cluster: Cluster, rabbit_spare: RabbitBroker) -> None:
    first, second, third = cluster
    with third.connect() as connection:
        connection.channel().queue_declare("classic", durable=True)
    third.stop()
    done = member(rabbit_spare, (first, second, rabbit_spare), "--within", "1", "--instead-of", third.node)
    assert done.returncode == 1
    assert f"{third.node} stays a member: queue 'classic' in vhost '{VHOST}' is nowhere else" in done.stderr
    third.start()
    assert third.node in members(first)
    with third.connect() as connection:
        connection.channel().queue_delete("classic")
    assert member(first, cluster, "--release", rabbit_spare.node).returncode == 0
