"""What a guard has to do, by table and by property. No fakes: the function is pure."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.domain.view import LockView
from orchestrator.node import duties as do
from orchestrator.node.case import EMPTY_MEMORY
from orchestrator.node.duty import FAREWELL_S, FENCE_GRACE_S, RESTART_LIMIT_S, Plan, duties
from orchestrator.node.situation import (
    CRITICAL,
    PASSING,
    AddressState,
    LocalView,
    ProbeResult,
    ProbeState,
    Registration,
    Situation,
    UnitState,
    UnitStatus,
)
from tests.unit.node.build import (
    ABSENT,
    ACTIVE,
    ANSWERS,
    FAILED,
    HERE,
    NOW,
    OTHER,
    RESTARTING,
    SESSION,
    SILENT,
    STOPPED,
    STOPPING,
    UNKNOWN,
    assignment,
    lock,
    policy,
    registered,
    situation,
    view,
)


def plan_of(at: Situation, **changes: object) -> Plan:
    return duties(view(at, **changes), EMPTY_MEMORY, NOW)


def names(at: Situation, **changes: object) -> list[str]:
    return [type(duty).__name__ for duty in plan_of(at, **changes).duties]


FREE = lock(session=None)
THEIRS = lock(vm=OTHER, session="another")
GONE = {"lock": FREE, "sessions": (), "address": AddressState.NONE}
MOVED = assignment(active=OTHER, epoch=8, designated=OTHER, standbys=(HERE,))
LEFT = assignment(active=OTHER, epoch=8, designated=OTHER)
UNASKED = replace(registered(situation(), probe=CRITICAL), probe_unasked=True)

TABLE = [
    ("nothing to do when everything is in place", situation(), []),
    (
        "a failed unit is pushed critical first, then the address goes",
        situation(unit=FAILED, registration=registered(situation())),
        ["PushUnit", "DropAddress"],
    ),
    (
        "a stop that was asked for is a failure where the unit ought to run",
        situation(unit=STOPPING, registration=registered(situation())),
        ["PushUnit", "DropAddress"],
    ),
    ("while systemd restarts it nothing happens", situation(unit=RESTARTING, registration=registered(situation())), []),
    (
        "while systemd cannot be asked nothing happens",
        situation(unit=UNKNOWN, registration=registered(situation())),
        [],
    ),
    (
        "another PID is told, without a change of status",
        situation(unit=replace(ACTIVE, pid=9), registration=registered(situation())),
        ["PushUnit"],
    ),
    ("an address without the lock is dropped", situation(lock=THEIRS), ["DropAddress"]),
    (
        "an address whose lock is free stays, and the lock is taken again: nobody else may",
        situation(lock=FREE),
        ["AcquireLock"],
    ),
    (
        "an address whose lock is free stays while no session can be had",
        situation(lock=FREE, sessions=()),
        ["CreateSession"],
    ),
    (
        "an address whose lock is free is dropped where the service is assigned to another VM",
        situation(lock=FREE, assignment=LEFT, registration=registered(situation(assignment=LEFT), "candidate")),
        ["DropAddress", "DestroySession"],
    ),
    (
        "an address whose lock is free is dropped where the instance is not healthy",
        situation(lock=FREE, sessions=(), registration=registered(situation(), "candidate", probe=CRITICAL)),
        ["PushUnit", "DropAddress"],
    ),
    (
        "an address whose lock is free stays while an agent that has started has not asked the instance yet",
        situation(lock=FREE, sessions=(), registration=UNASKED),
        [],
    ),
    (
        "it is dropped where the lock is another's meanwhile",
        situation(lock=THEIRS, sessions=(), registration=UNASKED),
        ["DropAddress"],
    ),
    (
        "it is dropped where the unit has failed meanwhile",
        situation(lock=FREE, sessions=(), unit=FAILED, registration=UNASKED),
        ["PushUnit", "DropAddress"],
    ),
    ("without an address the lock brings it up", situation(address=AddressState.NONE), ["TakeAddress"]),
    (
        "an address that was handed over comes back with the lock",
        situation(address=AddressState.HANDED_OVER),
        ["TakeAddress"],
    ),
    ("an address that cannot be read is not taken", situation(address=AddressState.UNKNOWN), []),
    (
        "in a planned move the address goes first",
        situation(assignment=MOVED, registration=registered(situation(assignment=MOVED), "candidate")),
        ["HandOverAddress"],
    ),
    (
        "then the lock",
        situation(
            assignment=MOVED,
            address=AddressState.HANDED_OVER,
            registration=registered(situation(assignment=MOVED), "candidate"),
        ),
        ["ReleaseLock"],
    ),
    ("a healthy instance without session gets one", situation(**GONE), ["CreateSession"]),
    ("with a session it takes the free lock", situation(lock=FREE, address=AddressState.NONE), ["AcquireLock"]),
    ("no lock was ever taken", situation(lock=None, address=AddressState.NONE), ["AcquireLock"]),
    ("a lock of another's is awaited", situation(lock=THEIRS, address=AddressState.NONE), []),
    ("a lock of an old epoch is renewed, the address stays", situation(lock=lock(epoch=6)), ["AcquireLock"]),
    (
        "an unreadable assignment is never locked for",
        situation(lock=FREE, address=AddressState.NONE, assignment_index=0),
        [],
    ),
    ("a second session is ended", situation(sessions=("second", SESSION)), ["DestroySession"]),
    (
        "no session on a critical probe, which is told by the unit's check too",
        situation(registration=registered(situation(), "candidate", probe=CRITICAL), **GONE),
        ["PushUnit"],
    ),
    (
        "the unit's check stays critical while the probe is",
        situation(registration=registered(situation(), "candidate", CRITICAL, CRITICAL), probe=ANSWERS, **GONE),
        [],
    ),
    ("no session before the agent has asked", situation(registration=UNASKED, **GONE), []),
    ("what runs and answers is registered", situation(registration=None, probe=ANSWERS, **GONE), ["Register"]),
    ("what runs is asked before it is registered", situation(registration=None, **GONE), ["ProbeNow"]),
    ("what is stopped is not asked", situation(registration=None, unit=STOPPED, **GONE), []),
    (
        "a registration without checks is completed",
        situation(registration=Registration((), (), "", 0), probe=ANSWERS),
        ["Register"],
    ),
    (
        "what came back after a failure is asked first",
        situation(registration=registered(situation(), "candidate", unit=CRITICAL), **GONE),
        ["ProbeNow"],
    ),
    (
        "and pushed passing when it answers",
        situation(registration=registered(situation(), "candidate", unit=CRITICAL), probe=ANSWERS, **GONE),
        ["PushUnit"],
    ),
    (
        "and not while it does not",
        situation(registration=registered(situation(), "candidate", unit=CRITICAL), probe=SILENT, **GONE),
        [],
    ),
    (
        "what the catalog lost is registered anew",
        situation(unsynced=True, **GONE),
        ["CreateSession", "Deregister"],
    ),
    (
        "a candidate that was stopped on purpose leaves the catalog",
        situation(assignment=assignment(active=OTHER), unit=STOPPED, **GONE),
        ["Deregister"],
    ),
    (
        "a candidate that failed stays, in red",
        situation(
            assignment=assignment(active=OTHER),
            unit=FAILED,
            registration=registered(
                situation(assignment=assignment(active=OTHER), unit=FAILED), "candidate", unit=CRITICAL
            ),
            **GONE,
        ),
        [],
    ),
    (
        "a hot standby that is down is a failure",
        situation(
            policy=policy("hot"),
            assignment=assignment(active=OTHER, standbys=(HERE,)),
            unit=STOPPED,
            registration=registered(
                situation(policy=policy("hot"), assignment=assignment(active=OTHER, standbys=(HERE,))), "standby"
            ),
            **GONE,
        ),
        ["PushUnit"],
    ),
    (
        "a prepared target is registered as a candidate",
        situation(
            assignment=assignment(active=OTHER, designated=OTHER, standbys=(HERE,)),
            registration=None,
            probe=ANSWERS,
            **GONE,
        ),
        ["Register"],
    ),
    (
        "what may not run here leaves the catalog, its session ends",
        situation(assignment=LEFT, lock=THEIRS, address=AddressState.NONE),
        ["DestroySession", "Deregister"],
    ),
    (
        "what may not run here but holds everything gives it up in order",
        situation(assignment=LEFT),
        ["HandOverAddress"],
    ),
    (
        "with no assignment the home VM is a candidate",
        situation(assignment=None, assignment_index=0, registration=None, probe=ANSWERS, **GONE),
        ["Register"],
    ),
    (
        "with no assignment nothing is locked, dropped or released",
        situation(assignment=None, assignment_index=0, registration=registered(situation(assignment=None))),
        [],
    ),
]


@pytest.mark.parametrize(("at", "expected"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_duties(at: Situation, expected: list[str]) -> None:
    found = [name for name in names(at) if name != "Retag"]
    assert expected == found


def test_every_reason_is_a_sentence() -> None:
    for _, at, _ in TABLE:
        for duty in plan_of(at).duties:
            assert duty.reason.endswith("."), duty
            assert len(duty.reason.split()) >= 3, duty


def test_while_kv_cannot_be_read_only_failures_are_told() -> None:
    for _, at, _ in TABLE:
        assert set(names(at, kv_fresh=False)) <= {"PushUnit", "DropAddress"}
        if at.unit.state in (UnitState.ACTIVE, UnitState.RESTARTING, UnitState.UNKNOWN):
            assert "DropAddress" not in names(at, kv_fresh=False)


def test_a_restart_that_takes_too_long_is_pushed_critical() -> None:
    at = situation(unit=RESTARTING, registration=registered(situation()))
    first = duties(view(at), EMPTY_MEMORY, NOW)
    assert (first.duties, first.wake_at) == ((), NOW + RESTART_LIMIT_S)
    (push,) = duties(view(at), first.memory, NOW + RESTART_LIMIT_S).duties
    assert isinstance(push, do.PushUnit)
    assert push.status == CRITICAL


def test_a_unit_that_may_not_run_here_is_stopped_after_the_grace() -> None:
    at = situation(assignment=LEFT, lock=THEIRS, sessions=(), registration=None, address=AddressState.NONE)
    first = duties(view(at), EMPTY_MEMORY, NOW)
    assert (first.duties, first.wake_at) == ((), NOW + FENCE_GRACE_S)
    (stop,) = duties(view(at), first.memory, NOW + FENCE_GRACE_S).duties
    assert stop == do.StopUnit("frontend", "nginx runs here, but frontend is active on backend-server at epoch 8.", 3)


def test_the_grace_begins_anew_when_kv_could_not_be_read_in_between() -> None:
    at = situation(assignment=LEFT, lock=THEIRS, sessions=(), registration=None, address=AddressState.NONE)
    first = duties(view(at), EMPTY_MEMORY, NOW)
    blind = duties(view(at, kv_fresh=False), first.memory, NOW + 4)
    assert duties(view(at), blind.memory, NOW + FENCE_GRACE_S).duties == ()


def test_a_handed_over_address_is_given_up_after_the_drain() -> None:
    at = situation(assignment=MOVED, lock=THEIRS, address=AddressState.HANDED_OVER)
    at = replace(at, registration=registered(at, "candidate"))
    first = duties(view(at), EMPTY_MEMORY, NOW)
    assert (first.duties, first.wake_at) == ((), NOW + 1.0)
    closing = duties(view(at), first.memory, NOW + 1.0)
    (close,) = closing.duties
    assert isinstance(close, do.CloseConnections)
    assert closing.wake_at == NOW + 1.0 + FAREWELL_S
    (drop,) = duties(view(at), first.memory, NOW + 1.0 + FAREWELL_S).duties
    assert isinstance(drop, do.DropAddress)


@pytest.mark.parametrize(
    ("unit", "expected"),
    [(STOPPING, []), (UNKNOWN, []), (STOPPED, ["DropAddress"]), (FAILED, ["DropAddress"])],
)
def test_a_unit_that_is_just_ending_its_connections_keeps_the_handed_over_address(
    unit: UnitStatus, expected: list[str]
) -> None:
    at = situation(assignment=MOVED, lock=THEIRS, address=AddressState.HANDED_OVER)
    first = duties(view(replace(at, registration=registered(at, "candidate"))), EMPTY_MEMORY, NOW)
    at = replace(at, unit=unit)
    at = replace(at, registration=registered(at, "candidate"))
    found = duties(view(at), first.memory, NOW + 1.0).duties
    assert [type(duty).__name__ for duty in found if type(duty) in (do.DropAddress, do.CloseConnections)] == expected


GIVEN = assignment(epoch=8)
RELEASED = lock(vm=OTHER, epoch=8, session=None)
"""What a guard leaves that hands the role over; of a lock that was lost only the older epoch is left."""


def address_taken(released: LockView, *, after_s: float = 0.1, guard: str = "goes on") -> do.TakeAddress:
    """Return the duty by which this VM takes the address `after_s` after it saw the lock free."""
    addresses = {HERE: "10.0.8.49", OTHER: "10.0.0.22"}
    free = situation(assignment=GIVEN, lock=released, address=AddressState.NONE)
    mine = situation(assignment=GIVEN, lock=lock(epoch=8), address=AddressState.NONE)
    seen = duties(view(free, vm_addresses=addresses), EMPTY_MEMORY, NOW).memory
    memory = EMPTY_MEMORY if guard == "restarts" else seen
    (take,) = duties(view(mine, vm_addresses=addresses), memory, NOW + after_s).duties
    assert isinstance(take, do.TakeAddress)
    return take


def test_after_a_planned_move_what_was_opened_at_the_previous_holder_is_forwarded_there() -> None:
    taken = address_taken(RELEASED, after_s=0.25)
    assert taken.forwarding == do.Forwarding("10.0.0.22", 1.0 + FAREWELL_S - 0.25)


@pytest.mark.parametrize(
    ("why", "released", "after_s", "guard"),
    [
        ("a failover leaves a lock of the epoch before", lock(vm=OTHER, session=None), 0.1, "goes on"),
        ("no lock was ever taken", LockView(None, None, 5), 0.1, "goes on"),
        ("this VM had it itself", lock(epoch=8, session=None), 0.1, "goes on"),
        ("a VM that left the policy", lock(vm="gone-server", epoch=8, session=None), 0.1, "goes on"),
        ("nothing is open there any more", RELEASED, 1.0 + FAREWELL_S, "goes on"),
        ("a guard that restarted does not know since when", RELEASED, 0.1, "restarts"),
    ],
)
def test_nothing_is_forwarded_when(why: str, released: LockView, after_s: float, guard: str) -> None:
    assert address_taken(released, after_s=after_s, guard=guard).forwarding is None, why


def test_what_should_be_active_and_never_answers_is_registered_as_failed() -> None:
    at = situation(registration=None, unit=STOPPED, **GONE)
    first = duties(view(at), EMPTY_MEMORY, NOW)
    assert (first.duties, first.wake_at) == ((), NOW + 30.0)
    (register,) = duties(view(at), first.memory, NOW + 30.0).duties
    assert isinstance(register, do.Register)
    assert (register.unit_status, register.probe_status) == (CRITICAL, CRITICAL)


def test_a_unit_that_fails_while_it_is_awaited_is_registered_as_failed_at_once() -> None:
    waiting = duties(view(situation(registration=None, unit=STOPPED, **GONE)), EMPTY_MEMORY, NOW)
    (register,) = duties(view(situation(registration=None, unit=FAILED, **GONE)), waiting.memory, NOW + 1).duties
    assert isinstance(register, do.Register)
    assert register.unit_status == CRITICAL


def test_a_failure_from_before_the_assignment_is_no_failure_of_its_activation() -> None:
    at = situation(registration=None, unit=FAILED, **GONE)
    waiting = duties(view(at), EMPTY_MEMORY, NOW)
    assert duties(view(at), waiting.memory, NOW + 1).duties == ()


def test_the_answer_is_asked_for_every_50_ms_at_first_and_every_second_later() -> None:
    at = situation(registration=None, probe=SILENT, **GONE)
    first = duties(view(at), EMPTY_MEMORY, NOW)
    assert (first.duties, first.wake_at) == ((), NOW + 0.05)
    late = duties(view(replace(at, probe=replace(SILENT, at=NOW + 20))), first.memory, NOW + 20)
    assert (late.duties, late.wake_at) == ((), NOW + 21)


def test_a_service_that_left_the_policy_is_deregistered() -> None:
    (duty,) = duties(view(strays=("old",)), EMPTY_MEMORY, NOW).duties
    assert duty == do.Deregister("old", "old is not in the policy any more.")


def test_an_instance_that_a_former_token_registered_is_registered_anew_as_it_is() -> None:
    at = situation()
    assert at.registration is not None
    (again,) = plan_of(replace(at, registration=replace(at.registration, by_own_token=False))).duties
    reason = "The guard's token is another: frontend is registered by it anew."
    assert again == do.Register("frontend", reason, "active", PASSING, PASSING)


def test_the_tag_waits_until_the_lock_is_taken() -> None:
    at = situation(lock=FREE, address=AddressState.NONE, registration=registered(situation(), "candidate"))
    assert names(at) == ["AcquireLock"]
    at = situation(registration=registered(situation(), "candidate"))
    (retag,) = plan_of(at).duties
    assert isinstance(retag, do.Retag)
    assert retag.tag == "active"


def test_the_agent_is_read_often_while_a_check_is_awaited_to_recover() -> None:
    assert plan_of(situation(registration=registered(situation(), probe=CRITICAL), **GONE)).watch_agent
    assert not plan_of(situation()).watch_agent


units = st.sampled_from([ACTIVE, FAILED, STOPPED, STOPPING, RESTARTING, ABSENT, UNKNOWN])
assignments = st.one_of(
    st.none(),
    st.builds(
        assignment,
        active=st.sampled_from([HERE, OTHER]),
        designated=st.sampled_from([HERE, OTHER]),
        epoch=st.integers(6, 8),
        standbys=st.sampled_from([(), (HERE,), (OTHER,), (HERE, OTHER)]),
    ),
)
locks = st.one_of(
    st.none(),
    st.builds(
        lock,
        vm=st.sampled_from([HERE, OTHER]),
        epoch=st.integers(6, 8),
        session=st.sampled_from([SESSION, "another", None]),
    ),
    st.just(LockView(None, SESSION, 5)),
)
statuses = st.sampled_from([PASSING, CRITICAL, "warning"])
registrations = st.one_of(
    st.none(),
    st.just(Registration((), (), "", 0)),
    st.builds(
        lambda tag, unit, probe: registered(situation(), tag, unit, probe),
        st.sampled_from(["active", "candidate"]),
        statuses,
        statuses,
    ),
)
situations = st.builds(
    situation,
    policy=st.builds(policy, st.sampled_from(["hot", "cold"]), st.booleans()),
    assignment=assignments,
    assignment_index=st.sampled_from([0, 3]),
    lock=locks,
    sessions=st.sampled_from([(), (SESSION,), ("second", SESSION)]),
    unit=units,
    probe=st.builds(ProbeResult, st.sampled_from(ProbeState), st.just(""), st.floats(NOW - 2, NOW)),
    registration=registrations,
    address=st.sampled_from(AddressState),
)
views = st.builds(
    lambda at, kv_fresh, agent_known: view(at, kv_fresh=kv_fresh, agent_known=agent_known),
    situations,
    st.booleans(),
    st.booleans(),
)


def _holds_lock_of_the_epoch(at: Situation) -> bool:
    return (
        at.assignment is not None
        and at.assignment.active == HERE
        and at.lock is not None
        and at.lock.session in at.sessions
        and at.lock.value is not None
        and (at.lock.value.vm, at.lock.value.epoch) == (HERE, at.assignment.epoch)
    )


@given(views)
def test_an_address_is_taken_only_with_the_lock_of_the_assignments_epoch(local: LocalView) -> None:
    for duty in duties(local, EMPTY_MEMORY, NOW).duties:
        if isinstance(duty, do.TakeAddress):
            assert local.kv_fresh
            assert _holds_lock_of_the_epoch(local.situations[0])


@given(views)
def test_an_address_never_stays_where_another_vm_may_take_it(local: LocalView) -> None:
    (at,) = local.situations
    if not local.kv_fresh or at.address is not AddressState.UP or at.policy.front_door is None:
        return
    kinds = {type(duty) for duty in duties(local, EMPTY_MEMORY, NOW).duties}
    another_has_it = at.lock is not None and at.lock.session is not None and at.lock.session not in at.sessions
    elsewhere = at.assignment is not None and at.assignment.active != HERE
    if another_has_it or elsewhere:
        assert kinds & {do.DropAddress, do.HandOverAddress}


@given(views)
def test_a_lock_is_taken_only_for_a_healthy_active_instance_on_a_readable_assignment(local: LocalView) -> None:
    (at,) = local.situations
    for duty in duties(local, EMPTY_MEMORY, NOW).duties:
        if isinstance(duty, do.AcquireLock):
            assert at.assignment is not None
            assert (at.assignment.active, at.assignment.epoch) == (HERE, duty.epoch)
            assert at.assignment_index == duty.assignment_index != 0
            assert at.registration is not None
            assert at.registration.is_healthy
            assert at.unit.state is UnitState.ACTIVE


@given(views)
def test_a_lock_is_never_released_while_the_address_is_up(local: LocalView) -> None:
    (at,) = local.situations
    if any(isinstance(duty, do.ReleaseLock) for duty in duties(local, EMPTY_MEMORY, NOW).duties):
        assert at.address is not AddressState.UP


@given(views)
def test_nothing_is_given_up_on_a_view_that_cannot_be_read(local: LocalView) -> None:
    if not local.kv_fresh:
        for duty in duties(local, EMPTY_MEMORY, NOW).duties:
            given_up = isinstance(duty, do.DropAddress)
            assert isinstance(duty, do.PushUnit) or given_up
            handed_over = local.situations[0].address is AddressState.HANDED_OVER
            assert (
                not given_up
                or handed_over
                or local.situations[0].unit.state not in (UnitState.ACTIVE, RESTARTING.state)
            )


@given(views)
def test_a_unit_is_never_stopped_at_first_sight_nor_with_lock_or_address(local: LocalView) -> None:
    first = duties(local, EMPTY_MEMORY, NOW)
    assert not any(isinstance(duty, do.StopUnit) for duty in first.duties)
    (at,) = local.situations
    for duty in duties(local, first.memory, NOW + 100).duties:
        if isinstance(duty, do.StopUnit):
            assert local.kv_fresh
            assert at.assignment is not None
            assert not at.assignment.may_run_on(HERE)
            assert at.address is not AddressState.UP


@given(views)
def test_what_leaves_the_catalog_is_not_pushed_passing_afterwards(local: LocalView) -> None:
    found = duties(local, EMPTY_MEMORY, NOW).duties
    kinds = [type(duty) for duty in found]
    if do.Deregister in kinds:
        assert do.PushUnit not in kinds[kinds.index(do.Deregister) :]


@given(views)
def test_duties_do_not_undo_each_other(local: LocalView) -> None:
    """For each view at most one of each opposite pair."""
    kinds = {type(duty) for duty in duties(local, EMPTY_MEMORY, NOW).duties}
    for pair in (
        {do.TakeAddress, do.DropAddress},
        {do.TakeAddress, do.HandOverAddress},
        {do.AcquireLock, do.ReleaseLock},
        {do.Register, do.Deregister},
        {do.Retag, do.Deregister},
        {do.Retag, do.Register},
    ):
        assert not pair <= kinds
