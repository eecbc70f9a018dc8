"""The script that activate_messaging.yml runs on a broker, with a stand-in for rabbitmqctl."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "templates" / "broker-member"
ME, OTHER, LOST = "rabbit@messaging-server", "rabbit@frontend-server", "rabbit@database-server"

# Answers from a file per node and command; notes what was asked.
RABBITMQCTL = """\
#!/bin/sh
shift
node=me
[ "$1" = -n ] && node=$2 && shift 2
echo "$@" >>"{here}/asked"
asked=$1
case $1$2 in
eval*disconnect_node*) asked=lost ;;
eval*multicall*) asked=queues ;;
eval*partitions*) asked=partitioned ;;
eval*transfer_leadership*) asked=leaders ;;
eval*) asked=alone ;;
esac
case $1 in cluster_status | list_vhosts | list_queues | eval) cat "{here}/$node.$asked" || exit 69 ;; esac
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
        self.finds("me", "partitioned", {"value": []})

    def finds(self, node: str, command: str, answer: object) -> None:
        (self.here / f"{node}.{command}").write_text(json.dumps(answer))

    def has_members(self, node: str, *members: str, away: tuple[str, ...] = ()) -> None:
        running = [member for member in members if member not in away]
        self.finds(node, "cluster_status", {"disk_nodes": members, "ram_nodes": [], "running_nodes": running})

    def has_queue(self, members: list[str], online: list[str], leader: str, messages: int = 0) -> None:
        queue = ["queue 'q' in vhost 'orch'", members, online, [leader] if leader in online else []]
        self.finds("me", "queues", {"value": [queue]})
        self.finds("me", "list_queues", [{"name": "q", "messages": messages}])

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
        known = ("stop_app", "reset", "join_cluster", "start_app", "forget", "grow", "shrink")
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
    assert "too few members of queue 'q' in vhost 'orch' run: nothing is confirmed there" in done.stderr


def test_a_queue_whose_leader_does_not_run_cannot_confirm(broker: Broker) -> None:
    broker.has_members("me", ME, OTHER, "rabbit@database-server")
    broker.has_queue([ME, OTHER, "rabbit@database-server"], [ME, OTHER], "rabbit@database-server")
    assert "too few members of queue 'q' in vhost 'orch' run" in broker.run("--within", "0").stderr


def test_the_leaders_come_here_only_where_that_is_asked_for(broker: Broker) -> None:
    broker.has_members("me", ME, OTHER)
    broker.has_queue([ME, OTHER], [ME, OTHER], OTHER)
    broker.finds("me", "leaders", {"value": [["queue 'q' in vhost 'orch'", "here"]]})
    assert broker.run().stdout == "the broker is a member of the cluster; every queue can confirm\n"
    done = broker.run("--lead")
    assert (done.returncode, done.stdout) == (
        0,
        "the broker is a member of the cluster; every queue can confirm; 1 of 1 queues have their leader here\n",
    )


def test_where_all_brokers_run_each_queue_has_a_replica_on_every_one(broker: Broker) -> None:
    broker.has_members("me", ME, OTHER, "rabbit@database-server")
    broker.has_queue([ME, OTHER], [ME, OTHER], OTHER)
    broker.finds("me", "leaders", {"value": [["queue 'q' in vhost 'orch'", "here"]]})
    assert broker.run().returncode == 0
    assert broker.changes == [], "a standby that is started changes nothing"
    assert "; rabbit@database-server now has a replica of each queue; 1 of 1" in broker.run("--lead").stdout
    assert broker.changes == ["grow rabbit@database-server all"]


def test_with_a_broker_away_no_queue_gets_a_replica(broker: Broker) -> None:
    broker.has_members("me", ME, OTHER)
    broker.has_queue([OTHER], [OTHER], OTHER)
    broker.finds("me", "leaders", {"value": [["queue 'q' in vhost 'orch'", "unknown_member"]]})
    done = broker.run("--lead")
    assert done.returncode == 0
    assert "0 of 1 queues have their leader here; that of queue 'q' in vhost 'orch' stays where it is (" in done.stdout
    assert broker.changes == []


@pytest.mark.parametrize("answer", [{"value": None}, "what?", None])
def test_a_leader_that_cannot_come_is_told_and_no_failure(broker: Broker, answer: object) -> None:
    broker.has_members("me", ME, OTHER)
    broker.has_queue([ME, OTHER], [ME, OTHER], OTHER)
    if answer is not None:
        broker.finds("me", "leaders", answer)
    done = broker.run("--lead")
    assert done.returncode == 0
    assert "every queue can confirm; the queues' leaders stay where they are (" in done.stdout


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"value": "let_go"}, f"; {OTHER} gave no answer and is let go"),
        ({"value": "answers"}, ""),
        ({"value": "away"}, ""),
        (None, f"; whether {OTHER} answers could not be found out ("),
    ],
    ids=["silent", "well", "away", "nobody knows"],
)
def test_what_was_failed_over_from_is_asked_first_and_changes_nothing_else(
    broker: Broker, answer: object, said: str
) -> None:
    broker.has_members("me", ME, OTHER, LOST)
    broker.has_queue([ME, OTHER, LOST], [ME, LOST], ME)
    if answer is not None:
        broker.finds("me", "lost", answer)
    done = broker.run("--failed", "frontend-server")
    assert done.returncode == 0
    told = done.stdout.removeprefix("the broker is a member of the cluster; every queue can confirm")
    assert (told.startswith(said), told == "\n") == (True, said == "")
    assert (broker.here / "asked").read_text().startswith("eval")
    assert broker.changes == []


def replaces_lost(broker: Broker, *more: str, alone: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run the script on messaging-server, which takes the place of database-server beside frontend-server."""
    broker.finds("me", "alone", {"value": alone})
    return subprocess.run(
        [str(SCRIPT), "--within", "0", *more, "database-server", "messaging-server", "frontend-server"],
        env={**os.environ, "PATH": f"{broker.here}/bin:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_lost_member_is_forgotten_when_no_queue_needs_it(broker: Broker) -> None:
    broker.has_members("me", ME, OTHER, LOST, away=(LOST,))
    broker.has_queue([ME, OTHER], [ME, OTHER], OTHER)
    done = replaces_lost(broker, "--instead-of")
    assert (done.returncode, done.stdout) == (
        0,
        f"the broker is a member of the cluster; every queue can confirm; {LOST} has left it\n",
    )
    assert broker.changes == [f"shrink {LOST}", f"forget_cluster_node {LOST}"]


def test_one_that_runs_is_not_forgotten_as_lost_and_is_stopped_when_it_is_released(broker: Broker) -> None:
    broker.has_members("me", ME, OTHER, LOST)
    broker.has_queue([ME, OTHER], [ME, OTHER], OTHER)
    done = replaces_lost(broker, "--instead-of")
    assert (done.returncode, broker.changes) == (1, [])
    assert f"{LOST} runs, so it is not lost: it stays a member" in done.stderr
    assert replaces_lost(broker, "--release").returncode == 0
    assert broker.changes == [f"shrink {LOST}", "stop_app", f"forget_cluster_node {LOST}"]


@pytest.mark.parametrize("way", ["--instead-of", "--release"])
def test_nobody_leaves_while_a_queue_lacks_a_running_replica_elsewhere(broker: Broker, way: str) -> None:
    broker.has_members("me", ME, OTHER, LOST, away=(LOST,))
    broker.has_queue([ME, OTHER, LOST], [OTHER, LOST], OTHER)
    done = replaces_lost(broker, way)
    assert done.returncode == 1
    assert f"{LOST} stays a member: queue 'q' in vhost 'orch' has no running replica on {ME}" in done.stderr
    assert not [line for line in broker.changes if line.startswith(("shrink", "forget", "stop_app"))]


def test_nobody_leaves_who_alone_has_something_durable(broker: Broker) -> None:
    broker.has_members("me", ME, OTHER, LOST, away=(LOST,))
    broker.has_queue([ME, OTHER], [ME, OTHER], OTHER)
    done = replaces_lost(broker, "--instead-of", alone=("queue 'old' in vhost 'orch'",))
    assert (done.returncode, broker.changes) == (1, [])
    assert f"{LOST} stays a member: queue 'old' in vhost 'orch' is nowhere else" in done.stderr


def test_nobody_leaves_a_cluster_that_is_partitioned(broker: Broker) -> None:
    broker.has_members("me", ME, OTHER, LOST, away=(LOST,))
    broker.has_queue([ME, OTHER], [ME, OTHER], OTHER)
    broker.finds("me", "partitioned", {"value": [OTHER]})
    done = replaces_lost(broker, "--instead-of")
    assert (done.returncode, broker.changes) == (1, [])
    assert f"the cluster is partitioned (says {OTHER}) until the one that is apart begins anew" in done.stderr


def test_nobody_leaves_who_could_not_be_taken_out_of_a_queue(broker: Broker) -> None:
    broker.has_members("me", ME, OTHER, LOST, away=(LOST,))
    broker.has_queue([ME, OTHER, LOST], [ME, OTHER], OTHER)
    done = replaces_lost(broker, "--instead-of")
    assert done.returncode == 1
    assert f"{LOST} stays a member: it has a replica of queue 'q' in vhost 'orch' still" in done.stderr
    assert broker.changes == [f"shrink {LOST}"]


def test_one_that_has_left_already_is_no_failure(broker: Broker) -> None:
    broker.has_members("me", ME, OTHER)
    broker.has_queue([ME, OTHER], [ME, OTHER], OTHER)
    done = replaces_lost(broker, "--instead-of")
    assert done.stdout.endswith(f"; {LOST} is no member\n")
    assert broker.changes == []


def test_asked_it_says_whether_the_others_know_a_member_and_changes_nothing(broker: Broker) -> None:
    broker.has_members(OTHER, OTHER, ME, LOST, away=(LOST,))
    assert replaces_lost(broker, "--ask").stdout == f"{LOST} is a member of the cluster\n"
    broker.has_members(OTHER, OTHER, ME)
    assert replaces_lost(broker, "--ask").stdout == f"{LOST} is no member of the cluster\n"
    assert broker.changes == []


def test_asked_where_no_other_broker_runs_it_does_not_guess(broker: Broker) -> None:
    # One that is paused, as in a minority, answers and does not run.
    broker.has_members(OTHER, OTHER, ME, away=(OTHER, ME))
    done = replaces_lost(broker, "--ask")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"no other broker answers who could say whether {LOST} is a member" in done.stderr
