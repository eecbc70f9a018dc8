"""How `ConsulPort` asks, seen by an agent that only notes it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from orchestrator.store.consul_port import ConsulPort
from orchestrator.store.port import Refused, Unknown


class _NotingAgent(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Note)
        self.asked: list[str] = []
        self.connections: list[socket.socket] = []
        self.may_answer = threading.Event()
        self.may_answer.set()

    def close_connections(self) -> None:
        """End all of them, as an agent that is restarted does."""
        for each in self.connections:
            each.shutdown(socket.SHUT_RDWR)


class _Note(BaseHTTPRequestHandler):
    server: _NotingAgent
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        """Take down that there is another connection."""
        super().setup()
        self.server.connections.append(self.connection)

    def do_GET(self) -> None:
        """Answer that there is no such key."""
        self.server.asked.append(self.path)
        self.server.may_answer.wait(10.0)
        self.send_response(404)
        self.send_header("X-Consul-Index", "7")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def noting_agent() -> Iterator[_NotingAgent]:
    with _NotingAgent() as agent:
        threading.Thread(target=agent.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield agent
        agent.shutdown()


@pytest.mark.parametrize(
    ("stale", "index", "wanted"),
    [
        # Whoever has just been elected may not know yet what it asks for, but for what is newer than the index.
        (False, 0, {"consistent"}),
        (False, 7, set()),
        (True, 0, {"stale"}),
        (True, 7, {"stale"}),
    ],
)
def test_a_read_is_answered_by_who_knows(noting_agent: _NotingAgent, stale: bool, index: int, wanted: set[str]) -> None:
    port = ConsulPort(port=noting_agent.server_port, stale_reads=stale)
    assert port.kv_get("orch/x", index=index, wait_s=1.0) == (7, None)
    assert port.kv_list("orch/", index=index, wait_s=1.0) == (7, ())
    with pytest.raises(Refused):
        port.checks(index=index, wait_s=1.0)
    port.close()
    assert len(noting_agent.asked) == 3
    for asked in noting_agent.asked:
        assert {mode for mode in ("stale", "consistent") if f"{mode}=" in asked} == wanted


def test_a_connection_is_kept_and_one_that_the_agent_closed_is_replaced(noting_agent: _NotingAgent) -> None:
    port = ConsulPort(port=noting_agent.server_port)
    port.kv_get("orch/x")
    port.kv_get("orch/x")
    assert len(noting_agent.connections) == 1
    noting_agent.close_connections()
    assert port.kv_get("orch/x") == (7, None)
    assert len(noting_agent.connections) == 2
    port.close()


def test_an_answer_that_comes_too_late_is_not_taken_for_the_next_one(noting_agent: _NotingAgent) -> None:
    port = ConsulPort(port=noting_agent.server_port, timeout_s=0.05)
    noting_agent.may_answer.clear()
    with pytest.raises(Unknown, match="did not answer"):
        port.kv_get("orch/late")
    noting_agent.may_answer.set()
    port.kv_get("orch/x")
    assert len(noting_agent.connections) == 2
    port.close()


def test_whoever_counts_is_told_each_call_that_failed_and_no_other(noting_agent: _NotingAgent) -> None:
    told: list[Exception] = []
    port = ConsulPort(port=noting_agent.server_port, timeout_s=0.5, on_failure=told.append)
    port.kv_get("orch/x")
    assert told == []
    noting_agent.shutdown()
    noting_agent.server_close()
    noting_agent.close_connections()
    for call in (lambda: port.kv_get("orch/x"), lambda: port.txn(()), lambda: port.session_create("x", ())):
        told.clear()
        with pytest.raises(Unknown) as raised:
            call()
        assert told == [raised.value], "once for each call"
    port.close()
