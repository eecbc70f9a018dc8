"""The guard against a real Consul agent; systemd and the instance are small fakes of ours, the address is none."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from orchestrator.domain import keys
from orchestrator.domain.records import Assignment, LockValue, MoveKind
from orchestrator.guard import Guard
from orchestrator.node.situation import UnitState, UnitStatus
from orchestrator.settings import AmqpSettings, ConsulSettings, HealthPorts, LocalSettings
from orchestrator.store.consul_port import ConsulPort
from orchestrator.store.port import AgentCheck, KvPair
from tests.integration.consul_agent import ConsulAgent
from tests.integration.ports import free_port

VM = "vm-1"
OTHER = "vm-2"
UNIT = "node-app"
SERVICE_ID = keys.instance_service_id("backend")


class Instance:
    """An HTTP server that is there or not."""

    def __init__(self) -> None:
        self._server: HTTPServer | None = None
        self.port = 0
        self.start()

    def start(self) -> None:
        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", self.port), Answer)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


class Units:
    """Stands for systemd: remembers what it was told and tells every watcher."""

    def __init__(self) -> None:
        self.status = UnitStatus(UnitState.STOPPED, "inactive (dead)", 1.0)
        self._posts: list[Callable[[str, UnitStatus], None]] = []

    def watch(self, units: frozenset[str], post: Callable[[str, UnitStatus], None]) -> Units:
        assert units == {UNIT}
        self._posts.append(post)
        return self

    def start(self) -> None:
        self._posts[-1](UNIT, self.status)

    def stop(self) -> None:
        pass

    def becomes(self, state: UnitState, words: str = "", pid: int = 0) -> None:
        self.status = UnitStatus(state, words or state.value, time.time(), pid, "success")
        for post in self._posts:
            post(UNIT, self.status)


class Fleet:
    """What one test plays with: the agent, the instance, systemd, and guards that come and go."""

    def __init__(self, agent: ConsulAgent, state_dir: Path) -> None:
        self.agent = agent
        self.port = ConsulPort(port=agent.http_port)
        self.instance = Instance()
        self.units = Units()
        self.settings = LocalSettings(
            vm=VM,
            consul=ConsulSettings(port=agent.http_port),
            amqp=AmqpSettings(hosts=("127.0.0.1",)),
            state_dir=state_dir,
            health_ports=HealthPorts(guard=free_port()),
        )
        self._guards: list[tuple[threading.Thread, threading.Event]] = []
        self.write_policy()

    def write_policy(self, standby: str = "cold", path: str = "/health") -> None:
        policy = {
            "vms": {VM: {"address": "127.0.0.1", "roles": ["controller", "worker"]}, OTHER: {"address": "127.0.0.2"}},
            "services": {
                "backend": {
                    "order": [VM, OTHER],
                    "unit": UNIT,
                    "port": self.instance.port,
                    "standby": standby,
                    "check": {"kind": "http", "path": path},
                    "activate": "a.yml",
                    "deactivate": "d.yml",
                }
            },
            "dispatch": {"activation_timeout_s": 2.0},
        }
        self.port.kv_put(keys.CONFIG, json.dumps(policy).encode())

    def assign(self, active: str, epoch: int, *, designated: str = VM, standbys: tuple[str, ...] = ()) -> None:
        assignment = Assignment(
            service="backend",
            active=active,
            designated=designated,
            standbys=standbys,
            epoch=epoch,
            since=time.time(),
            kind=MoveKind.INITIAL,
            reason="test",
        )
        self.port.kv_put(keys.assignment("backend"), assignment.to_json().encode())

    def start_guard(self) -> None:
        stop = threading.Event()
        guard = Guard(self.settings, self.units.watch)
        thread = threading.Thread(target=guard.run, args=(stop,), daemon=True)
        thread.start()
        self._guards.append((thread, stop))

    def stop_guard(self) -> None:
        thread, stop = self._guards.pop()
        stop.set()
        thread.join(30)
        assert not thread.is_alive()

    def strike_off(self) -> None:
        """Take the instance out of the catalog behind its agent's back, as happens to a VM that counted as dead."""
        body = json.dumps({"Node": VM, "ServiceID": SERVICE_ID}).encode()
        url = f"http://127.0.0.1:{self.agent.http_port}/v1/catalog/deregister"
        with urllib.request.urlopen(urllib.request.Request(url, body, method="PUT"), timeout=5):
            pass

    def close(self) -> None:
        while self._guards:
            self.stop_guard()
        self.instance.stop()
        self.port.agent_deregister(SERVICE_ID)
        for session in self.port.session_list(VM)[1]:
            self.port.session_destroy(session.id)
        for key in self.port.kv_keys(keys.ROOT):
            self.port.kv_delete(key)
        self.port.close()

    def lock(self) -> KvPair | None:
        return self.port.kv_get(keys.lock("backend"))[1]

    def lock_epoch(self) -> int | None:
        pair = self.lock()
        return LockValue.from_json(pair.value).epoch if pair and pair.session else None

    def checks(self) -> dict[str, AgentCheck]:
        return {check.check_id: check for check in self.port.agent_checks() if check.service_id == SERVICE_ID}

    def metrics(self) -> list[str]:
        """Return the lines of the guard's metrics."""
        url = f"http://127.0.0.1:{self.settings.health_ports.guard}/metrics"
        with urllib.request.urlopen(url, timeout=5) as answer:
            return str(answer.read().decode()).splitlines()

    def tags(self) -> tuple[str, ...] | None:
        return next((service.tags for service in self.port.agent_services() if service.id == SERVICE_ID), None)


@pytest.fixture
def fleet(consul_agent: ConsulAgent, tmp_path: Path) -> Iterator[Fleet]:
    one = Fleet(consul_agent, tmp_path)
    yield one
    one.close()


def eventually(holds: Callable[[], object], within_s: float = 30.0) -> float:
    """Wait until it holds; return how long that took."""
    begin = time.monotonic()
    while not holds():
        assert time.monotonic() < begin + within_s, "did not come true in time"
        time.sleep(0.02)
    return time.monotonic() - begin


def stays(holds: Callable[[], object], for_s: float = 0.7) -> None:
    end = time.monotonic() + for_s
    while time.monotonic() < end:
        assert holds()
        time.sleep(0.02)


def active_fleet(fleet: Fleet, epoch: int = 1) -> None:
    fleet.assign(VM, epoch)
    fleet.units.becomes(UnitState.ACTIVE, "active (running)", 123)
    fleet.start_guard()
    eventually(lambda: fleet.lock_epoch() == epoch and fleet.tags() == ("active",))


def test_a_unit_that_starts_is_registered_and_locked(fleet: Fleet) -> None:
    fleet.assign(VM, 1)
    fleet.start_guard()
    stays(lambda: fleet.tags() is None, 0.5)
    fleet.units.becomes(UnitState.ACTIVE, "active (running)", 123)
    took_s = eventually(lambda: fleet.lock_epoch() == 1)
    print(f"unit active -> lock held: {took_s * 1000:.0f} ms")
    eventually(lambda: fleet.tags() == ("active",))
    assert {check.status for check in fleet.checks().values()} == {"passing"}
    eventually(lambda: "PID 123" in fleet.checks()[keys.unit_check_id("backend")].output)
    assert "node-app is active (running) since" in fleet.checks()[keys.unit_check_id("backend")].output


def test_a_failed_unit_frees_the_lock_at_once(fleet: Fleet) -> None:
    active_fleet(fleet)
    fleet.units.becomes(UnitState.FAILED, "failed (failed)")
    took_s = eventually(lambda: fleet.lock_epoch() is None)
    print(f"unit failed -> lock free: {took_s * 1000:.0f} ms")
    assert fleet.checks()[keys.unit_check_id("backend")].status == "critical"
    eventually(lambda: fleet.tags() == ("candidate",))


def test_a_guard_tells_prometheus_what_it_holds_and_what_it_did(fleet: Fleet) -> None:
    active_fleet(fleet)
    held = 'orch_guard_role_lock_held{service="backend"}'
    eventually(lambda: f"{held} 1.0" in fleet.metrics())
    assert 'orch_guard_duties_total{duty="AcquireLock",outcome="done",service="backend"} 1.0' in fleet.metrics()
    fleet.units.becomes(UnitState.FAILED, "failed (failed)")
    eventually(lambda: f"{held} 0.0" in fleet.metrics())
    assert 'orch_guard_unit_state{service="backend",state="failed"} 1.0' in fleet.metrics()


def test_a_restart_by_systemd_is_no_failure(fleet: Fleet) -> None:
    active_fleet(fleet)
    held = fleet.lock()
    fleet.units.becomes(UnitState.RESTARTING, "activating (auto-restart)")
    stays(lambda: fleet.lock() == held, 0.3)
    fleet.units.becomes(UnitState.ACTIVE, "active (running)", 124)
    stays(lambda: fleet.lock() == held, 0.3)
    eventually(lambda: "PID 124" in fleet.checks()[keys.unit_check_id("backend")].output)
    assert "PID 124" in fleet.checks()[keys.unit_check_id("backend")].output


def test_a_failed_unit_that_comes_back_takes_the_lock_again_while_still_assigned(fleet: Fleet) -> None:
    active_fleet(fleet)
    fleet.units.becomes(UnitState.FAILED, "failed (failed)")
    eventually(lambda: fleet.lock_epoch() is None)
    fleet.units.becomes(UnitState.ACTIVE, "active (running)", 125)
    eventually(lambda: fleet.lock_epoch() == 1)


def test_a_guard_that_restarts_finds_everything_again_and_changes_nothing(fleet: Fleet) -> None:
    active_fleet(fleet)
    lock, sessions = fleet.lock(), fleet.port.session_list(VM)[1]
    fleet.stop_guard()
    stays(lambda: fleet.lock() == lock, 0.3)
    fleet.start_guard()
    stays(lambda: (fleet.lock(), fleet.port.session_list(VM)[1]) == (lock, sessions), 1.0)
    assert {check.status for check in fleet.checks().values()} == {"passing"}


def test_a_planned_move_releases_the_lock_and_the_break_deregisters(fleet: Fleet) -> None:
    active_fleet(fleet)
    fleet.assign(OTHER, 2, designated=OTHER, standbys=(VM,))
    took_s = eventually(lambda: fleet.lock_epoch() is None)
    print(f"assignment moved -> lock released: {took_s * 1000:.0f} ms")
    eventually(lambda: fleet.tags() == ("candidate",))
    fleet.assign(OTHER, 2, designated=OTHER)
    eventually(lambda: fleet.tags() is None)


def test_a_new_epoch_for_the_same_vm_is_written_into_the_lock(fleet: Fleet) -> None:
    active_fleet(fleet)
    held = fleet.lock()
    fleet.assign(VM, 2)
    eventually(lambda: fleet.lock_epoch() == 2)
    now = fleet.lock()
    assert held is not None
    assert now is not None
    assert now.session == held.session


def test_a_lock_that_another_holds_is_awaited(fleet: Fleet) -> None:
    other = fleet.port.session_create("another", ())
    assert fleet.port.lock_acquire(keys.lock("backend"), LockValue(vm=OTHER, epoch=1).to_json().encode(), other)
    fleet.assign(VM, 2)
    fleet.units.becomes(UnitState.ACTIVE, "active (running)", 1)
    fleet.start_guard()
    eventually(lambda: fleet.tags() is not None)
    stays(lambda: fleet.lock_epoch() == 1, 0.3)
    fleet.port.session_destroy(other)
    took_s = eventually(lambda: fleet.lock_epoch() == 2)
    print(f"lock free -> lock held: {took_s * 1000:.0f} ms")


def test_a_hot_standby_is_registered_and_ready(fleet: Fleet) -> None:
    fleet.write_policy(standby="hot")
    fleet.assign(OTHER, 1, designated=OTHER, standbys=(VM,))
    fleet.units.becomes(UnitState.ACTIVE, "active (running)", 1)
    fleet.start_guard()
    eventually(lambda: fleet.tags() == ("standby",) and len(fleet.port.session_list(VM)[1]) == 1)
    fleet.assign(VM, 2, standbys=())
    took_s = eventually(lambda: fleet.lock_epoch() == 2)
    print(f"hot standby becomes active -> lock held: {took_s * 1000:.0f} ms")


def test_what_never_becomes_healthy_is_registered_as_failed(fleet: Fleet) -> None:
    fleet.assign(VM, 1)
    fleet.start_guard()
    eventually(lambda: [check.status for check in fleet.checks().values()] == ["critical", "critical"])
    fleet.units.becomes(UnitState.ACTIVE, "active (running)", 1)
    eventually(lambda: fleet.lock_epoch() == 1)


def test_a_malformed_assignment_changes_nothing(fleet: Fleet) -> None:
    active_fleet(fleet)
    held = fleet.lock()
    fleet.port.kv_put(keys.assignment("backend"), b"{not json")
    stays(lambda: fleet.lock() == held and fleet.tags() == ("active",), 0.5)
    fleet.assign(VM, 2)
    eventually(lambda: fleet.lock_epoch() == 2)


def test_a_malformed_policy_changes_nothing(fleet: Fleet) -> None:
    active_fleet(fleet)
    held = fleet.lock()
    fleet.port.kv_put(keys.CONFIG, b"version: 1")
    stays(lambda: fleet.lock() == held and fleet.tags() == ("active",), 0.5)


def test_another_probe_in_the_policy_does_not_end_the_session(fleet: Fleet) -> None:
    active_fleet(fleet)
    held = fleet.lock()
    fleet.write_policy(path="/other")
    eventually(lambda: "/other" in dict(_meta(fleet))["probe"])
    stays(lambda: fleet.lock() == held, 0.5)


def test_an_instance_that_the_catalog_lost_is_registered_anew(fleet: Fleet) -> None:
    active_fleet(fleet)
    held = fleet.lock()
    assert held is not None
    fleet.strike_off()
    eventually(lambda: (now := fleet.lock()) is not None and now.session not in (None, held.session))
    assert fleet.lock_epoch() == 1


def test_without_an_assignment_the_first_vm_of_the_order_is_a_candidate(fleet: Fleet) -> None:
    fleet.units.becomes(UnitState.ACTIVE, "active (running)", 1)
    fleet.start_guard()
    eventually(lambda: fleet.tags() == ("candidate",))
    assert fleet.lock() is None


def test_a_candidate_that_is_stopped_on_purpose_is_not_registered(fleet: Fleet) -> None:
    fleet.assign(OTHER, 1)
    fleet.units.becomes(UnitState.ACTIVE, "active (running)", 1)
    fleet.start_guard()
    eventually(lambda: fleet.tags() == ("candidate",))
    fleet.units.becomes(UnitState.STOPPED, "inactive (dead)")
    eventually(lambda: fleet.tags() is None)


def _meta(fleet: Fleet) -> tuple[tuple[str, str], ...]:
    return next(service.meta for service in fleet.port.agent_services() if service.id == SERVICE_ID)
