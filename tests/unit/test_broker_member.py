"""The script that activate_messaging.yml runs on a broker, with a stand-in for rabbitmqctl."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "templates" / "broker-member"
ME, OTHER = "rabbit@messaging-server", "rabbit@frontend-server"

# Answers from a file per node and command; notes what was asked.
RABBITMQCTL = """\
#!/bin/sh
shift
node=me
[ "$1" = -n ] && node=$2 && shift 2
echo "$@" >>"{here}/asked"
case $1 in cluster_status | list_vhosts | list_queues | eval) cat "{here}/$node.$1" || exit 69 ;; esac
"""


class Broker:
    """What rabbitmqctl finds."""

    def __init__(self, here: Path) -> None:
        self.here = here
        (here / "bin").mkdir()
        (here / "bin" / "rabbitmqctl").write_text(RABBITMQCTL.format(here=here))
        (here / "bin" / "rabbitmqctl").chmod(0o755)
        (here / "bin" / "rabbitmq-queues").symlink_to("rabbitmqctl")
        self.finds("me", "list_vhosts", [{"name": "orch"}])

    def finds(self, node: str, command: str, answer: object) -> None:
        (self.here / f"{node}.{command}").write_text(json.dumps(answer))

    def has_members(self, node: str, *members: str) -> None:
        self.finds(node, "cluster_status", {"disk_nodes": members, "ram_nodes": [], "running_nodes": members})

    def has_queue(self, members: list[str], online: list[str], leader: str, messages: int = 0) -> None:
        queue = {"name": "q", "type": "quorum", "members": members, "online": online, "leader": leader}
        self.finds("me", "list_queues", [queue | {"messages": messages}])

    def run(self, *more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(SCRIPT), *more, "messaging-server", "frontend-server", "database-server"],
            env={**os.environ, "PATH": f"{self.here}/bin:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=60,
        )

    @property
    def changes(self) -> list[str]:
        """The commands that were no questions."""
        lines = (self.here / "asked").read_text().splitlines()
        # What is asked by `eval` has several lines.
        known = ("stop_app", "reset", "join_cluster", "start_app", "forget", "grow")
        return [line for line in lines if line.startswith(known)]


@pytest.fixture
def broker(tmp_path: Path) -> Broker:
    return Broker(tmp_path)


def test_a_member_whose_queues_have_a_majority_is_well_with_one_of_three_away(broker: Broker) -> None:
    broker.has_members("me", ME, OTHER, "rabbit@database-server")
    broker.has_queue([ME, OTHER, "rabbit@database-server"], [ME, OTHER], OTHER)
    done = broker.run()
    assert (done.returncode, done.stdout) == (0, "the broker is a member of the cluster; every queue can confirm\n")
    assert broker.changes == []


def test_a_broker_that_stands_alone_and_empty_joins_the_others(broker: Broker) -> None:
    broker.has_members("me", ME)
    broker.has_members(OTHER, OTHER, "rabbit@database-server")
    broker.has_queue([ME], [ME], ME)
    done = broker.run()
    assert (done.returncode, done.stdout) == (0, "the broker has joined the cluster; every queue can confirm\n")
    assert broker.changes == ["stop_app", "reset", f"join_cluster {OTHER}", "start_app"]


def test_a_broker_that_holds_messages_of_its_own_is_never_reset(broker: Broker) -> None:
    broker.has_members("me", ME)
    broker.has_members(OTHER, OTHER, "rabbit@database-server")
    broker.has_queue([ME], [ME], ME, messages=1)
    done = broker.run()
    assert done.returncode == 1
    assert "holds messages of its own (q (orch))" in done.stderr
    assert broker.changes == []


def test_a_broker_whose_others_do_not_answer_stays_as_it_is(broker: Broker) -> None:
    broker.has_members("me", ME)
    broker.has_queue([ME], [ME], ME)
    assert broker.run().returncode == 0
    assert broker.changes == []


def test_a_queue_without_a_majority_is_named_when_the_wait_is_over(broker: Broker) -> None:
    broker.has_members("me", ME, OTHER, "rabbit@database-server")
    broker.has_queue([ME, OTHER, "rabbit@database-server"], [ME], ME)
    done = broker.run("--within", "0")
    assert done.returncode == 1
    assert "too few members of q (orch) run: nothing is confirmed there" in done.stderr


def test_the_leaders_come_here_only_where_that_is_asked_for(broker: Broker) -> None:
    broker.has_members("me", ME, OTHER)
    broker.has_queue([ME, OTHER], [ME, OTHER], OTHER)
    broker.finds("me", "eval", {"value": [["queue 'q' in vhost 'orch'", "here"]]})
    assert broker.run().stdout == "the broker is a member of the cluster; every queue can confirm\n"
    done = broker.run("--lead")
    assert (done.returncode, done.stdout) == (
        0,
        "the broker is a member of the cluster; every queue can confirm; 1 of 1 queues have their leader here\n",
    )


def test_where_all_brokers_run_each_queue_has_a_replica_on_every_one(broker: Broker) -> None:
    broker.has_members("me", ME, OTHER, "rabbit@database-server")
    broker.has_queue([ME, OTHER], [ME, OTHER], OTHER)
    broker.finds("me", "eval", {"value": [["queue 'q' in vhost 'orch'", "here"]]})
    assert broker.run().returncode == 0
    assert broker.changes == [], "a standby that is started changes nothing"
    assert "; rabbit@database-server now has a replica of each queue; 1 of 1" in broker.run("--lead").stdout
    assert broker.changes == ["grow rabbit@database-server all"]


def test_with_a_broker_away_no_queue_gets_a_replica(broker: Broker) -> None:
    broker.has_members("me", ME, OTHER)
    broker.has_queue([OTHER], [OTHER], OTHER)
    broker.finds("me", "eval", {"value": [["queue 'q' in vhost 'orch'", "unknown_member"]]})
    done = broker.run("--lead")
    assert done.returncode == 0
    assert "0 of 1 queues have their leader here; that of queue 'q' in vhost 'orch' stays where it is (" in done.stdout
    assert broker.changes == []


@pytest.mark.parametrize("answer", [{"value": None}, "what?", None])
def test_a_leader_that_cannot_come_is_told_and_no_failure(broker: Broker, answer: object) -> None:
    broker.has_members("me", ME, OTHER)
    broker.has_queue([ME, OTHER], [ME, OTHER], OTHER)
    if answer is not None:
        broker.finds("me", "eval", answer)
    done = broker.run("--lead")
    assert done.returncode == 0
    assert "every queue can confirm; the queues' leaders stay where they are (" in done.stdout
