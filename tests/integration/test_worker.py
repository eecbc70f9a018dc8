"""Two workers, each with a Consul agent of its own, a real broker, real plays."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from orchestrator.dispatch.publisher import Publisher
from orchestrator.domain import keys
from orchestrator.domain.records import Assignment, Command, CommandState, MoveKind, Play, Record, Request
from orchestrator.domain.wire import DEAD_LETTER_QUEUE, QUEUE
from orchestrator.settings import LocalSettings
from orchestrator.store.consul_port import ConsulPort
from orchestrator.store.records import update_record
from orchestrator.worker import FINISH_WITHIN_S
from tests.integration.conftest import started_agent
from tests.integration.consul_agent import ConsulAgent, find_consul
from tests.integration.playground import Playground, processes_with
from tests.integration.ports import free_port
from tests.integration.rabbitmq_broker import RabbitBroker, end_group
from tests.integration.waiting import WAIT_S, wait_for
from tests.simulation.world import policy_document

# What has to come while a play runs comes long before this one is over.
LONG_S = 30.0
# With Ansible's own time well below what a worker that stops gives a play.
SHORT_S = FINISH_WITHIN_S / 4
VMS = ("worker-a", "worker-b")
PROGRAM = """
import signal, sys, threading
from pathlib import Path
from orchestrator.journal import configure_journal
from orchestrator.settings import load_settings
from orchestrator.worker import run
configure_journal()
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
run(load_settings(Path(sys.argv[1])), stop)
"""


class WorkerProcess:
    """One worker's VM: a Consul client agent with the worker's check, and the worker itself."""

    def __init__(self, directory: Path, vm: str, server: ConsulAgent, broker: RabbitBroker, ground: Playground) -> None:
        self.vm, self.directory = vm, directory
        directory.mkdir()
        self.http_port, health_port, serf_port = free_port(), free_port(), free_port()
        self.settings = LocalSettings.model_validate(
            {
                "vm": vm,
                "consul": {"host": "127.0.0.1", "port": self.http_port},
                "amqp": broker.settings.model_dump(mode="json"),
                "ansible_dir": str(ground.places.ansible_dir),
                "state_dir": str(directory / "state"),
                "ssh_key_file": str(directory / "id"),
                "health_ports": {"worker": health_port},
            }
        )
        (directory / "orch.json").write_text(self.settings.model_dump_json())
        alive = {
            "id": "orch-worker:alive",
            "name": "alive",
            "http": f"http://127.0.0.1:{health_port}/health",
            "interval": "1s",
            "timeout": "1s",
        }
        config = {
            "server": False,
            "node_name": vm,
            "data_dir": str(directory / "consul"),
            "bind_addr": "127.0.0.1",
            "client_addr": "127.0.0.1",
            "log_level": "warn",
            "disable_update_check": True,
            "retry_join": [f"127.0.0.1:{server._ports[1]}"],
            "retry_interval": "1s",
            "ports": {"http": self.http_port, "serf_lan": serf_port, "dns": -1, "grpc": -1, "grpc_tls": -1},
            "services": [{"id": "orch-worker", "name": "orch-worker", "check": alive}],
        }
        (directory / "agent.json").write_text(json.dumps(config))
        self.log = (directory / "log").open("ab")
        agent_log = (directory / "agent.log").open("ab")
        self.agent = self._spawn([str(find_consul()), "agent", f"-config-file={directory}/agent.json"], agent_log)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = self._spawn([sys.executable, "-c", PROGRAM, str(self.directory / "orch.json")], self.log)

    def kill(self) -> None:
        """As `systemctl kill` would not do it: only the worker's own process."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def terminate(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(WAIT_S)

    def artefacts(self) -> list[str]:
        return sorted(path.name for path in Path(self.settings.state_dir, "artefacts").iterdir())

    def close(self) -> None:
        for process in (self.process, self.agent):
            if process is not None:
                end_group(process)

    def said(self) -> str:
        return (self.directory / "log").read_text(errors="replace")

    def _spawn(self, command: list[str], log: BinaryIO) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )


class Fleet:
    """Both workers and what tests do around them."""

    def __init__(self, directory: Path, agent: ConsulAgent, broker: RabbitBroker) -> None:
        self.ground = Playground(directory, hold_s=LONG_S)
        self.port = ConsulPort(port=agent.http_port)
        self.broker = broker
        self.workers = [WorkerProcess(directory / vm, vm, agent, broker, self.ground) for vm in VMS]
        self.publisher = Publisher(broker.settings)
        self.publisher.start()
        self._numbers = iter(range(1, 100))
        self.epoch = 0
        self.assign_anew()
        for worker in self.workers:
            worker.start()
        wait_for(lambda: self.publisher.is_up, "the publisher is up")
        for worker in self.workers:
            self.wait_for_session(worker)

    def wait_for_session(self, worker: WorkerProcess) -> None:
        def has_session() -> bool:
            _, sessions = self.port.session_list(worker.vm)
            return any(session.name == f"orch-worker@{worker.vm}" for session in sessions)

        wait_for(has_session, f"{worker.vm} has a session; it said:\n{worker.said()[-2000:]}")

    def put(self, key: str, record: Record) -> None:
        self.port.kv_put(key, record.to_json().encode())

    def assign_anew(self) -> None:
        """Write an assignment of the next epoch: it never goes back, which a worker might see late."""
        self.epoch += 1
        self.put(keys.assignment("backend"), an_assignment(self.epoch))

    def begin(self, playbook: str, *, publish: bool = True) -> str:
        """Create a command as the leader does, and publish it."""
        command = Command(
            id=f"{next(self._numbers):013d}-backend-c",
            request_id="0000000000001-backend-r",
            service="backend",
            kind=MoveKind.FAILOVER,
            play=Play.ACTIVATE,
            playbook=playbook,
            target="messaging-server",
            failed_instance="backend-server",
            epoch=self.epoch,
            created=time.time(),
        )
        self.put(keys.command(command.id), command)
        if publish:
            self.publisher.publish(command)
        return command.id

    def command(self, command_id: str) -> Command:
        _, pair = self.port.kv_get(keys.command(command_id))
        assert pair is not None
        return Command.from_json(pair.value)

    def until_over(self, command_id: str) -> Command:
        def over() -> Command | None:
            command = self.command(command_id)
            return command if command.is_final else None

        found: Command = wait_for(over, f"the command is over; workers said:\n{self.said()}")
        return found

    def until_begun(self) -> None:
        wait_for(lambda: "begin" in self.ground.lines, f"the play has begun; workers said:\n{self.said()}")

    def runner_of(self, command_id: str) -> WorkerProcess:
        return next(worker for worker in self.workers if worker.vm == self.command(command_id).worker)

    def said(self) -> str:
        return "\n".join(worker.said()[-3000:] for worker in self.workers)

    def close(self) -> None:
        self.publisher.stop()
        for worker in self.workers:
            worker.close()
        self.port.close()


def an_assignment(epoch: int) -> Assignment:
    return Assignment(
        service="backend",
        active="messaging-server",
        designated="messaging-server",
        epoch=epoch,
        since=1.0,
        kind=MoveKind.FAILOVER,
        reason="test",
    )


@pytest.fixture(scope="module")
def running_fleet(tmp_path_factory: pytest.TempPathFactory, rabbit_broker: RabbitBroker) -> Iterator[Fleet]:
    agent = started_agent(tmp_path_factory.mktemp("consul"))
    fleet = Fleet(tmp_path_factory.mktemp("fleet"), agent, rabbit_broker)
    yield fleet
    fleet.close()
    agent.stop()


@pytest.fixture
def fleet(running_fleet: Fleet) -> Iterator[Fleet]:
    """Both workers are running; nothing is in the queue or in the log."""
    for worker in running_fleet.workers:
        if worker.process is None or worker.process.poll() is not None:
            worker.start()
            running_fleet.wait_for_session(worker)
    running_fleet.ground.log.unlink(missing_ok=True)
    running_fleet.ground.hold(LONG_S)
    yield running_fleet
    print(running_fleet.said())


def test_a_command_is_run_and_its_message_acknowledged(fleet: Fleet) -> None:
    done = fleet.until_over(fleet.begin("quick.yml"))
    assert (done.state, done.rc, done.attempt) == (CommandState.SUCCEEDED, 0, 1)
    assert done.claimed is not None
    assert done.first_task is not None
    assert done.finished is not None
    assert done.claimed <= done.first_task <= done.finished
    assert any("failed=0" in line for line in done.tail)
    assert fleet.ground.lines == ["backend 1 backend-server"]
    wait_for(lambda: fleet.broker.depth(QUEUE) == 0, "the message is off the queue")
    print(
        f"created to claimed {done.claimed - done.created:.3f} s, to first task {done.first_task - done.created:.3f} s"
    )


def test_a_failing_play_fails_its_command(fleet: Fleet) -> None:
    done = fleet.until_over(fleet.begin("failing.yml"))
    assert (done.state, done.rc) == (CommandState.FAILED, 2)
    assert "this is why" in done.reason


def test_a_cancelled_command_is_killed(fleet: Fleet) -> None:
    command_id = fleet.begin("slow.yml")
    fleet.until_begun()
    update_record(fleet.port, keys.command(command_id), Command, lambda command: command.with_(cancel_requested=True))
    assert fleet.until_over(command_id).state is CommandState.CANCELLED
    assert processes_with(str(fleet.ground.lock)) == []
    assert fleet.ground.lines == ["begin"]


def test_a_command_that_is_superseded_in_the_middle_is_killed(fleet: Fleet) -> None:
    command_id = fleet.begin("slow.yml")
    fleet.until_begun()
    fleet.assign_anew()
    assert fleet.until_over(command_id).state is CommandState.SUPERSEDED
    assert processes_with(str(fleet.ground.lock)) == []
    assert fleet.ground.lines == ["begin"]


def test_a_command_without_a_message_is_picked_up_from_kv(fleet: Fleet) -> None:
    assert fleet.until_over(fleet.begin("quick.yml", publish=False)).state is CommandState.SUCCEEDED


def test_a_worker_killed_in_the_middle_is_replaced_and_two_never_run_at_once(fleet: Fleet) -> None:
    command_id = fleet.begin("slow.yml")
    fleet.until_begun()
    fleet.ground.hold(SHORT_S)
    runner = fleet.runner_of(command_id)
    runner.kill()
    wait_for(lambda: processes_with(str(fleet.ground.lock)) == [], "its play has died with it")
    done = fleet.until_over(command_id)
    assert (done.state, done.attempt, done.worker != runner.vm) == (CommandState.SUCCEEDED, 2, True)
    assert fleet.ground.lines == ["begin", "begin", "end"]


def test_a_worker_that_is_stopped_lets_a_short_play_finish(fleet: Fleet) -> None:
    fleet.ground.hold(SHORT_S)
    command_id = fleet.begin("slow.yml")
    fleet.until_begun()
    fleet.runner_of(command_id).terminate()
    done = fleet.command(command_id)
    assert (done.state, done.attempt) == (CommandState.SUCCEEDED, 1)
    assert fleet.ground.lines == ["begin", "end"]


def test_a_worker_keeps_as_many_artefacts_as_the_policy_says(fleet: Fleet) -> None:
    document = policy_document("cold", 5.0, 86400.0)
    document["dispatch"]["keep_artefacts"] = 2
    fleet.port.kv_put(keys.CONFIG, json.dumps(document).encode())
    commands = [fleet.until_over(fleet.begin("quick.yml")) for _ in range(5)]
    for worker in fleet.workers:
        taken = [command.id for command in commands if command.worker == worker.vm]
        # A worker looks at the end of each of its plays.
        if taken:
            wait_for(lambda worker=worker: len(worker.artefacts()) <= 2, f"{worker.vm} keeps two at most")
            assert worker.artefacts()[-1] == taken[-1]
    fleet.port.kv_delete(keys.CONFIG)


def test_a_message_published_by_hand_becomes_a_request(fleet: Fleet) -> None:
    body = {"command_type": "failover", "instance_type": "backend", "failed_instance": "backend-server"}
    fleet.broker.publish(json.dumps(body).encode())
    [pair] = wait_for(lambda: fleet.port.kv_list(keys.REQUESTS)[1], "there is a request")
    assert Request.from_json(pair.value).origin == "message"


def test_a_message_that_is_none_goes_to_the_dead_letter_queue(fleet: Fleet) -> None:
    before = fleet.broker.depth(DEAD_LETTER_QUEUE)
    fleet.broker.publish(b"what is this?")
    wait_for(lambda: fleet.broker.depth(DEAD_LETTER_QUEUE) == before + 1, "the message is in the dead-letter queue")


def test_a_worker_tells_its_metrics(fleet: Fleet) -> None:
    command_id = fleet.begin("quick.yml")
    fleet.until_over(command_id)
    page = f"http://127.0.0.1:{fleet.runner_of(command_id).settings.health_ports.worker}/metrics"

    def told() -> bool:
        with urllib.request.urlopen(page, timeout=5) as answer:
            said = answer.read().decode()
        played = 'orch_worker_plays_total{outcome="succeeded",playbook="quick.yml"}' in said
        return played and "orch_worker_session 1.0" in said

    wait_for(told, "the play is counted")


def test_workers_are_small(fleet: Fleet) -> None:
    for worker in fleet.workers:
        assert worker.process is not None
        print(
            worker.vm,
            "worker",
            resident_kb(worker.process.pid),
            "kB; below it",
            [(name, resident_kb(pid)) for pid, name in children_of(worker.process.pid)],
        )
        assert resident_kb(worker.process.pid) < 100_000


def resident_kb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")))


def children_of(pid: int) -> list[tuple[int, str]]:
    """Return the process's children with the ends of their command lines; what ends meanwhile is left out."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            for child in map(int, (task / "children").read_text().split()):
                with contextlib.suppress(OSError):
                    found.append((child, Path(f"/proc/{child}/cmdline").read_text().replace("\0", " ")[-80:]))
    return found
