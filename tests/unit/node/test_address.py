"""The frames that announce an address. Real interfaces: tests/integration/test_guard_address.py."""

from __future__ import annotations

import itertools
import socket
from types import SimpleNamespace

import pytest

from orchestrator.domain.policy import FrontDoorPolicy
from orchestrator.node import address
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


class PacketSocket(socket.socket):
    """One end of a pair, for a socket on an interface that has received what the other end sent."""

    def bind(self, _: object) -> None:
        """There is no interface to bind to."""


@pytest.mark.parametrize(
    ("frames", "contested"),
    [
        ([], False),
        ([arp_frames(bytes(6), "10.0.0.100")[1]], False),
        ([arp_frames(MAC, "10.0.0.7")[1]], False),
        ([arp_frames(MAC, "10.0.0.7")[1], arp_frames(MAC, "10.0.0.100")[1]], True),
    ],
    ids=["silence", "its own frame", "another address", "another VM"],
)
def test_an_answer_counts_also_when_this_process_was_not_run_until_the_time_was_over(
    monkeypatch: pytest.MonkeyPatch, frames: list[bytes], contested: bool
) -> None:
    here, segment = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    for frame in frames:
        segment.send(frame)
    late = itertools.count(0.0, 100.0)
    monkeypatch.setattr(address, "time", SimpleNamespace(monotonic=lambda: next(late)))
    raw = PacketSocket(fileno=here.detach())
    monkeypatch.setattr(address.socket, "socket", lambda *_: raw)
    with segment:
        assert Vip("10.0.0.100", 16, "lo").is_contested() is contested
