"""Which broker can only begin anew: one that has stayed apart from the others, and one that hangs in its start."""

from __future__ import annotations

import runpy
from collections.abc import Callable

import pytest

from tests.rendering import TEMPLATES

script = runpy.run_path(str(TEMPLATES / "broker-stuck"))
apart_from: Callable[[str], set[str]] = script["apart_from"]
unhelped: Callable[[str], set[str]] = script["unhelped"]

A, B, C = "rabbit@vm-a", "rabbit@vm-b", "rabbit@vm-c"
NOT_TWO_LISTS = [
    # Its application is stopped, as that of one that has paused itself.
    "{error, {'EXIT', {noproc, {gen_server, call, [rabbit_node_monitor, partitions, infinity]}}}}",
    "",
]


def answer(*lists: list[str]) -> str:
    """Return what erl_call prints for two lists of nodes."""
    return f"{{ok, {{{', '.join('[' + ', '.join(repr(name) for name in each) + ']' for each in lists)}}}}}\n"


@pytest.mark.parametrize(
    ("apart", "members", "begins_anew"),
    [
        ([B, C], [A, B, C], True),
        ([B], [A, B, C], False),
        ([], [A, B, C], False),
        ([B, "rabbit@retired"], [A, B, C], False),
    ],
)
def test_who_is_apart_from_most_members_begins_anew_and_those_stay(
    apart: list[str], members: list[str], begins_anew: bool
) -> None:
    assert apart_from(answer(apart, members)) == (set(apart) if begins_anew else set())


def test_names_are_read_with_and_without_quotation_marks() -> None:
    assert apart_from("{ok, {[rabbit@b, rabbit@c], [rabbit@a,\n  rabbit@b, rabbit@c]}}") == {"rabbit@b", "rabbit@c"}


@pytest.mark.parametrize("said", NOT_TWO_LISTS)
def test_what_says_nothing_makes_no_broker_begin_anew(said: str) -> None:
    assert apart_from(said) == unhelped(said) == set()


@pytest.mark.parametrize(
    ("said", "hanging"),
    [
        ("{ok, {[], []}}", set()),
        ("{ok, {[<0.251.0>], []}}", {"<0.251.0>"}),
        # The help is still to come.
        ("{ok, {[<0.251.0>], [<0.252.0>]}}", set()),
    ],
)
def test_a_start_hangs_where_the_help_of_rabbitmq_was_in_vain(said: str, hanging: set[str]) -> None:
    assert unhelped(said) == hanging
