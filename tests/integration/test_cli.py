"""`orch` as a process, against a real Consul agent: what only the real one can show."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.domain import keys
from orchestrator.domain.records import Assignment, MoveKind, Request, RequestState
from orchestrator.store.consul_port import ConsulPort
from orchestrator.store.port import AgentService, PushedSpec
from orchestrator.store.records import update_record
from tests.integration.consul_agent import ConsulAgent

HERE = Path(__file__).parents[2]
# A process that takes longer hangs; nothing here is timed.
PATIENCE_S = 60.0


def policy(node: str) -> dict[str, Any]:
    """The backend, down on a VM that is not there, with the agent's own VM as the only other one."""
    return {
        "vms": {"vm-gone": {"address": "10.0.0.1", "roles": ["controller", "worker"]}, node: {"address": "127.0.0.1"}},
        "services": {
            "backend": {
                "order": ["vm-gone", node],
                "unit": "node-app",
                "port": 3000,
                "check": {"kind": "http", "path": "/health"},
                "activate": "activate_backend.yml",
                "deactivate": "deactivate_backend.yml",
            }
        },
    }


class Orch:
    """`orch --consul AGENT`, run as a process."""

    def __init__(self, http_port: int, **environment: str) -> None:
        self._command = [sys.executable, "-m", "orchestrator.cli.main", "--consul", f"127.0.0.1:{http_port}"]
        self._environment = {**os.environ, **environment}
        self._started: list[subprocess.Popen[str]] = []

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start it; the caller waits for it."""
        process = subprocess.Popen(
            [*self._command, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self._environment,
            cwd=HERE,
            # As a person's shell starts it; where the tests run in the background, SIGINT is ignored and inherited.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        self._started.append(process)
        return process

    def end(self) -> None:
        """Leave no process behind where a test failed."""
        for process in self._started:
            process.kill()

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Run it to its end: exit status, stdout, stderr."""
        process = self.start(*arguments)
        try:
            out, err = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
        return process.returncode, out, err


@pytest.fixture
def fleet(consul_agent: ConsulAgent, consul_port: ConsulPort, tmp_path: Path) -> Iterator[Orch]:
    """A policy applied by `orch` itself, an assignment, a live guard on the agent's VM; all gone afterwards."""
    orch = Orch(consul_agent.http_port)
    file = tmp_path / "policy.json"
    file.write_text(json.dumps(policy(consul_agent.node)), encoding="utf-8")
    assert orch.run("config", "apply", str(file))[0] == 0
    guard = keys.daemon_check_id("guard")
    consul_port.agent_register(AgentService("orch-guard", "orch-guard", 9703))
    consul_port.agent_register_pushed("orch-guard", PushedSpec(guard, guard, 600, "passing"))
    assignment = Assignment(
        service="backend",
        active="vm-gone",
        designated="vm-gone",
        epoch=1,
        since=time.time(),
        kind=MoveKind.INITIAL,
        reason="at home",
    )
    consul_port.kv_put(keys.assignment("backend"), assignment.to_json().encode())
    _wait_for_check(consul_port, guard)
    yield orch
    orch.end()
    consul_port.agent_deregister("orch-guard")
    for key in consul_port.kv_keys(keys.ROOT):
        consul_port.kv_delete(key)


def _wait_for_check(port: ConsulPort, check_id: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not any(check.check_id == check_id for check in port.checks()[1]):
        assert time.monotonic() < deadline, f"{check_id} never reached the catalog"
        time.sleep(0.05)


def _only_request(port: ConsulPort) -> str:
    """Wait for the request that `orch` writes and return its key."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := port.kv_keys(keys.REQUESTS)):
        assert time.monotonic() < deadline, "no request was written"
        time.sleep(0.05)
    return found[0]


def test_a_request_is_followed_by_blocking_queries_to_its_end(fleet: Orch, consul_port: ConsulPort) -> None:
    process = fleet.start("failover", "backend", "--wait")
    key, now = _only_request(consul_port), time.time()

    def changed(**changes: Any) -> None:
        update_record(consul_port, key, Request, lambda request: request.with_(**changes))

    changed(state=RequestState.RUNNING, target="vm-1", epoch=2, times={"decided": now})
    changed(times={"decided": now, "assigned": now + 0.1})
    changed(state=RequestState.SUCCEEDED, outcome="backend is active on vm-1.", times={"finished": now + 0.2})
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    assert out.splitlines()[-1].endswith(": backend is active on vm-1.")
    assert err == "orch: no controller leads now; the request waits in KV until one does.\n"


def test_a_cancelled_request_is_exit_5_and_json_says_it_too(fleet: Orch, consul_port: ConsulPort) -> None:
    process = fleet.start("--json", "failover", "backend", "--wait")
    key = _only_request(consul_port)
    update_record(consul_port, key, Request, lambda request: request.with_(state=RequestState.CANCELLED))
    out, _ = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, json.loads(out)["requests"][0]["state"]) == (5, "cancelled")


def test_ctrl_c_ends_the_waiting_at_once_and_the_request_stays(fleet: Orch, consul_port: ConsulPort) -> None:
    process = fleet.start("failover", "backend", "--wait")
    assert process.stdout is not None
    key = _only_request(consul_port)
    # The first line of progress says that the blocking query is under way.
    assert process.stdout.readline().strip() == "waiting for the controller"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 6
    assert "you stopped waiting; the request goes on" in err
    assert consul_port.kv_get(key)[1] is not None


def test_a_refused_failover_writes_nothing(fleet: Orch, consul_port: ConsulPort) -> None:
    code, _, err = fleet.run("failover", "backend", "--to", "vm-gone")
    assert (code, consul_port.kv_keys(keys.REQUESTS)) == (3, ())
    assert "backend is already active on vm-gone" in err


def test_the_status_shows_what_consul_says(fleet: Orch, consul_agent: ConsulAgent) -> None:
    code, out, _ = fleet.run("status", "--json")
    vms = json.loads(out)["vms"]
    assert (code, vms["vm-gone"]["reach"], vms[consul_agent.node]["reach"]) == (0, "down", "up")
    assert vms[consul_agent.node]["daemons"] == {"guard": True}


def test_pause_and_maintenance_can_be_switched_on_and_off(fleet: Orch, consul_agent: ConsulAgent) -> None:
    vm = consul_agent.node
    switches = [("pause",), ("maintenance", "on", vm), ("maintenance", "off", vm), ("resume",)]
    assert [fleet.run(*switch)[0] for switch in switches] == [0, 0, 0, 0]
    found = json.loads(fleet.run("--json", "status")[1])
    assert (found["paused"], found["vms"][vm]["maintenance"]) == (None, None)


def test_the_environment_of_the_consul_library_does_not_mislead_orch(consul_agent: ConsulAgent) -> None:
    misled = Orch(consul_agent.http_port, CONSUL_HTTP_ADDR="127.0.0.1:1", HTTP_PROXY="http://127.0.0.1:1")
    assert misled.run("history")[0] == 0


def test_a_consul_that_is_not_there_is_one_sentence_and_exit_7() -> None:
    assert Orch(1).run("status") == (7, "", "orch: Consul at 127.0.0.1:1 cannot be reached: connection refused.\n")


def test_a_consul_that_accepts_and_never_answers_is_exit_7_too(own_consul_agent: ConsulAgent) -> None:
    own_consul_agent.freeze()
    code, _, err = Orch(own_consul_agent.http_port).run("failover", "backend")
    assert (code, len(err.splitlines())) == (7, 1)
    assert "cannot be reached: no answer in time" in err


def test_a_daemon_starts_from_its_settings_and_ends_well_on_sigterm(
    own_consul_agent: ConsulAgent, tmp_path: Path
) -> None:
    settings = tmp_path / "orch.json"
    document = {
        "vm": own_consul_agent.node,
        "consul": {"port": own_consul_agent.http_port},
        "amqp": {
            **{"hosts": ["127.0.0.1"], "port": 1},
            "controller": {"user": "orch_controller", "password_file": str(tmp_path / "password")},
        },
        "state_dir": str(tmp_path),
        "health_ports": {"controller": 0, "worker": 0, "guard": 0},
    }
    settings.write_text(json.dumps(document), encoding="utf-8")
    (tmp_path / "password").write_text("secret", encoding="utf-8")
    process = Orch(own_consul_agent.http_port).start("--settings", str(settings), "controller")
    try:
        assert process.stdout is not None
        first = process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
    assert (process.returncode, "SIGTERM: stopping" in out) == (0, True), first + out + err
