"""The front door's address between three network namespaces on one bridge: two VMs and a client."""

from __future__ import annotations

import subprocess
import time

import pytest

from tests.integration.namespaces import CAN_MAKE_NAMESPACES, VIP, Side, inside, run_inside

pytestmark = pytest.mark.skipif(not CAN_MAKE_NAMESPACES, reason="network namespaces need root")


def _client_sees(client: str) -> str:
    """Return the MAC that the client has for the address."""
    words = run_inside(client, "ip", "neigh", "show", VIP).split()
    return words[words.index("lladdr") + 1] if "lladdr" in words else ""


def _reaches(client: str) -> bool:
    return subprocess.run(
        inside(client, "ping", "-c", "1", "-W", "1", VIP), check=False, capture_output=True
    ).returncode == 0  # fmt: skip


def _eventually_sees(client: str, mac: str) -> None:
    deadline = time.monotonic() + 15
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
    run_inside(client, "ip", "neigh", "flush", "all")
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
    assert VIP not in run_inside(first.name, "ip", "address", "show", "dev", "lo")


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
