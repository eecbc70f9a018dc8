"""What a guard does about a replicated service's data, by table: no fakes, the rules are pure."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest

from orchestrator.domain.policy import CheckPolicy, ReplicationPolicy, ServicePolicy
from orchestrator.domain.records import LockValue, MoveKind, Sync
from orchestrator.domain.view import LockView
from orchestrator.node import duties as do
from orchestrator.node.case import EMPTY_MEMORY, FULL_S, MUTE_S, Memory
from orchestrator.node.duty import Plan, duties
from orchestrator.node.replication.facts import Replica, ServerFacts, no_answer
from orchestrator.node.replication.rules import TRY_AGAIN_S
from orchestrator.node.situation import AddressState, DataState, ProbeResult, Situation
from tests.unit.node.build import (
    ANSWERS,
    FAILED,
    HERE,
    NOW,
    OTHER,
    SESSION,
    assignment,
    registered,
    situation,
    view,
)

ADDRESSES = {HERE: "10.0.8.49", OTHER: "10.0.0.22"}
POLICY = ServicePolicy(
    order=(HERE, OTHER),
    unit="mariadb",
    port=3306,
    standby="hot",
    check=CheckPolicy(kind="tcp"),
    activate="a.yml",
    deactivate="d.yml",
    replication=ReplicationPolicy(kind="mariadb"),
)

PRIMARY = ServerFacts(at=NOW, answers=True, writable=True, position="0-1-9", waits_for_replica=True, replicas=1)
ALONE = replace(PRIMARY, waits_for_replica=False, replicas=0)
CLOSED = replace(PRIMARY, writable=False)
COPY = ServerFacts(
    at=NOW,
    answers=True,
    position="0-1-9",
    replica=Replica(ADDRESSES[OTHER], receives=True, applies=True, semi_sync=True, drained=True, behind_s=0.0),
    acknowledges=True,
)
STARTED_ANEW = replace(COPY, acknowledges=False)
FRESH = ServerFacts(at=NOW, answers=True)
LOST = replace(COPY, replica=replace(COPY.replica, receives=False, errno=1236, error="no GTID 0-1-9 there"))


def record(*complete: str, primary: str = HERE, epoch: int = 7, position: str = "0-1-9") -> Sync:
    known = {"primary": primary, "epoch": epoch, "complete": complete, "position": position}
    return Sync(service="frontend", since=1.0, reason="test", **known)


BOTH, HERE_ALONE = record(HERE, OTHER), record(HERE)


def data(facts: ServerFacts | None = PRIMARY, sync: Sync | None = BOTH, **more: Any) -> DataState:
    known = {"facts": facts, "sync": sync, "sync_index": 4 if sync else 0, "leased": True, **more}
    return DataState(**known)


def the_lock(vm: str = HERE, epoch: int = 7, session: str | None = SESSION, **more: Any) -> LockView:
    return LockView(LockValue(vm=vm, epoch=epoch, **more), session, 5)


def at_work(**changes: Any) -> Situation:
    """A primary in its steady state, with a standby in sync."""
    base = {
        "policy": POLICY,
        "assignment": assignment(standbys=(OTHER,)),
        "lock": the_lock(),
        "data": data(),
        "probe": ANSWERS,
        "address": AddressState.NONE,
    }
    found = situation(**{**base, **changes})
    tag = "active" if found.lock and found.lock.holder == HERE else "candidate"
    return replace(found, registration=changes.get("registration", registered(found, tag)))


def plan_of(at: Situation, memory: Memory = EMPTY_MEMORY, now: float = NOW, **changes: Any) -> Plan:
    seen = view(at, vm_addresses=MappingProxyType(ADDRESSES), **{"wall": 50.0, **changes})
    return duties(seen, memory, now)


def told(plan: Plan) -> list[do.Duty]:
    """Return the duties that concern the data, the record or the role lock."""
    mine = do.WriteSync | do.AcquireLock | do.ReleaseLock
    return [duty for duty in plan.duties if duty.changes is do.Medium.DATA or isinstance(duty, mine)]


def names(at: Situation, **changes: Any) -> list[str]:
    return [type(duty).__name__ for duty in told(plan_of(at, **changes))]


MOVED_HERE = assignment(standbys=(OTHER,)).with_(kind=MoveKind.FAILOVER)
ACCEPTED = MOVED_HERE.with_(accepts_data_loss=True)
NEW_EPOCH = assignment(epoch=8, standbys=(OTHER,))
MOVED = assignment(active=OTHER, epoch=8, standbys=(HERE,))
TAKEN = the_lock(epoch=8, ready=False)
THEIRS = the_lock(vm=OTHER, epoch=8, session="another")
BEFORE = record(OTHER, HERE, primary=OTHER, epoch=7)

TABLE = [
    ("a primary whose standby is in sync has nothing to do", at_work(), []),
    ("while the server does one thing it is told no other", at_work(data=data(CLOSED, busy="Promote")), []),
    ("a server that was not read yet is told nothing", at_work(data=data(None)), []),
    ("without Consul nothing is told: the lease closes writes", at_work(data=data(CLOSED)), []),
    # -- taking over
    (
        "a copy that takes over applies what it has received first",
        at_work(assignment=NEW_EPOCH, lock=TAKEN, data=data(COPY, BEFORE)),
        ["Promote"],
    ),
    (
        "then it records that it alone is whole",
        at_work(assignment=NEW_EPOCH, lock=TAKEN, data=data(FRESH, BEFORE)),
        ["WriteSync"],
    ),
    (
        "then it takes writes, waiting for nobody",
        at_work(assignment=NEW_EPOCH, lock=TAKEN, data=data(FRESH, record(HERE, epoch=8))),
        ["OpenWrites"],
    ),
    (
        "only then traffic is let in",
        at_work(assignment=NEW_EPOCH, lock=TAKEN, data=data(ALONE, record(HERE, epoch=8))),
        ["AcquireLock"],
    ),
    (
        "a copy that is not whole is not promoted",
        at_work(assignment=NEW_EPOCH, lock=TAKEN, data=data(COPY, record(OTHER, primary=OTHER))),
        [],
    ),
    (
        "unless an operator accepts what it lacks",
        at_work(
            assignment=NEW_EPOCH.with_(accepts_data_loss=True),
            lock=TAKEN,
            data=data(COPY, record(OTHER, primary=OTHER)),
        ),
        ["Promote"],
    ),
    (
        "a copy that has started anew may lack what it had acknowledged, and is not promoted",
        at_work(assignment=NEW_EPOCH, lock=TAKEN, data=data(STARTED_ANEW, BEFORE)),
        [],
    ),
    (
        "nor before the lock can be taken",
        at_work(assignment=NEW_EPOCH, lock=the_lock(vm=OTHER, session=None), data=data(STARTED_ANEW, BEFORE)),
        ["AcquireLock"],
    ),
    (
        "without a record nothing is promoted",
        at_work(assignment=NEW_EPOCH.with_(kind=MoveKind.FAILOVER), lock=TAKEN, data=data(COPY, None)),
        [],
    ),
    (
        "a record that cannot be read is not an absent one",
        at_work(assignment=assignment(epoch=1), lock=the_lock(epoch=1), data=data(FRESH, None, sync_problem="no JSON")),
        [],
    ),
    (
        "a service that is founded has its first record",
        at_work(assignment=assignment(epoch=1), lock=the_lock(epoch=1, ready=False), data=data(FRESH, None)),
        ["WriteSync"],
    ),
    (
        "so it has when it was restarted in place before there was a record",
        at_work(
            assignment=assignment(epoch=2).with_(kind=MoveKind.INITIAL),
            lock=the_lock(epoch=2, ready=False),
            data=data(FRESH, None),
        ),
        ["WriteSync"],
    ),
    (
        "a record that was deleted is written again by the primary that serves",
        at_work(assignment=MOVED_HERE, data=data(ALONE, None)),
        ["WriteSync"],
    ),
    (
        "or that served at this epoch and was restarted",
        at_work(assignment=MOVED_HERE, lock=the_lock(ready=False), data=data(CLOSED, None, had_traffic=True)),
        ["WriteSync"],
    ),
    (
        "but by nobody else",
        at_work(assignment=MOVED_HERE, lock=the_lock(ready=False), data=data(CLOSED, None)),
        [],
    ),
    (
        "unless an operator accepts what the copy lacks: then it is promoted",
        at_work(assignment=ACCEPTED, lock=the_lock(ready=False), data=data(COPY, None)),
        ["Promote"],
    ),
    (
        "and recorded",
        at_work(assignment=ACCEPTED, lock=the_lock(ready=False), data=data(FRESH, None)),
        ["WriteSync"],
    ),
    (
        "also over a record that cannot be read",
        at_work(assignment=ACCEPTED, lock=the_lock(ready=False), data=data(FRESH, None, sync_problem="no JSON")),
        ["WriteSync"],
    ),
    (
        "it is promoted already while nobody can take the lock yet, and takes the lock as soon as it can",
        at_work(assignment=NEW_EPOCH, lock=the_lock(vm=OTHER, session=None), data=data(COPY, BEFORE)),
        ["AcquireLock", "Promote"],
    ),
    (
        "but not while its former holder has the lock: it has to follow to the end",
        at_work(assignment=NEW_EPOCH, lock=the_lock(vm=OTHER, session="another"), data=data(COPY, BEFORE)),
        [],
    ),
    # -- a restart of the server where it is
    (
        "a primary that has restarted waits for its standby before it takes writes",
        at_work(data=data(replace(CLOSED, waits_for_replica=False))),
        ["WaitForReplica"],
    ),
    ("then it takes writes again", at_work(data=data(CLOSED)), ["OpenWrites"]),
    ("writes that a restarted guard finds open come under a lease", at_work(data=data(leased=False)), ["OpenWrites"]),
    # -- the standby comes and goes
    (
        "a standby that replicates is asked to acknowledge",
        at_work(data=data(replace(ALONE, replicas=1), HERE_ALONE)),
        ["JoinReplica"],
    ),
    (
        "one that was proved to have everything is recorded as whole",
        at_work(data=data(replace(PRIMARY, proven=ADDRESSES[OTHER]), HERE_ALONE)),
        ["WriteSync"],
    ),
    (
        "one that was recorded as lost is not waited for",
        at_work(data=data(PRIMARY, HERE_ALONE)),
        ["WaitForReplica"],
    ),
    (
        "a standby that may not run is not asked",
        at_work(assignment=assignment(), data=data(replace(ALONE, replicas=1), HERE_ALONE)),
        [],
    ),
    # -- giving up
    ("a role lock that is another's closes writes", at_work(lock=the_lock(vm=OTHER, session="x")), ["CloseWrites"]),
    ("so does one that is lost", at_work(lock=the_lock(session=None), sessions=()), ["CloseWrites"]),
    ("a planned move closes writes before the lock is given", at_work(assignment=MOVED), ["CloseWrites"]),
    (
        "nor is it given while commits go on",
        at_work(assignment=MOVED, data=data(replace(CLOSED, waiting=1))),
        [],
    ),
    ("nor while the server does not answer", at_work(assignment=MOVED, data=data(no_answer(NOW, "hung"))), []),
    ("once nothing changes any more it is given", at_work(assignment=MOVED, data=data(CLOSED)), ["ReleaseLock"]),
    ("a server that is dead needs no lock", at_work(unit=FAILED), ["ReleaseLock"]),
    # -- following
    (
        "a former primary follows the one that is ready",
        at_work(assignment=MOVED, lock=THEIRS, sessions=(), data=data(CLOSED)),
        ["Follow"],
    ),
    (
        "but nobody who is not ready",
        at_work(assignment=MOVED, lock=the_lock(OTHER, 8, "another", ready=False), sessions=(), data=data(CLOSED)),
        [],
    ),
    (
        "nor one whose epoch is past",
        at_work(assignment=MOVED.with_(epoch=9), lock=THEIRS, sessions=(), data=data(CLOSED)),
        [],
    ),
    (
        "a copy that receives everything tells its source so",
        at_work(assignment=MOVED, lock=THEIRS, sessions=(), data=data(STARTED_ANEW)),
        ["Acknowledge"],
    ),
    ("a copy that follows is left alone", at_work(assignment=MOVED, lock=THEIRS, sessions=(), data=data(COPY)), []),
    (
        "one that stopped is told again",
        at_work(
            assignment=MOVED,
            lock=THEIRS,
            sessions=(),
            data=data(replace(COPY, replica=replace(COPY.replica, receives=False))),
        ),
        ["Follow"],
    ),
    (
        "one that has diverged is not: it must be replaced",
        at_work(assignment=MOVED, lock=THEIRS, sessions=(), data=data(LOST)),
        [],
    ),
]


@pytest.mark.parametrize(("at", "expected"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_what_is_done_about_the_data(at: Situation, expected: list[str], request: pytest.FixtureRequest) -> None:
    without_consul = "without Consul" in request.node.callspec.id
    assert names(at, kv_fresh=not without_consul) == expected


def test_the_lock_is_taken_before_the_copy_is_promoted_and_says_that_it_is_not_ready() -> None:
    free = the_lock(vm=OTHER, epoch=8, session=None, position="0-1-9")
    taken, promoted = told(plan_of(at_work(assignment=NEW_EPOCH, lock=free, data=data(COPY, BEFORE))))
    assert isinstance(taken, do.AcquireLock)
    assert isinstance(promoted, do.Promote)
    assert promoted.position == "0-1-9"
    assert (taken.ready, taken.position) == (False, "0-1-9")


def test_a_lock_that_was_lost_says_no_position() -> None:
    lost = the_lock(vm=OTHER, epoch=7, session=None, position="0-1-3")
    taken, _ = told(plan_of(at_work(assignment=NEW_EPOCH, lock=lost, data=data(COPY, BEFORE))))
    assert isinstance(taken, do.AcquireLock)
    assert taken.position is None


def test_a_lock_that_somebody_deleted_is_taken_when_its_former_holder_must_have_stopped() -> None:
    assert POLICY.replication is not None
    at = at_work(assignment=NEW_EPOCH, lock=None, data=data(COPY, BEFORE))
    first = plan_of(at)
    over = plan_of(at, first.memory, NOW + POLICY.replication.lock_delay_s)
    assert first.wake_at == NOW + POLICY.replication.lock_delay_s
    taken = [[duty for duty in told(plan) if isinstance(duty, do.AcquireLock)] for plan in (first, over)]
    assert [len(each) for each in taken] == [0, 1]


def test_a_copy_is_promoted_up_to_what_the_former_holder_said() -> None:
    lock = the_lock(epoch=8, ready=False, position="0-1-9")
    (promote,) = told(plan_of(at_work(assignment=NEW_EPOCH, lock=lock, data=data(COPY, BEFORE))))
    assert promote == do.Promote("frontend", promote.reason, "0-1-9")


def test_the_lock_is_given_with_the_position_that_the_next_holder_must_reach() -> None:
    (given,) = told(plan_of(at_work(assignment=MOVED, data=data(CLOSED))))
    assert isinstance(given, do.ReleaseLock)
    assert (given.epoch, given.position) == (8, "0-1-9")


def test_the_record_is_fenced_by_the_lock_the_assignment_and_its_own_index() -> None:
    at = at_work(assignment=NEW_EPOCH, lock=TAKEN, data=data(FRESH, BEFORE))
    (written,) = told(plan_of(at))
    assert isinstance(written, do.WriteSync)
    assert (written.session, written.assignment_index, written.index) == (SESSION, 3, 4)
    assert (written.record.primary, written.record.epoch, written.record.complete) == (HERE, 8, (HERE,))


def test_a_record_that_names_the_same_copies_keeps_since_when() -> None:
    alone, both = HERE_ALONE, BOTH
    (again,) = told(plan_of(at_work(assignment=NEW_EPOCH, lock=TAKEN, data=data(FRESH, alone))))
    (lost,) = told(plan_of(at_work(assignment=NEW_EPOCH, lock=TAKEN, data=data(FRESH, both))))
    assert isinstance(again, do.WriteSync)
    assert isinstance(lost, do.WriteSync)
    assert (again.record.complete, again.record.since) == (lost.record.complete, alone.since)
    assert lost.record.since > both.since


SILENT_STANDBY = [replace(PRIMARY, replicas=0), replace(PRIMARY, waiting=2, acknowledged=5)]
OTHERS_ALONE = record(OTHER, primary=OTHER)
GIVEN_UP = the_lock(epoch=8, ready=False, position="0-1-12")
LACKING = replace(FRESH, position="0-1-9")


@pytest.mark.parametrize(
    ("lock", "previous", "before", "lacks"),
    [
        (GIVEN_UP, OTHER, OTHERS_ALONE, 3),
        (TAKEN, OTHER, OTHERS_ALONE, None),
        (GIVEN_UP, HERE, OTHERS_ALONE, None),
        (GIVEN_UP, "third", OTHERS_ALONE, None),
        (GIVEN_UP, OTHER, BEFORE, None),
    ],
    ids=[
        "the former holder said where it ended",
        "it died, and said nothing",
        "it was this one",
        "its copy was not whole",
        "this copy is whole",
    ],
)
def test_a_copy_that_is_promoted_on_an_operators_word_has_what_it_lacks_counted_where_somebody_can(
    lock: LockView, previous: str, before: Sync, lacks: int | None
) -> None:
    moved = NEW_EPOCH.with_(accepts_data_loss=True, previous=previous)
    at = at_work(assignment=moved, lock=lock, data=data(LACKING, before))
    (written,) = told(plan_of(at))
    assert isinstance(written, do.WriteSync)
    assert (written.record.lacks, written.record.position) == (lacks, "0-1-9")


REPORTED = OTHERS_ALONE.with_(reported="0-1-12", reported_at=40.0)


@pytest.mark.parametrize(
    ("lock", "here", "lacks", "by"),
    [
        (TAKEN, "0-1-9", 3, 40.0),
        (TAKEN, "0-1-14", 0, 40.0),
        (the_lock(epoch=8, ready=False, position="0-1-15"), "0-1-9", 6, None),
        (the_lock(epoch=8, ready=False, position="ON"), "0-1-9", 3, 40.0),
        (TAKEN, "ON", None, None),
    ],
    ids=[
        "it died after its report",
        "the copy received more after the report",
        "it said where it ended",
        "what it said is no position",
        "the copy has no position",
    ],
)
def test_of_a_primary_that_died_what_it_had_reported_is_counted(
    lock: LockView, here: str, lacks: int | None, by: float | None
) -> None:
    moved = NEW_EPOCH.with_(accepts_data_loss=True, previous=OTHER)
    at = at_work(assignment=moved, lock=lock, data=data(replace(FRESH, position=here), REPORTED))
    (written,) = told(plan_of(at))
    assert isinstance(written, do.WriteSync)
    assert (written.record.lacks, written.record.lacks_by) == (lacks, by)
    assert (written.record.reported, written.record.reported_at) == (None, None)


@pytest.mark.parametrize(
    ("since", "last", "wall", "due"),
    [
        (50.0, None, 59.0, False),
        (50.0, None, 60.0, True),
        (50.0, 250.0, 269.0, False),
        (50.0, 250.0, 270.0, True),
        (50.0, 90_050.0, 90_349.0, False),
        (50.0, 90_050.0, 90_350.0, True),
        (50.0, 250.0, 40.0, True),
    ],
    ids=["at first", "10 s", "later", "a tenth", "much later", "5 min", "a clock that was set back"],
)
def test_a_primary_that_alone_is_whole_reports_its_position_less_often_the_longer_it_is_alone(
    since: float, last: float | None, wall: float, due: bool
) -> None:
    known = HERE_ALONE.with_(since=since, reported=None if last is None else "0-1-10", reported_at=last)
    at = at_work(data=data(replace(ALONE, position="0-1-20", at=NOW - 0.5), known))
    plan = plan_of(at, wall=wall)
    if not due:
        assert told(plan) == []
        return
    (reported,) = told(plan)
    assert isinstance(reported, do.WriteSync)
    assert reported.record == known.with_(reported="0-1-20", reported_at=wall - 0.5)


def test_a_primary_that_is_not_alone_or_has_nothing_new_to_say_reports_nothing() -> None:
    assert told(plan_of(at_work(data=data(ALONE, HERE_ALONE)), wall=500.0)) == []
    assert told(plan_of(at_work(data=data(replace(PRIMARY, position="0-1-20"))), wall=500.0)) == []


def test_a_primary_that_is_promoted_again_while_it_alone_is_whole_keeps_its_report() -> None:
    reported = HERE_ALONE.with_(reported="0-1-12", reported_at=40.0)
    (again,) = told(plan_of(at_work(assignment=NEW_EPOCH, lock=TAKEN, data=data(FRESH, reported))))
    assert isinstance(again, do.WriteSync)
    assert (again.record.reported, again.record.reported_at) == ("0-1-12", 40.0)


def test_the_record_says_where_the_primary_was_since_when_it_alone_is_whole() -> None:
    first = plan_of(at_work(data=data(SILENT_STANDBY[0])))
    (lost,) = told(plan_of(at_work(data=data(SILENT_STANDBY[0])), first.memory, NOW + 1.6))
    assert isinstance(lost, do.WriteSync)
    assert lost.record.position == "0-1-9"
    later = data(replace(FRESH, position="0-1-20"), lost.record)
    (again,) = told(plan_of(at_work(assignment=NEW_EPOCH, lock=TAKEN, data=later)))
    assert isinstance(again, do.WriteSync)
    assert (again.record.since, again.record.position) == (lost.record.since, "0-1-9")


@pytest.mark.parametrize(
    ("facts", "not_after_s", "after_s", "why"),
    [
        (SILENT_STANDBY[0], 0.2, 0.3, "has ended its connection"),
        (SILENT_STANDBY[1], 1.0, 1.2, "has not acknowledged for 1 s"),
    ],
    ids=["gone", "says nothing"],
)
def test_a_standby_that_is_silent_for_its_time_is_recorded_as_lost_before_anything_else(
    facts: ServerFacts, not_after_s: float, after_s: float, why: str
) -> None:
    at = at_work(data=data(facts))
    first = plan_of(at)
    again = plan_of(at, first.memory, NOW + 0.1)
    assert told(first) == told(again) == []
    assert told(plan_of(at, again.memory, NOW + not_after_s)) == []
    (written,) = told(plan_of(at, again.memory, NOW + after_s))
    assert isinstance(written, do.WriteSync)
    assert written.record.complete == (HERE,)
    assert written.record.reason == f"{OTHER} {why}"


def test_a_standby_that_connects_anew_at_once_stays() -> None:
    first = plan_of(at_work(data=data(SILENT_STANDBY[0])))
    second = plan_of(at_work(data=data(PRIMARY)), first.memory, NOW + 0.2)
    assert told(plan_of(at_work(data=data(SILENT_STANDBY[0])), second.memory, NOW + 0.4)) == []


@pytest.mark.parametrize("facts", SILENT_STANDBY, ids=["gone", "says nothing"])
def test_a_standby_that_was_proved_once_and_is_lost_is_not_recorded_again_but_waited_for_no_more(
    facts: ServerFacts,
) -> None:
    at = at_work(data=data(replace(facts, proven=ADDRESSES[OTHER]), HERE_ALONE))
    first = plan_of(at)
    (waits,) = told(plan_of(at, first.memory, NOW + 2.0))
    assert waits == do.WaitForReplica("frontend", waits.reason, False)


def test_a_standby_that_acknowledges_again_in_time_stays() -> None:
    first = plan_of(at_work(data=data(replace(PRIMARY, waiting=2, acknowledged=0))))
    second = plan_of(at_work(data=data(replace(PRIMARY, waiting=2, acknowledged=1))), first.memory, NOW + 0.9)
    third = plan_of(at_work(data=data(replace(PRIMARY, waiting=2, acknowledged=1))), second.memory, NOW + 1.8)
    assert told(third) == []


def test_a_proof_from_before_the_standby_fell_silent_does_not_bring_it_back() -> None:
    proven = replace(PRIMARY, replicas=0, proven=ADDRESSES[OTHER])
    first = plan_of(at_work(data=data(proven)))
    lost = plan_of(at_work(data=data(proven, HERE_ALONE)), first.memory, NOW + 1.6)
    assert [type(duty).__name__ for duty in told(lost)] == ["WaitForReplica"]


def test_what_was_never_received_does_not_hold_up_a_whole_copy_for_ever() -> None:
    lock = the_lock(epoch=8, ready=False, position="0-1-9")
    failed = data(COPY, BEFORE, failed_at={"Promote": NOW - TRY_AGAIN_S})
    (promote,) = told(plan_of(at_work(assignment=NEW_EPOCH, lock=lock, data=failed)))
    assert promote == do.Promote("frontend", promote.reason, None)


def test_without_consul_a_guard_that_has_no_lease_closes_writes_when_one_would_be_over() -> None:
    at = at_work(data=data(leased=False))
    first = plan_of(at, kv_fresh=False)
    assert told(first) == []
    assert first.wake_at == pytest.approx(NOW + 1.0)
    (close,) = told(plan_of(at, first.memory, NOW + 1.0, kv_fresh=False))
    assert isinstance(close, do.CloseWrites)
    assert close.at_any_cost, "for all that is known"
    assert told(plan_of(at_work(), first.memory, NOW + 1.0, kv_fresh=False)) == [], "the lease does"


def test_what_failed_a_moment_ago_is_tried_again_after_a_while() -> None:
    at = at_work(data=data(replace(ALONE, replicas=1), HERE_ALONE, failed_at={"JoinReplica": NOW - 0.1}))
    plan = plan_of(at)
    assert told(plan) == []
    assert plan.wake_at == pytest.approx(NOW - 0.1 + TRY_AGAIN_S)
    assert [type(duty).__name__ for duty in told(plan_of(at, now=NOW + TRY_AGAIN_S))] == ["JoinReplica"]


def test_a_copy_that_was_told_to_follow_is_given_time_to_connect() -> None:
    connecting = replace(COPY, replica=replace(COPY.replica, receives=False))
    at = at_work(assignment=MOVED, lock=THEIRS, sessions=(), data=data(connecting, followed_at=NOW - 0.1))
    assert told(plan_of(at)) == []
    assert [type(duty).__name__ for duty in told(plan_of(at, now=NOW + TRY_AGAIN_S))] == ["Follow"]


@pytest.mark.parametrize(
    ("at", "at_any_cost"),
    [
        (at_work(assignment=MOVED), False),
        (at_work(lock=the_lock(vm=OTHER, session="x")), True),
        (at_work(assignment=MOVED, lock=the_lock(session=None), sessions=()), True),
    ],
)
def test_only_a_server_whose_role_lock_is_gone_is_ended_where_it_does_not_close(
    at: Situation, at_any_cost: bool
) -> None:
    (close,) = told(plan_of(at))
    assert isinstance(close, do.CloseWrites)
    assert close.at_any_cost is at_any_cost


@pytest.mark.parametrize("facts", SILENT_STANDBY)
def test_a_planned_move_is_not_held_up_for_ever_by_commits_that_wait_for_a_lost_standby(facts: ServerFacts) -> None:
    at = at_work(assignment=MOVED, data=data(facts))
    serving = at_work(data=data(facts))
    memory = plan_of(serving, plan_of(serving).memory).memory
    for later_s, at_any_cost in ((0.9, False), (1.0, True)):
        plan = plan_of(at, memory, NOW + later_s)
        (close,) = told(plan)
        assert isinstance(close, do.CloseWrites)
        assert close.at_any_cost is at_any_cost
        memory = plan.memory


def test_closing_writes_never_waits() -> None:
    at = at_work(assignment=MOVED, data=data(failed_at={"CloseWrites": NOW - 0.1}))
    assert names(at) == ["CloseWrites"]


def pushed(plan: Plan) -> list[do.PushUnit]:
    return [duty for duty in plan.duties if isinstance(duty, do.PushUnit) and duty.status == "critical"]


def test_a_server_that_runs_and_does_not_answer_has_failed_after_a_while() -> None:
    at = at_work(data=data(no_answer(NOW, "no answer within 2 s")))
    first = plan_of(at)
    assert pushed(first) == []
    (push,) = pushed(plan_of(at, first.memory, NOW + MUTE_S))
    assert push.reason == "mariadb runs and does not answer: no answer within 2 s."


def test_a_copy_that_has_diverged_is_not_probed_in_vain() -> None:
    at = at_work(assignment=MOVED, lock=THEIRS, sessions=(), data=data(LOST), probe=ProbeResult())
    assert at.registration is not None
    failed = replace(at, registration=replace(at.registration, unit_status="critical"))
    assert [duty for duty in plan_of(failed).duties if isinstance(duty, do.ProbeNow)] == []
    mended = replace(failed, data=data(COPY))
    assert [type(duty) for duty in plan_of(mended).duties if isinstance(duty, do.ProbeNow)] == [do.ProbeNow]


def test_a_copy_that_has_diverged_fails_with_the_sentence_of_its_source() -> None:
    at = at_work(assignment=MOVED, lock=THEIRS, sessions=(), data=data(LOST))
    (push,) = pushed(plan_of(at))
    assert (
        push.reason
        == "the copy of frontend here cannot follow 10.0.0.22 any more and must be replaced: no GTID 0-1-9 there."
    )


def test_a_primary_is_not_failed_by_what_it_once_followed() -> None:
    assert pushed(plan_of(at_work(data=data(replace(LOST, writable=True))))) == []


def test_an_instance_whose_server_was_not_read_yet_is_not_registered() -> None:
    at = at_work(registration=None, lock=the_lock(session=None), sessions=(), data=data(None))
    assert [type(duty).__name__ for duty in plan_of(at).duties if isinstance(duty, do.Register)] == []
    answering = replace(at, data=data(COPY))
    assert [type(duty).__name__ for duty in plan_of(answering).duties if isinstance(duty, do.Register)] == ["Register"]


def test_what_the_server_does_is_in_the_words_of_the_unit_check() -> None:
    plan = plan_of(at_work())
    (push,) = [duty for duty in plan.duties if isinstance(duty, do.PushUnit)]
    assert push.output.endswith("PID 123; it takes writes, each acknowledged by the standby")


FULL = "the disk that holds /var/lib/mysql is full"


def test_a_primary_on_a_full_disk_fails_where_another_copy_is_whole() -> None:
    at = at_work(data=data(replace(PRIMARY, full=FULL)))
    first = plan_of(at)
    assert pushed(first) == [], "a query may need the room for a moment"
    (push,) = pushed(plan_of(at, first.memory, NOW + FULL_S))
    assert push.reason == f"mariadb runs and can write nothing more: {FULL}."
    assert FULL in push.output


@pytest.mark.parametrize("sync", [HERE_ALONE, None])
def test_a_primary_on_a_full_disk_that_nobody_could_replace_stays_and_says_so(sync: Sync | None) -> None:
    at = at_work(data=data(replace(ALONE, full=FULL), sync))
    now = plan_of(at, plan_of(at).memory, NOW + FULL_S)
    assert pushed(now) == []
    (push,) = [duty for duty in now.duties if isinstance(duty, do.PushUnit)]
    assert (push.status, FULL in push.output) == ("passing", True)


@pytest.mark.parametrize("facts", [COPY, no_answer(NOW, "no answer within 2 s")])
def test_a_copy_on_a_full_disk_fails_whether_its_server_answers_or_not(facts: ServerFacts) -> None:
    at = at_work(assignment=MOVED, lock=THEIRS, sessions=(), data=data(replace(facts, full=FULL)))
    (push,) = pushed(plan_of(at, plan_of(at).memory, NOW + FULL_S))
    assert push.reason == f"mariadb runs and can write nothing more: {FULL}."


def test_a_copy_that_is_refused_by_its_source_or_has_a_corrupt_relay_log_says_so() -> None:
    for errno, words in ((1045, "is refused there"), (1594, "cannot read what it has received")):
        facts = replace(COPY, replica=replace(COPY.replica, errno=errno, error="its sentence"))
        at = at_work(assignment=MOVED, lock=THEIRS, sessions=(), data=data(facts))
        (push,) = [duty for duty in plan_of(at).duties if isinstance(duty, do.PushUnit)]
        assert f"it is a copy of 10.0.0.22 and {words}" in push.output
