"""The sample application's backend, as systemd runs it: what it answers, and how it goes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from typing import Any

import pytest

from deploy.machines.places import CHECKOUT
from tests.integration.ports import free_port

pytestmark = pytest.mark.timeout(120)

APP = CHECKOUT / "deploy" / "sample-app" / "app"
VM = "backend-server"
WAIT_S = 30.0
LISTING = {"title": "Mill by the river", "city": "Zwolle", "price": 415000, "rooms": 6}


class App:
    """One process of it."""

    def __init__(self) -> None:
        node = shutil.which("node")
        if node is None:
            pytest.fail("this test needs Node: install the Debian package nodejs", pytrace=False)
        self.port = free_port()
        env = {**os.environ, "APP_VM": VM, "APP_ADDRESSES": "127.0.0.1,127.0.0.2", "APP_PORT": str(self.port)}
        self.process = subprocess.Popen(
            [node, "server.js"], cwd=APP, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        )
        for address in ("127.0.0.1", "127.0.0.2"):
            assert self.says() == f"backend on {VM} listens on {address}:{self.port}"

    def says(self) -> str:
        """Return the next line of its output."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip()

    def connection(self, address: str = "127.0.0.1") -> HTTPConnection:
        return HTTPConnection(address, self.port, timeout=WAIT_S)

    def asked(self, method: str, path: str, body: object = None, address: str = "127.0.0.1") -> Answer:
        connection = self.connection(address)
        text = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
        connection.request(method, path, text)
        try:
            return answer_of(connection.getresponse())
        finally:
            connection.close()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@dataclass(frozen=True)
class Answer:
    status: int
    served_by: str | None
    fields: dict[str, Any]


def answer_of(response: HTTPResponse) -> Answer:
    text = response.read()
    return Answer(response.status, response.headers["X-Served-By"], json.loads(text) if text else {})


@pytest.fixture
def app() -> Iterator[App]:
    started = App()
    yield started
    started.end()


@pytest.fixture(scope="module")
def shared() -> Iterator[App]:
    """One for the tests that leave it running."""
    started = App()
    yield started
    started.end()


def test_health_says_in_a_sentence_that_it_is_well_and_on_which_vm(shared: App) -> None:
    found = shared.asked("GET", "/health")
    assert (found.status, found.served_by, found.fields["status"]) == (200, VM, "ok")
    assert found.fields["message"].startswith(f"backend on {VM}: ")


def test_a_listing_is_created_and_then_found_first_in_the_list_and_by_its_number(shared: App) -> None:
    before = shared.asked("GET", "/listings").fields["listings"]
    created = shared.asked("POST", "/listings", LISTING)
    assert (created.status, created.served_by) == (201, VM)
    listing = created.fields["listing"]
    assert {name: listing[name] for name in LISTING} == LISTING
    assert shared.asked("GET", "/listings", address="127.0.0.2").fields["listings"] == [listing, *before]
    assert shared.asked("GET", f"/listings/{listing['id']}").fields["listing"] == listing
    assert shared.asked("HEAD", "/listings").status == 200


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "why"),
    [
        ("POST", "/listings", {**LISTING, "price": "much"}, 422, "price must be a number from 1 to 1000000000"),
        ("POST", "/listings", {**LISTING, "title": "  "}, 422, "title must be text of 1 to 120 characters"),
        ("POST", "/listings", [LISTING], 422, "the body must be a JSON object with title, city and price"),
        ("POST", "/listings", b"{", 400, "the body is not JSON"),
        ("POST", "/listings", {**LISTING, "title": "x" * 70_000}, 413, "the body is larger than 65536 bytes"),
        ("DELETE", "/listings", None, 405, "DELETE is not possible on /listings"),
        ("POST", "/health", {}, 405, "POST is not possible on /health"),
        ("GET", "/listings/999999", None, 404, "there is no listing 999999"),
        ("GET", "/elsewhere", None, 404, "there is nothing at /elsewhere"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_reason_and_changes_nothing(
    shared: App, method: str, path: str, body: object, status: int, why: str
) -> None:
    before = shared.asked("GET", "/listings").fields["listings"]
    refused = shared.asked(method, path, body)
    assert (refused.status, refused.served_by, refused.fields["error"]) == (status, VM, why)
    assert shared.asked("GET", "/listings").fields["listings"] == before


def test_sigterm_finishes_an_open_request_takes_no_new_one_and_ends_well(app: App) -> None:
    idle = app.connection()
    idle.request("GET", "/health")
    assert answer_of(idle.getresponse()).status == 200
    body = json.dumps(LISTING).encode()
    head = f"POST /listings HTTP/1.1\r\nHost: app\r\nContent-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n"
    with socket.create_connection(("127.0.0.1", app.port), WAIT_S) as opened:
        opened.sendall(head.encode())
        # Says that the request is in its hands.
        assert opened.recv(4096).startswith(b"HTTP/1.1 100 ")
        app.process.send_signal(signal.SIGTERM)
        assert app.says() == "SIGTERM: finishing what is open"
        assert idle.sock.recv(1) == b""
        with pytest.raises(ConnectionError):
            app.asked("GET", "/health")
        opened.sendall(body)
        response = HTTPResponse(opened)
        response.begin()
        assert response.headers["Connection"] == "close"
        found = answer_of(response)
    assert (found.status, found.fields["listing"]["title"]) == (201, LISTING["title"])
    assert app.process.wait(WAIT_S) == 0
