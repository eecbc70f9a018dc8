"""The front door's address between three network namespaces on one bridge: two VMs and a client."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

VIP = "10.99.0.100"
CAN_MAKE_NAMESPACES = os.geteuid() == 0 and shutil.which("ip") is not None

pytestmark = pytest.mark.skipif(not CAN_MAKE_NAMESPACES, reason="network namespaces need root")

# Runs inside a namespace: one line of words in, one line out.
_SIDE = """
import sys, time
from orchestrator.node.address import Vip
vip = Vip("10.99.0.100", 24, "eth0")
for line in sys.stdin:
    begin = time.perf_counter()
    answer = getattr(vip, line.strip())()
    took_ms = (time.perf_counter() - begin) * 1000
    print(getattr(answer, "value", answer), round(took_ms, 1), flush=True)
"""


class Side:
    """One namespace with a `Vip` in a process of its own."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._process = subprocess.Popen(
            ["ip", "netns", "exec", name, sys.executable, "-c", _SIDE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def does(self, verb: str) -> tuple[str, float]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(verb + "\n")
        self._process.stdin.flush()
        word, took_ms = self._process.stdout.readline().split()
        return word, float(took_ms)

    def mac(self) -> str:
        return _in(self.name, "cat", "/sys/class/net/eth0/address").strip()

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


def _in(namespace: str, *command: str) -> str:
    return subprocess.run(
        ["ip", "netns", "exec", namespace, *command], check=True, capture_output=True, text=True
    ).stdout


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def network() -> Iterator[tuple[Side, Side, str]]:
    """Two sides and the client's namespace."""
    prefix = f"orchadr{os.getpid()}"
    names = [f"{prefix}{letter}" for letter in "abcs"]
    sides: list[Side] = []
    try:
        for name in names:
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        switch = names[3]
        _ip("-n", switch, "link", "add", "br0", "type", "bridge")
        _ip("-n", switch, "link", "set", "br0", "up")
        for number, name in enumerate(names[:3], 1):
            port = f"p{number}"
            _ip("-n", name, "link", "add", "eth0", "type", "veth", "peer", "name", port, "netns", switch)
            _ip("-n", name, "address", "add", f"10.99.0.{number}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")
            _ip("-n", switch, "link", "set", port, "master", "br0", "up")
        sides = [Side(name) for name in names[:2]]
        yield sides[0], sides[1], names[2]
    finally:
        for side in sides:
            side.stop()
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def _client_sees(client: str) -> str:
    """Return the MAC that the client has for the address."""
    words = _in(client, "ip", "neigh", "show", VIP).split()
    return words[words.index("lladdr") + 1] if "lladdr" in words else ""


def _reaches(client: str) -> bool:
    return subprocess.run(
        ["ip", "netns", "exec", client, "ping", "-c", "1", "-W", "1", VIP], check=False, capture_output=True
    ).returncode == 0  # fmt: skip


def _eventually_sees(client: str, mac: str) -> None:
    deadline = time.monotonic() + 2
    while _client_sees(client) != mac:
        assert time.monotonic() < deadline, f"the client has {_client_sees(client)!r}, not {mac}"
        time.sleep(0.01)


def test_the_address_follows_its_holder_and_open_connections_keep_theirs(network: tuple[Side, Side, str]) -> None:
    first, second, client = network
    assert first.does("state")[0] == "none"
    took = first.does("take")
    print(f"take: {took[1]} ms")
    assert first.does("state")[0] == "up"
    assert _reaches(client)
    assert _client_sees(client) == first.mac()

    print(f"hand over: {first.does('hand_over')[1]} ms")
    assert first.does("state")[0] == "handed-over"
    assert _reaches(client), "packets that still come to the old holder are answered"
    print(f"take: {second.does('take')[1]} ms")
    _eventually_sees(client, second.mac())
    assert _reaches(client)
    _in(client, "ip", "neigh", "flush", "all")
    assert _reaches(client)
    assert _client_sees(client) == second.mac(), "only the new holder answers ARP"

    print(f"drop: {first.does('drop')[1]} ms")
    assert first.does("state")[0] == "none"
    assert first.does("drop")[0] == "None"


def test_the_address_comes_back_to_a_holder_that_had_handed_it_over(network: tuple[Side, Side, str]) -> None:
    first, second, client = network
    first.does("take")
    first.does("hand_over")
    second.does("take")
    assert _reaches(client)
    second.does("drop")
    first.does("take")
    assert first.does("state")[0] == "up"
    _eventually_sees(client, first.mac())
    assert _reaches(client)
    assert VIP not in _in(first.name, "ip", "address", "show", "dev", "lo")


def test_taking_twice_does_no_harm(network: tuple[Side, Side, str]) -> None:
    first, _, client = network
    assert first.does("take")[0] == "None"
    assert first.does("take")[0] == "None"
    assert _reaches(client)


def test_a_dropped_address_is_not_announced_any_more(network: tuple[Side, Side, str]) -> None:
    first, second, client = network
    first.does("take")
    first.does("drop")
    second.does("take")
    _eventually_sees(client, second.mac()) if _reaches(client) else None
    time.sleep(0.3)
    assert _client_sees(client) == second.mac()


def test_a_holder_hears_that_another_has_the_address_too(network: tuple[Side, Side, str]) -> None:
    first, second, _ = network
    first.does("take")
    word, took_ms = first.does("is_contested")
    assert word == "False"
    assert took_ms < 1000
    second.does("take")
    assert first.does("is_contested")[0] == "True"
    assert second.does("is_contested")[0] == "True"
    first.does("hand_over")
    assert second.does("is_contested")[0] == "False", "an address on the loopback interface answers nobody"
