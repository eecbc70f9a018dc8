"""The store and the watchers on a real Consul agent: what no fake can say."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from orchestrator.domain import keys
from orchestrator.observe.watch import Observed, Snapshot, checks_source, leader_sources, prefix_source, start_watching
from orchestrator.store.consul_port import ConsulPort
from orchestrator.store.election import Election
from orchestrator.store.port import (
    AgentService,
    CasPut,
    Port,
    ProbeSpec,
    PushedSpec,
    Refused,
    TxnOutcome,
    Unknown,
    is_unasked,
)
from tests.integration.consul_agent import NODE, ConsulAgent

SERVICE = AgentService("orch-backend", "backend", 3000)
WITHIN_S = 20.0


class Sample(BaseHTTPRequestHandler):
    """A service whose health endpoint says what the test wants."""

    healthy = threading.Event()

    def do_GET(self) -> None:
        """Answer 200 or 500."""
        self.send_response(200 if self.healthy.is_set() else 500)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def sample() -> Iterator[HTTPServer]:
    """The sample service on a port of its own, healthy."""
    Sample.healthy.set()
    server = HTTPServer(("127.0.0.1", 0), Sample)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def stop() -> Iterator[threading.Event]:
    """Set when the test is over."""
    event = threading.Event()
    yield event
    event.set()


def eventually(question: Callable[[], object]) -> None:
    """Ask until the answer is true."""
    deadline = time.monotonic() + WITHIN_S
    while not question():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


def await_snapshot(observed: Observed, question: Callable[[Snapshot], object]) -> Snapshot:
    """Wait until a snapshot is as asked."""
    deadline = time.monotonic() + WITHIN_S
    snapshot = observed.snapshot()
    while not question(snapshot):
        assert time.monotonic() < deadline, f"it never came true: {snapshot}"
        snapshot = observed.wait(snapshot.version, 0.5)
    return snapshot


def ports_to(agent: ConsulAgent) -> Callable[[bool], Port]:
    """Return how a watcher makes its ports."""
    return lambda stale: ConsulPort(port=agent.http_port, stale_reads=stale)


# -- sessions and the agent's own probe ---------------------------------------------------------------------------


def test_the_agents_own_probe_ends_the_session_and_frees_the_lock(
    own_consul_agent: ConsulAgent, sample: HTTPServer
) -> None:
    port = ConsulPort(port=own_consul_agent.http_port)
    url = f"http://127.0.0.1:{sample.server_port}/health"
    port.agent_register(SERVICE)
    port.agent_register_probe(
        SERVICE.id, ProbeSpec("orch-backend:probe", "answers", "http", url, 1.0, 0.5, 2, "passing")
    )
    eventually(lambda: [c.status for c in port.checks()[1] if c.service_id == SERVICE.id] == ["passing"])
    session = port.session_create("orch-guard:backend@vm-1", ("orch-backend:probe",))
    assert port.lock_acquire(keys.lock("backend"), b"{}", session)
    Sample.healthy.clear()
    index, _ = port.kv_list(keys.SERVICES)
    _, pairs = port.kv_list(keys.SERVICES, index=index, wait_s=WITHIN_S)
    assert pairs[0].session is None
    with pytest.raises(Refused, match="critical"):
        port.session_create("orch-guard:backend@vm-1", ("orch-backend:probe",))
    assert [is_unasked(check) for check in port.checks()[1] if check.service_id == SERVICE.id] == [False]


def test_an_agent_that_restarts_keeps_what_was_pushed_and_calls_its_own_probe_critical_without_a_word(
    own_consul_agent: ConsulAgent,
) -> None:
    port = ConsulPort(port=own_consul_agent.http_port)
    port.agent_register(SERVICE)
    port.agent_register_pushed(SERVICE.id, PushedSpec("orch-backend:unit", "unit", 100_000.0, "passing"))
    port.agent_push("orch-backend:unit", "passing", "node-app is active")
    # The first one is made at a random moment within the interval.
    seldom = ProbeSpec("orch-backend:probe", "answers", "tcp", "127.0.0.1:1", 100_000.0, 0.5, 1, "passing")
    port.agent_register_probe(SERVICE.id, seldom)
    own_consul_agent.stop()
    own_consul_agent.start()
    kept = {check.check_id: check for check in port.agent_checks() if check.service_id == SERVICE.id}
    probe, unit = kept["orch-backend:probe"], kept["orch-backend:unit"]
    assert (probe.status, probe.output, is_unasked(probe)) == ("critical", "", True)
    assert (unit.status, unit.output, is_unasked(unit)) == ("passing", "node-app is active", False)


def test_a_tcp_probe_that_finds_nobody_turns_critical(own_consul_agent: ConsulAgent) -> None:
    port = ConsulPort(port=own_consul_agent.http_port)
    port.agent_register(SERVICE)
    port.agent_register_probe(
        SERVICE.id, ProbeSpec("orch-backend:probe", "answers", "tcp", "127.0.0.1:1", 1.0, 0.5, 1, "passing")
    )
    eventually(lambda: [c.status for c in port.checks()[1] if c.service_id == SERVICE.id] == ["critical"])
    assert [is_unasked(check) for check in port.checks()[1] if check.service_id == SERVICE.id] == [False]


def test_an_election_is_lost_with_the_alive_check(own_consul_agent: ConsulAgent) -> None:
    port = ConsulPort(port=own_consul_agent.http_port)
    election = Election(port, NODE, checks=("orch-controller:alive",))
    with pytest.raises(Refused, match="Missing check"):
        election.campaign()
    port.agent_register(AgentService("orch-controller", "orch-controller", 9701))
    port.agent_register_pushed("orch-controller", PushedSpec("orch-controller:alive", "alive", 600.0, "passing"))
    eventually(lambda: any(check.check_id == "orch-controller:alive" for check in port.checks()[1]))
    assert election.campaign()
    index, _ = port.kv_get(keys.LEADER)
    port.agent_push("orch-controller:alive", "critical", "")
    _, pair = port.kv_get(keys.LEADER, index=index, wait_s=WITHIN_S)
    assert not election.notice(pair)


# -- what cannot be found out ---------------------------------------------------------------------------------------


def test_an_agent_that_is_not_there_is_unknown(own_consul_agent: ConsulAgent) -> None:
    port = ConsulPort(port=own_consul_agent.http_port)
    port.kv_put("orch/a", b"1")
    own_consul_agent.stop()
    asks: tuple[Callable[[], object], ...] = (
        lambda: port.kv_get("orch/a"),
        lambda: port.kv_list("orch/", index=1, wait_s=60.0),
        lambda: port.kv_put("orch/a", b"2"),
        lambda: port.kv_delete("orch/a"),
        lambda: port.txn((CasPut("orch/a", b"2", 0),)),
        port.checks,
        port.leader_known,
        port.agent_services,
        port.agent_checks,
        port.node_name,
        lambda: port.session_create("x", ()),
        lambda: port.session_list(NODE),
        lambda: port.lock_acquire("orch/a", b"", "x"),
        lambda: port.agent_push("x", "passing", ""),
    )
    for ask in asks:
        with pytest.raises(Unknown):
            ask()


def test_an_agent_that_does_not_answer_is_unknown_after_the_timeout(own_consul_agent: ConsulAgent) -> None:
    port = ConsulPort(port=own_consul_agent.http_port, timeout_s=0.3)
    port.kv_put("orch/a", b"1")
    own_consul_agent.freeze()
    started = time.monotonic()
    with pytest.raises(Unknown, match="did not answer"):
        port.kv_get("orch/a")
    assert time.monotonic() - started < 3.0
    own_consul_agent.thaw()
    eventually(lambda: port.leader_known())
    assert port.kv_get("orch/a")[1] is not None


def test_a_server_that_is_no_consul_is_unknown(sample: HTTPServer) -> None:
    port = ConsulPort(port=sample.server_port)
    with pytest.raises(Unknown):
        port.kv_get("orch/a")
    with pytest.raises(Unknown):
        port.agent_services()


# -- the library's traps ----------------------------------------------------------------------------------------------


def test_the_environment_does_not_override_address_token_and_proxy(
    consul_agent: ConsulAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONSUL_HTTP_ADDR", "127.0.0.1:1")
    monkeypatch.setenv("CONSUL_HTTP_SSL", "true")
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", "not-ours")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    port = ConsulPort(port=consul_agent.http_port)
    assert port.node_name() == NODE
    port.kv_put("orch/environment", b"1")
    port.kv_delete("orch/environment")


def test_a_value_larger_than_consul_takes_is_refused(consul_port: ConsulPort) -> None:
    huge = b"x" * 600_000
    with pytest.raises(Refused):
        consul_port.kv_put("orch/huge", huge)
    with pytest.raises(Refused):
        consul_port.txn((CasPut("orch/huge", huge, 0),))


def test_reads_from_the_agents_own_copy_give_what_was_written(consul_agent: ConsulAgent) -> None:
    writer = ConsulPort(port=consul_agent.http_port)
    reader = ConsulPort(port=consul_agent.http_port, stale_reads=True)
    writer.kv_put("orch/copy", b"1")
    eventually(lambda: reader.kv_get("orch/copy")[1] is not None)
    assert reader.checks()[1] == writer.checks()[1]
    index, checks = reader.checks()
    assert reader.checks(index=index, wait_s=0.05) == (index, checks)
    writer.kv_delete("orch/copy")


def test_a_blocking_read_ends_when_a_lock_is_freed_by_its_sessions_end(consul_agent: ConsulAgent) -> None:
    port, other = (ConsulPort(port=consul_agent.http_port) for _ in range(2))
    session = port.session_create("orch-worker@vm-1", ())
    port.lock_acquire("orch/worker-lock", b"", session)
    index, _ = port.kv_get("orch/worker-lock")
    threading.Timer(0.2, other.session_destroy, (session,)).start()
    started = time.monotonic()
    _, pair = port.kv_get("orch/worker-lock", index=index, wait_s=WITHIN_S)
    assert pair is not None
    assert (pair.session, time.monotonic() - started < WITHIN_S / 2) == (None, True)
    port.kv_delete("orch/worker-lock")


# -- watching -----------------------------------------------------------------------------------------------------


def test_a_controller_sees_the_fleet_and_each_change_of_it(consul_agent: ConsulAgent, stop: threading.Event) -> None:
    observed = start_watching(ports_to(consul_agent), leader_sources(stop), stop)
    assert await_snapshot(observed, lambda snapshot: snapshot.known).checks[0].check_id == keys.SERF_HEALTH
    port = ConsulPort(port=consul_agent.http_port)
    for key in (keys.CONFIG, keys.PAUSED, keys.LEADER, keys.rotate("backend"), keys.assignment("backend")):
        port.kv_put(key, b"1")
        await_snapshot(observed, lambda snapshot, key=key: snapshot.pair(key))  # type: ignore[misc]
        port.kv_delete(key)
        await_snapshot(observed, lambda snapshot, key=key: snapshot.pair(key) is None)  # type: ignore[misc]


def test_a_controller_does_not_wake_for_the_history(consul_agent: ConsulAgent, stop: threading.Event) -> None:
    observed = start_watching(ports_to(consul_agent), (prefix_source(keys.SERVICES), checks_source()), stop)
    version = await_snapshot(observed, lambda snapshot: snapshot.known).version
    port = ConsulPort(port=consul_agent.http_port)
    for n in range(5):
        port.kv_put(keys.history(str(n)), b"{}")
    assert observed.wait(version, 0.3).version == version
    for n in range(5):
        port.kv_delete(keys.history(str(n)))


def test_a_watcher_outlives_its_agent_and_says_meanwhile_that_it_does_not_know(
    own_consul_agent: ConsulAgent, stop: threading.Event
) -> None:
    port = ConsulPort(port=own_consul_agent.http_port)
    port.kv_put(keys.PAUSED, b"1")
    observed = start_watching(ports_to(own_consul_agent), leader_sources(stop), stop)
    await_snapshot(observed, lambda snapshot: snapshot.known)
    own_consul_agent.stop()
    lost = await_snapshot(observed, lambda snapshot: len(snapshot.unknown) == len(leader_sources(stop)))
    assert (lost.known, lost.complete) == (False, True)
    assert lost.pair(keys.PAUSED) is not None
    own_consul_agent.start()
    await_snapshot(observed, lambda snapshot: snapshot.known)
    port = ConsulPort(port=own_consul_agent.http_port)
    assert port.txn((CasPut(keys.LEADER, b"1", 0),)) is TxnOutcome.WON
    await_snapshot(observed, lambda snapshot: snapshot.pair(keys.LEADER))


def test_an_agent_joins_who_answers_and_says_when_nobody_does(
    consul_agent: ConsulAgent, consul_port: ConsulPort
) -> None:
    consul_port.agent_join(f"127.0.0.1:{consul_agent.gossip_port}")
    assert consul_port.leader_known()
    with pytest.raises(Unknown):
        consul_port.agent_join("127.0.0.1:1")
