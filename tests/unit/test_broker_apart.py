"""Which broker begins anew after a link was lost and is back, and neither side has paused itself."""

from __future__ import annotations

import runpy
from collections.abc import Callable

import pytest

from tests.rendering import TEMPLATES

script = runpy.run_path(str(TEMPLATES / "broker-apart"))
apart_from: Callable[[str], tuple[set[str], set[str]] | None] = script["apart_from"]
is_the_one: Callable[[set[str], set[str]], bool] = script["is_the_one"]

A, B, C = "rabbit@vm-a", "rabbit@vm-b", "rabbit@vm-c"
ALL = {A, B, C}


def test_of_three_the_one_that_is_apart_from_two_begins_anew_and_those_stay() -> None:
    assert is_the_one({B, C}, ALL)
    assert not is_the_one({A}, ALL)
    assert not is_the_one(set(), ALL)


def test_who_is_no_member_does_not_count() -> None:
    assert not is_the_one({A, "rabbit@retired"}, ALL)


@pytest.mark.parametrize(
    ("said", "found"),
    [
        (f"{{ok, {{['{B}', '{C}'], ['{A}', '{B}', '{C}']}}}}", ({B, C}, ALL)),
        (f"{{ok, {{[], ['{A}']}}}}\n", (set(), {A})),
        ("{ok, {[rabbit@a], [rabbit@a, rabbit@b]}}", ({"rabbit@a"}, {"rabbit@a", "rabbit@b"})),
        # Its application is stopped, as that of one that has paused itself.
        ("{error, {'EXIT', {noproc, {gen_server, call, [rabbit_node_monitor, partitions, infinity]}}}}", None),
        ("", None),
    ],
)
def test_what_the_broker_says_is_read_and_what_says_nothing_is_not(
    said: str, found: tuple[set[str], set[str]] | None
) -> None:
    assert apart_from(said) == found
