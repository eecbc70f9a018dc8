"""How `ConsulPort` asks, seen by an agent that only notes it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from orchestrator.store.consul_port import ConsulPort


class _NotingAgent(HTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Note)
        self.asked: list[str] = []


class _Note(BaseHTTPRequestHandler):
    server: _NotingAgent

    def do_GET(self) -> None:
        """Answer that there is no such key."""
        self.server.asked.append(self.path)
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
    ("modes", "wanted"),
    [({}, set()), ({"stale_reads": True}, {"stale"}), ({"consistent_reads": True}, {"consistent"})],
)
def test_a_read_of_kv_asks_for_the_consistency_of_the_port(
    noting_agent: _NotingAgent, modes: dict[str, bool], wanted: set[str]
) -> None:
    port = ConsulPort(port=noting_agent.server_port, **modes)
    assert port.kv_get("orch/x") == (7, None)
    port.close()
    (asked,) = noting_agent.asked
    assert {mode for mode in ("stale", "consistent") if f"{mode}=" in asked} == wanted


def test_a_port_is_not_stale_and_consistent_at_once() -> None:
    with pytest.raises(ValueError, match="not both"):
        ConsulPort(stale_reads=True, consistent_reads=True)
