"""A planned move of the front door's address, as the connections that are open meanwhile see it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.integration.namespaces import CAN_MAKE_NAMESPACES, FIRST, VIP, Side, inside, run_inside

pytestmark = pytest.mark.skipif(not CAN_MAKE_NAMESPACES, reason="network namespaces need root")

CHUNKS, CHUNK = 30, 20_000
LONG_ENOUGH_S = "20"
# Long enough to be seen in force.
SOON_OVER_S = "3"
WAIT_S = 30.0

# Says who it is; sends `/slow` for 1.5 s.
SERVER = f"""
import sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        slow = self.path == "/slow"
        self.send_response(200)
        self.send_header("Content-Length", str({CHUNKS * CHUNK} if slow else 0))
        self.send_header("X-Served-By", sys.argv[1])
        self.end_headers()
        for _ in range({CHUNKS} if slow else 0):
            self.wfile.write(b"x" * {CHUNK})
            time.sleep(0.05)
    def log_message(self, *args): pass
server = ThreadingHTTPServer(("0.0.0.0", 80), Answer)
print("listens", flush=True)
server.serve_forever()
"""

# Opens a download and a connection that is kept; when told to, goes on with both and opens a third.
CLIENT = f"""
import http.client, json, sys
def ask(link, path="/"):
    try:
        link.request("GET", path)
        answer = link.getresponse()
        return answer.getheader("X-Served-By"), len(answer.read())
    except OSError as error:
        return type(error).__name__, 0
def link():
    made = http.client.HTTPConnection("{VIP}", timeout=4)
    made.connect()
    made.auto_open = False
    return made
kept, download = link(), link()
before = ask(kept)[0]
download.request("GET", "/slow")
print("open", flush=True)
for line in sys.stdin:
    told = {{"before": before, "new": ask(link())[0], "kept": ask(kept)[0], "download": 0}}
    if line.strip() == "all":
        answer = download.getresponse()
        try:
            told["download"] = len(answer.read())
        except OSError as error:
            told["download"] = type(error).__name__
        own = link()
        told["slow from the new holder"] = list(ask(own, "/slow"))
    print(json.dumps(told), flush=True)
"""


@contextmanager
def running(*argv: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has said its first line."""
    process = subprocess.Popen(list(argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.wait()


class Client:
    """The client with its two open connections."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def goes_on(self, with_what: str = "all") -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(with_what + "\n")
        self._process.stdin.flush()
        return dict(json.loads(self._process.stdout.readline()))


@pytest.fixture
def client(network: tuple[Side, Side, str]) -> Iterator[Client]:
    """A client whose connections are open at the first side, which has the address."""
    first, second, name = network
    first.does("take")
    with (
        running(*inside(first.name, sys.executable, "-c", SERVER, "first")),
        running(*inside(second.name, sys.executable, "-c", SERVER, "second")),
        running(*inside(name, sys.executable, "-c", CLIENT)) as process,
    ):
        yield Client(process)


def rules(side: Side) -> str:
    return run_inside(side.name, "nft", "list", "ruleset")


def test_open_connections_go_on_at_the_previous_holder(network: tuple[Side, Side, str], client: Client) -> None:
    first, second, _ = network
    first.does("hand_over")
    print(f"take with forwarding: {second.does('take', FIRST, LONG_ENOUGH_S)[1]} ms")
    assert client.goes_on() == {
        "before": "first",
        "new": "second",
        "kept": "first",
        "download": CHUNKS * CHUNK,
        "slow from the new holder": ["second", CHUNKS * CHUNK],
    }


def test_without_forwarding_they_are_reset(network: tuple[Side, Side, str], client: Client) -> None:
    first, second, _ = network
    first.does("hand_over")
    second.does("take")
    told = client.goes_on()
    assert (told["kept"], told["download"]) == ("ConnectionResetError", "ConnectionResetError")
    assert told["new"] == "second"


def test_the_rules_are_gone_when_their_time_is_over(network: tuple[Side, Side, str], client: Client) -> None:
    first, second, _ = network
    first.does("hand_over")
    second.does("take", FIRST, SOON_OVER_S)
    assert "orch_handover" in rules(second)
    wait_until_gone(second)
    assert client.goes_on("kept")["kept"] == "ConnectionResetError"


def test_they_end_by_themselves_when_the_guard_has_died_and_its_successor_removes_them(
    network: tuple[Side, Side, str], client: Client
) -> None:
    first, second, _ = network
    first.does("hand_over")
    second.does("take", FIRST, SOON_OVER_S)
    second.stop()
    deadline = time.monotonic() + WAIT_S
    while f"timeout {SOON_OVER_S}s" in rules(second):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert "orch_handover" in rules(second)
    assert client.goes_on("kept")["kept"] == "ConnectionResetError"
    successor = Side(second.name)
    try:
        successor.does("tidy", "0.1")
        wait_until_gone(second)
    finally:
        successor.stop()


def test_who_hands_the_address_on_forwards_nothing_any_more(network: tuple[Side, Side, str], client: Client) -> None:
    first, second, _ = network
    first.does("hand_over")
    second.does("take", FIRST, LONG_ENOUGH_S)
    second.does("hand_over")
    assert "orch_handover" not in rules(second)
    first.does("take", "10.99.0.2", LONG_ENOUGH_S)
    assert client.goes_on("kept")["kept"] == "first", "what is open here is never passed on"


def wait_until_gone(side: Side) -> None:
    deadline = time.monotonic() + WAIT_S
    while "orch_handover" in rules(side):
        assert time.monotonic() < deadline
        time.sleep(0.02)
