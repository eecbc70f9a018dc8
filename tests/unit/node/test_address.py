"""The frames that announce an address. Real interfaces: tests/integration/test_guard_address.py."""

from __future__ import annotations

import pytest

from orchestrator.domain.policy import FrontDoorPolicy
from orchestrator.node.address import Vip, arp_frames, arp_probe, arp_sender, door_for
from orchestrator.node.hook import Hook

MAC = bytes.fromhex("0200000000aa")


def test_an_announcement_is_a_request_and_a_reply_that_both_name_the_address_as_ours() -> None:
    request, reply = arp_frames(MAC, "10.0.0.100")
    assert request.hex() == ("ffffffffffff0200000000aa080600010800060400010200000000aa0a0000640000000000000a000064")
    assert reply.hex() == ("ffffffffffff0200000000aa080600010800060400020200000000aa0a0000640200000000aa0a000064")
    assert arp_sender(request) == arp_sender(reply) == (MAC, "10.0.0.100")


def test_a_probe_claims_nothing() -> None:
    assert arp_sender(arp_probe(MAC, "10.0.0.100")) == (MAC, "0.0.0.0")


@pytest.mark.parametrize("frame", [b"", b"\xff" * 41, b"\xff" * 60])
def test_what_is_no_arp_frame_has_no_sender(frame: bytes) -> None:
    assert arp_sender(frame) is None


def test_each_kind_of_front_door_has_its_door() -> None:
    assert door_for("frontend", "vm", None) is None
    assert door_for("frontend", "vm", FrontDoorPolicy(kind="dns")) is None
    assert isinstance(door_for("frontend", "vm", FrontDoorPolicy(kind="vip", address="10.0.0.100")), Vip)
    assert isinstance(door_for("frontend", "vm", FrontDoorPolicy(kind="command", command=("/bin/true",))), Hook)
