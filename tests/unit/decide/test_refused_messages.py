"""What workers refuse of the messages that come is journalled by the leader."""

from __future__ import annotations

from orchestrator.decide import decide
from orchestrator.domain import keys
from orchestrator.domain.decision import Delete, Memory, Put
from orchestrator.domain.records import HistoryEntry
from orchestrator.execute.refusals import Refusals
from orchestrator.observe.parse import parse_view
from orchestrator.store.port import KvPair
from tests.fuzz.fleet import NOW, POLICY, checks_without


def pair_of(key: str, entry: HistoryEntry) -> KvPair:
    return KvPair(key, entry.to_json().encode(), 7)


def an_entry() -> HistoryEntry:
    refusals = Refusals("messaging-server")
    refusals.note("A failover message is refused: somebody may not ask for anything.")
    return refusals.entry(NOW)


def test_a_refusal_becomes_an_entry_of_the_journal_and_is_left_no_longer() -> None:
    entry = an_entry()
    view = parse_view([pair_of(keys.refused(entry.id), entry)], checks_without(), POLICY)
    (made,) = (each for each in decide(view, Memory(), POLICY, NOW).decisions if each.code == "refused_message")
    assert made.sentence == entry.reason
    assert made.changes == (Put(keys.history(entry.id), entry, 0), Delete(keys.refused(entry.id), 7))


def test_what_is_left_there_for_another_entry_or_of_another_kind_does_not_become_one() -> None:
    forged = an_entry().with_(kind="failover", service="backend")
    pairs = [pair_of(keys.refused(forged.id), forged), pair_of(keys.refused("another"), forged)]
    view = parse_view(pairs, checks_without(), POLICY)
    assert [bad.key for bad in view.unreadable] == [keys.refused("another")]
    (made,) = (each for each in decide(view, Memory(), POLICY, NOW).decisions if each.code == "refused_message")
    (put, _) = made.changes
    assert isinstance(put, Put)
    assert put.record == an_entry()
