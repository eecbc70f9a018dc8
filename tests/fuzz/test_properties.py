"""Whatever a message's properties say on the wire: it is delivered once, and kept, or refused with a sentence."""

from __future__ import annotations

import struct
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika import BasicProperties, frame, spec

from orchestrator.dispatch.consumer import Delivery, delivery_of
from orchestrator.dispatch.properties import read_any_properties
from orchestrator.domain import keys
from orchestrator.domain.records import HistoryEntry
from tests.fakes.fake_plays import OPERATOR
from tests.fuzz.strange import bounded, expect_sentence
from tests.fuzz.test_messages import Place

BODY = b'{"command_type": "rotation", "instance_type": "backend"}'
FLAG = {name: getattr(BasicProperties, f"FLAG_{name.upper()}") for name in vars(BasicProperties())}
TEXTS = sorted(set(FLAG) - {"headers", "delivery_mode", "priority", "timestamp"})
BEYOND_ALL_TIME = b"T" + struct.pack(">Q", 2**62)
NO_NUMBER = b"d" + struct.pack(">d", float("nan"))
TEN_THOUSAND_DEEP = 10_000


def short(text: bytes) -> bytes:
    return struct.pack("B", len(text)) + text


def table(*fields: tuple[bytes, bytes]) -> bytes:
    inside = b"".join(short(name) + value for name, value in fields)
    return struct.pack(">I", len(inside)) + inside


def nested(depth: int) -> bytes:
    """Return an array in an array, so many times."""
    return b"".join(b"A" + struct.pack(">I", 5 * left) for left in range(depth - 1, -1, -1))


def on_the_wire(**properties: bytes) -> bytes:
    """Return the properties as the broker sends them: flags, then each in the order of its flag."""
    in_order = sorted(properties, key=lambda name: -FLAG[name])
    return struct.pack(">H", sum(FLAG[name] for name in in_order)) + b"".join(properties[name] for name in in_order)


def delivered(encoded: bytes, body: bytes = BODY) -> Delivery:
    """Return the delivery that pika makes of a frame with the properties."""
    read_any_properties()
    payload = struct.pack(">HHQ", BasicProperties.INDEX, 0, len(body)) + encoded
    header = struct.pack(">BHI", spec.FRAME_HEADER, 1, len(payload)) + payload + bytes([spec.FRAME_END])
    length, found = frame.decode_frame(header)
    assert length == len(header)
    return delivery_of(1, SimpleNamespace(delivery_tag=7, redelivered=False), found.properties, body)


@pytest.mark.parametrize(
    "strange",
    [BEYOND_ALL_TIME, NO_NUMBER, nested(TEN_THOUSAND_DEEP), b"?"],
    ids=["beyond all time", "no number", "ten thousand deep", "of no type"],
)
def test_what_python_has_no_value_for_is_refused_by_the_worker_and_told(strange: bytes) -> None:
    place = Place()
    delivery = delivered(on_the_wire(headers=table((b"at", strange)), user_id=short(OPERATOR.encode())))
    place.take(delivery)
    expect_sentence(delivery.unreadable)
    assert delivery.sender == ""
    assert place.mailbox.rejected == [delivery]
    (refused,) = place.consul.peek_list(keys.REFUSED)
    assert "its properties cannot be read" in HistoryEntry.from_json(refused.value).reason


def values_of_fields() -> st.SearchStrategy[bytes]:
    kinds = st.sampled_from(b"tbBUuIiLlfdDsSxAFTV?")
    return st.builds(lambda kind, rest: bytes([kind]) + rest, kinds, st.binary(max_size=16)) | st.sampled_from(
        (BEYOND_ALL_TIME, NO_NUMBER)
    )


def fields() -> st.SearchStrategy[dict[str, bytes]]:
    texts = st.one_of(st.binary(max_size=12), st.text(max_size=12).map(str.encode), st.just(OPERATOR.encode()))
    headers = st.lists(st.tuples(st.binary(max_size=6), values_of_fields()), max_size=3)
    return st.fixed_dictionaries(
        {},
        optional={
            **dict.fromkeys(TEXTS, texts.map(short)),
            "headers": headers.map(lambda some: table(*some)),
            "delivery_mode": st.binary(min_size=1, max_size=1),
            "priority": st.binary(min_size=1, max_size=1),
            "timestamp": st.binary(min_size=8, max_size=8),
        },
    )


@bounded(200)
@given(encoded=fields().map(lambda some: on_the_wire(**some)) | st.binary(min_size=2, max_size=40))
def test_no_properties_end_the_connection_and_the_message_is_kept_or_dead_lettered(encoded: bytes) -> None:
    place = Place()
    delivery = delivered(encoded)
    place.take(delivery)
    if delivery.sender == OPERATOR:
        assert place.mailbox.acked == [delivery]
    else:
        assert place.mailbox.rejected == [delivery]
        assert place.consul.peek_list(keys.REQUESTS) == ()
        for refused in place.consul.peek_list(keys.REFUSED):
            expect_sentence(HistoryEntry.from_json(refused.value).reason)


@bounded(60)
@given(some=fields())
def test_what_can_be_read_is_read_as_pika_reads_it(some: dict[str, bytes]) -> None:
    some.pop("headers", None)
    expected = BasicProperties().decode(on_the_wire(**some))
    delivery = delivered(on_the_wire(**some))
    assert not delivery.unreadable
    sender = expected.user_id or ""
    assert delivery.sender == (sender if isinstance(sender, str) else repr(sender))
