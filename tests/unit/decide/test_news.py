"""What the journal says once although nothing is decided about it."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.decide.news import announced_after
from orchestrator.domain import keys
from orchestrator.domain.records import Sync
from tests.unit.decide.fleet import START, WEB, Fleet
from tests.unit.decide.test_replicated import in_sync


def news_of(fleet: Fleet) -> list[tuple[str, str]]:
    """Decide once; return the news with their kinds."""
    return [(entry.code, entry.sentence) for entry in fleet.step().news]


def with_whole(fleet: Fleet, *vms: str, why: str) -> Fleet:
    record = Sync(service=WEB, primary=vms[0], epoch=fleet.assignment.epoch, complete=vms, since=START, reason=why)
    return fleet.put(keys.sync(WEB), record)


def test_a_service_that_no_vm_can_take_is_told_once_until_it_is_served_again() -> None:
    fleet = Fleet().serving("home").dies("home")
    fleet.in_maintenance.add("second")
    told = ("stranded", "home is not reachable, and no other VM can take web: second is in maintenance.")
    assert news_of(fleet) == [told]
    assert news_of(fleet) == []
    fleet.returns("home").runs("home").locked("home")
    assert news_of(fleet) == []
    assert news_of(fleet.dies("home")) == [told]


def test_a_service_that_is_started_again_in_place_is_not_told_as_stranded() -> None:
    fleet = Fleet().serving("home").fails("home").dies("second")
    outcome = fleet.step()
    assert [decision.code for decision in outcome.decisions] == ["failover"]
    assert outcome.news == ()


def test_copies_that_are_whole_when_a_leader_begins_are_no_news() -> None:
    assert news_of(in_sync()) == []


def test_a_copy_that_is_lost_and_one_that_is_back_are_told_once_each() -> None:
    fleet = in_sync()
    fleet.step()
    with_whole(fleet, "home", why="second has not acknowledged for 1 s")
    assert news_of(fleet) == [
        ("sync_lost", "Only the copy of web on home is whole: second has not acknowledged for 1 s.")
    ]
    assert news_of(fleet) == []
    with_whole(fleet, "home", "second", why="second has everything")
    assert news_of(fleet) == [("sync_regained", "All copies are whole: second has everything.")]
    assert news_of(fleet) == []


def test_a_new_leader_says_again_what_is_still_so() -> None:
    fleet = in_sync()
    with_whole(fleet, "home", why="second is silent")
    assert len(news_of(fleet)) == 1
    fleet.memory = replace(fleet.memory, announced=frozenset())
    assert len(news_of(fleet)) == 1


def test_what_was_not_written_is_said_again_and_what_was_is_not() -> None:
    """What is overtaken, for ever perhaps, is told from what is written beside it."""
    fleet = in_sync()
    fleet.step()
    before = fleet.memory.announced
    with_whole(fleet, "home", why="second is silent")
    outcome = fleet.step()
    assert announced_after(before, outcome, outcome.news) == outcome.memory.announced != before
    assert announced_after(before, outcome, ()) == before
    said = frozenset({"stranded:api:4"})
    both = replace(outcome, memory=replace(outcome.memory, announced=outcome.memory.announced | said))
    assert announced_after(before, both, ()) == before | said


def test_a_grace_that_was_not_announced_is_announced_again() -> None:
    fleet = Fleet().serving("second").runs("home")
    outcome = fleet.step()
    assert announced_after(frozenset(), outcome, outcome.decisions) == outcome.memory.announced != frozenset()
    assert announced_after(frozenset(), outcome, ()) == frozenset()
