"""What a sink is told next, and what is journalled of what it is not told."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.domain import keys
from orchestrator.domain.decision import Put
from orchestrator.domain.history import ENTRY_KINDS, UNTOLD
from orchestrator.domain.records import HistoryEntry, Told
from orchestrator.domain.view import Kept, Unreadable
from orchestrator.notify.choice import Advance, Tell, given_up, in_order, mark_of, next_step, written
from tests.unit.notify.build import NOW, entry_of, journal_of, sink_of, told

SINK = sink_of(entries=["failover", "hold", UNTOLD])
NOTHING = (0, "")


def test_a_new_sink_is_told_of_what_comes_and_not_of_what_was() -> None:
    journal = journal_of(entry_of(1), entry_of(2))
    step = next_step(SINK, None, journal, NOTHING, NOW)
    assert step == Advance(Told(sink="ops", upto=20, entry=journal[1].value.id, at=NOW), 0)
    assert next_step(SINK, None, (), NOTHING, NOW) == Advance(Told(sink="ops", upto=0, at=NOW), 0)


def test_it_is_told_of_the_kinds_that_it_names_and_passes_the_others() -> None:
    journal = journal_of(entry_of(1, "endpoints"), entry_of(2, "hold"), entry_of(3, "grace"))
    assert next_step(SINK, told(0), journal, NOTHING, NOW) == Tell(journal[1])
    passed = next_step(SINK, told(20, journal[1].value.id), journal, NOTHING, NOW)
    assert passed == Advance(Told(sink="ops", upto=30, entry=journal[2].value.id, at=NOW), 1_000_000)
    assert next_step(SINK, told(30, journal[2].value.id), journal, NOTHING, NOW) is None


def test_a_sink_that_names_no_kinds_is_told_of_those_that_matter() -> None:
    assert {kind for kind in ENTRY_KINDS if sink_of().is_told_of(kind)} >= {"failover", "hold", "stranded", "sync_lost"}
    assert not sink_of().is_told_of("endpoints")


def test_what_a_new_leader_with_a_slow_clock_journals_is_told_too() -> None:
    last = entry_of(5)
    earlier_by_its_clock = entry_of(3)
    journal = in_order(reversed(journal_of(last, earlier_by_its_clock)))
    assert next_step(SINK, told(10, last.id), journal, NOTHING, NOW) == Tell(journal[1])


def test_what_was_delivered_is_not_told_again_where_the_cursor_could_not_be_written() -> None:
    journal = journal_of(entry_of(1), entry_of(2))
    step = next_step(SINK, told(0), journal, mark_of(journal[0]), NOW)
    assert step == Advance(Told(sink="ops", upto=10, entry=journal[0].value.id, at=NOW), 1_000_000)


def test_a_cursor_that_cannot_be_read_is_begun_anew_and_that_is_said() -> None:
    journal = journal_of(entry_of(1))
    step = next_step(SINK, Unreadable(keys.notified("ops"), 7, "no JSON"), journal, NOTHING, NOW)
    assert isinstance(step, Advance)
    assert (step.told.upto, step.index) == (10, 7)
    assert step.lost == (
        "orch/notified/ops cannot be read (no JSON): ops is told of what is journalled from now on, and of nothing "
        "before."
    )


def test_a_cursor_from_another_consul_is_begun_anew_and_that_is_said() -> None:
    journal = journal_of(entry_of(1))
    step = next_step(SINK, told(5000, "x", index=40), journal, NOTHING, NOW)
    assert isinstance(step, Advance)
    assert (step.told.upto, step.index) == (10, 40)
    assert step.lost.startswith("orch/notified/ops counts by another Consul's index")


def test_entries_that_were_deleted_before_they_were_told_are_said_to_be_missing_once() -> None:
    journal = journal_of(entry_of(7), entry_of(8), first=70)
    step = next_step(SINK, told(20, entry_of(2).id), journal, NOTHING, NOW)
    assert isinstance(step, Advance)
    assert step.lost == (
        f"What was journalled after {entry_of(2).id} may have been deleted as old before ops was told of it "
        "(dispatch.keep_history)."
    )
    assert next_step(SINK, Kept(step.told, 1_000_000), journal, NOTHING, NOW) == Tell(journal[0])


def test_what_is_given_up_is_one_sentence_and_takes_along_what_has_grown_too_old() -> None:
    old, older = entry_of(2, at=NOW - 3600), entry_of(1, at=NOW - 4000)
    journal = journal_of(older, entry_of(9, "endpoints", at=NOW - 3700), old, entry_of(3, at=NOW - 10))
    step = given_up(SINK, told(0), journal, journal[0], "no answer in time", NOW)
    assert (step.told.upto, step.told.entry) == (30, old.id)
    assert step.lost == f"ops was not told of 2 entries from {older.id} to {old.id}: no answer in time."


def test_one_that_is_given_up_alone_leaves_the_next_ones_to_be_told() -> None:
    journal = journal_of(entry_of(1), entry_of(2))
    step = given_up(SINK, told(0), journal, journal[0], "the webhook answered 422", NOW)
    assert step.told.upto == 10
    assert step.lost == f"ops was not told of the entry {entry_of(1).id}: the webhook answered 422."


def test_a_dead_sink_does_not_fill_the_journal_with_what_it_was_not_told() -> None:
    own = entry_of(1, UNTOLD, at=NOW - 4000, sink="ops")
    others = entry_of(2, UNTOLD, at=NOW - 4000, sink="mail")
    assert given_up(SINK, told(0), journal_of(own), journal_of(own)[0], "dead", NOW).lost == ""
    journal = journal_of(own, others)
    assert (
        given_up(SINK, told(0), journal, journal[0], "dead", NOW).lost
        == f"ops was not told of the entry {others.id}: dead."
    )


def test_cursor_and_journal_change_together_or_not_at_all() -> None:
    step = Advance(Told(sink="ops", upto=10, entry="e", at=NOW), 7, "ops was not told.")
    put, entry = written(step, NOW).changes
    assert put == Put(keys.notified("ops"), step.told, 7)
    assert isinstance(entry, Put)
    assert isinstance(entry.record, HistoryEntry)
    assert (entry.index, entry.record.kind, entry.record.sink, entry.record.reason) == (0, UNTOLD, "ops", step.lost)
    assert entry.key == keys.history(entry.record.id)
    assert len(written(Advance(step.told, 7), NOW).changes) == 1


@given(st.lists(st.sampled_from(sorted(ENTRY_KINDS)), max_size=12), st.sets(st.integers(0, 11)))
def test_every_wanted_entry_is_told_in_order_and_a_leader_that_dies_repeats_one(
    kinds: list[str], deaths: set[int]
) -> None:
    journal = journal_of(*(entry_of(number, kind) for number, kind in enumerate(kinds, start=1)))
    cursor, done, heard = told(0), NOTHING, []
    while (step := next_step(SINK, cursor, journal, done, NOW)) is not None:
        if isinstance(step, Advance):
            cursor = Kept(step.told, cursor.index + 1)
            continue
        heard.append(step.entry)
        # It dies after it has delivered and before it writes that down: the next one knows nothing of it.
        done = NOTHING if len(heard) in deaths else mark_of(step.entry)
    wanted = [kept for kept in journal if SINK.is_told_of(kept.value.kind)]
    assert list(dict.fromkeys(heard)) == wanted
    assert len(heard) - len(wanted) == len([death for death in deaths if 1 <= death <= len(heard)])
