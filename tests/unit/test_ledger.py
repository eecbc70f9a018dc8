"""What a ledger says of the database: the checker tells every loss, and nothing that is none."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest

from deploy.trials.ledger import (
    Losses,
    Reading,
    Row,
    Term,
    Try,
    accepted_by_two,
    differences,
    losses,
    note_of,
    out_of_turn,
    rows_of,
    two_at_once,
    unindexed,
    vanished,
    write_outage,
)


def tried(key: str = "k1", began: float = 1.0, **others: Any) -> Try:
    """One try, acknowledged at once unless told otherwise."""
    return Try(**{"key": key, "began": began, "ended": began, "took_s": 0.0, "status": 201, "id": 7, **others})


def row(key: str = "k1", number: int = 7, is_indexed: bool = True) -> Row:
    return Row(key, number, is_indexed)


# --- lost and doubled -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [201, 202])
def test_what_was_acknowledged_and_is_there_once_is_no_loss(status: int) -> None:
    assert losses([tried(status=status)], [row()]) == Losses()


@pytest.mark.parametrize("status", [201, 202])
def test_what_was_acknowledged_and_is_not_there_is_lost(status: int) -> None:
    assert losses([tried(status=status), tried("k2", id=8)], [row("k2", 8)]).lost == ("k1",)


def test_a_listing_that_took_the_id_of_a_lost_one_does_not_hide_the_loss() -> None:
    assert losses([tried("k1", id=7), tried("k2", id=7)], [row("k2", 7)]).lost == ("k1",)


def test_a_listing_that_is_there_under_another_id_than_was_told_is_lost() -> None:
    assert losses([tried(id=7)], [row(number=8)]).lost == ("k1",)


@pytest.mark.parametrize("rows", [[], [row()]])
@pytest.mark.parametrize("status", [0, 500, 502, 503, 504])
def test_what_was_not_acknowledged_may_be_there_or_not(status: int, rows: list[Row]) -> None:
    assert losses([tried(status=status, id=None)], rows) == Losses()


def test_two_rows_of_one_key_are_a_double_whether_acknowledged_or_not() -> None:
    assert losses([tried()], [row(), row(number=9)]).doubled == ("k1",)
    assert losses([tried(status=0, id=None)], [row(), row(number=9)]).doubled == ("k1",)


def test_a_key_that_was_acknowledged_under_two_ids_is_a_double_and_one_of_them_lost() -> None:
    found = losses([tried(id=7), tried(id=9)], [row(number=9)])
    assert (found.lost, found.doubled) == (("k1",), ("k1",))


def test_a_try_that_was_made_again_and_told_the_same_id_is_one_listing() -> None:
    assert losses([tried(status=0, id=None), tried(), tried()], [row()]) == Losses()


def test_each_kind_of_loss_is_a_sentence_that_names_some_keys() -> None:
    many = tuple(f"k{n}" for n in range(9))
    assert Losses(lost=many, doubled=("d",)).troubles() == [
        "9 listings were acknowledged and are lost: k0, k1, k2, k3, k4, …",
        "1 listings are doubled: d",
    ]
    assert Losses().troubles() == []


# --- messages, readings, copies ------------------------------------------------------------------------------------


def test_what_is_there_and_not_indexed_has_lost_its_message() -> None:
    tries = [tried("k1"), tried("k2"), tried("unknown", status=0), tried("lost")]
    rows = [row("k1", is_indexed=False), row("k2"), row("unknown", is_indexed=False)]
    assert unindexed(tries, rows) == ["k1"]


@pytest.mark.parametrize(
    ("status", "found", "is_gone"),
    [(200, "k1", False), (200, "k2", True), (200, "", True), (404, "", True), (503, "", False), (0, "", False)],
)
def test_an_acknowledged_listing_that_is_unknown_to_the_next_reader_has_vanished(
    status: int, found: str, is_gone: bool
) -> None:
    assert vanished([Reading("k1", 1.0, 7, status, found)]) == (["k1"] if is_gone else [])


def test_copies_differ_in_what_one_of_them_lacks_or_has_otherwise() -> None:
    here, there = [row("k1"), row("k2", 8), row("k3", 9)], [row("k1"), row("k2", 9)]
    assert differences(here, there) == ["k2", "k3"]
    assert differences(here, list(reversed(here))) == []


# --- two primaries ----------------------------------------------------------------------------------------------

TERMS = [Term("old", 0.0), Term("new", 10.0)]


def test_writes_that_each_primary_acknowledged_in_its_own_term_are_as_they_should_be() -> None:
    assert accepted_by_two([tried(began=9.9, by="old"), tried(began=10.1, by="new")], TERMS) == []


def test_one_write_that_the_old_primary_acknowledged_after_the_promotion_is_found() -> None:
    late = tried(began=10.5, by="old")
    assert accepted_by_two([tried(began=9.9, by="old"), late, tried(began=11.0, by="new")], TERMS) == [late]


def test_a_write_that_began_before_the_promotion_and_was_acknowledged_after_it_is_found() -> None:
    late = tried(began=9.9, ended=10.2, by="old")
    assert accepted_by_two([late], TERMS) == [late]


def test_a_write_that_the_new_primary_acknowledged_before_its_term_is_found() -> None:
    early = tried(began=9.0, by="new")
    assert accepted_by_two([early], TERMS) == [early]


def test_what_the_old_primary_refused_after_the_promotion_is_no_acceptance() -> None:
    assert accepted_by_two([tried(began=10.5, by="old", status=0)], TERMS) == []


def test_a_primary_that_came_home_has_a_term_of_its_own_again() -> None:
    terms = [*TERMS, Term("old", 20.0)]
    assert accepted_by_two([tried(began=20.1, by="old")], terms) == []
    assert len(accepted_by_two([tried(began=20.1, by="new")], terms)) == 1


# --- times ------------------------------------------------------------------------------------------------------


def test_the_outage_lasts_until_a_write_that_began_after_the_fault_is_acknowledged() -> None:
    tries = [tried(began=9.9), tried(began=11.0, status=0), tried(began=12.0, ended=15.0), tried(began=15.1)]
    outage = write_outage(tries, fault_at=10.0)
    assert (outage.seconds, outage.served_at, outage.failed) == (5.0, 15.0, 1)


def test_a_late_answer_to_a_write_that_was_under_way_at_the_fault_does_not_end_the_outage() -> None:
    tries = [tried(began=9.0), tried(began=9.9, ended=13.0, status=202), tried(began=16.0)]
    assert write_outage(tries, fault_at=10.0).seconds == 6.0


def test_what_is_stored_and_not_confirmed_ends_the_outage_of_the_database_and_not_that_of_the_broker() -> None:
    tries = [tried(began=9.9), tried(began=11.0, status=202), tried(began=14.0)]
    assert write_outage(tries, fault_at=10.0).seconds == 3.0
    assert write_outage([*tries[:2], tried(began=12.0)], fault_at=10.0).seconds == 1.0
    assert write_outage(tries, fault_at=10.0, confirmed=True).seconds == 4.0


# --- notes ------------------------------------------------------------------------------------------------------


def test_notes_are_read_as_they_were_written_and_a_line_that_is_cut_off_is_left_out() -> None:
    one, back = tried(by="vm"), Reading("k1", 1.0, 7, 200, "k1")
    assert note_of(json.dumps(asdict(one))) == one
    assert note_of(json.dumps(asdict(back))) == back
    assert note_of(json.dumps(asdict(one))[:-5]) is None


def test_rows_are_read_from_what_the_databases_own_client_prints() -> None:
    assert rows_of("k1\t7\t1\nk2\t8\t0\n") == [row(), row("k2", 8, False)]


def test_a_write_that_the_former_primary_acknowledges_after_the_promotion_is_told() -> None:
    tries = [tried("before", 9.0, by="a"), tried("late", 11.0, by="a"), tried("new", 11.0, by="b")]
    (told,) = two_at_once(tries, "a", "b", 10.0)
    assert told == "1 writes were acknowledged by a too, after another VM had taken over: late"
    assert two_at_once(tries[::2], "a", "b", 10.0) == []
    assert two_at_once([tries[0], tries[1]], "a", "a", 10.0) == [], "nobody was promoted"


def test_two_that_acknowledge_in_turn_are_told_when_one_does_in_the_others_turn() -> None:
    turns = ("home", "other", "home")
    there, away, back = (tried(str(at), at, by=by) for at, by in ((1.0, "home"), (2.0, "other"), (3.0, "home")))
    late, unanswered = tried("late", 2.5, by="home"), tried("unanswered", 2.5, by="home", status=0)
    again = tried("again", 2.7, by="other")
    assert out_of_turn([back, away, there], turns) == []
    assert out_of_turn([there, back], turns) == [], "nobody wrote while the other had it"
    assert out_of_turn([there, away, unanswered, again, back], turns) == []
    (told,) = out_of_turn([there, away, late, again, back], turns)
    assert told == (
        "writes were acknowledged by home, then other, then home, then other, then home,"
        " where it was the turn of home, then other, then home"
    )
