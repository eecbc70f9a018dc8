"""Who leads, and what becomes of the sessions of a daemon that comes back."""

from __future__ import annotations

import pytest

from orchestrator.domain import keys
from orchestrator.domain.records import LockValue
from orchestrator.store.election import ALIVE_CHECK, Election, leader_of
from orchestrator.store.port import Refused, Session, Unknown
from orchestrator.store.sessions import (
    controller_session,
    found_session,
    guard_session,
    kept_session,
    own_session,
    own_sessions,
)
from tests.fakes.fake_consul import CRITICAL, PASSING, FakeConsul, FakePort

VMS = ("vm-1", "vm-2")
SERVICE_ID = "orch-controller"


@pytest.fixture
def cluster() -> FakeConsul:
    """Two VMs with a live controller each."""
    cluster = FakeConsul(VMS)
    for vm in VMS:
        cluster.set_check(vm, ALIVE_CHECK, PASSING, service_id=SERVICE_ID)
        cluster.set_check(vm, "orch-backend:unit", PASSING, service_id="orch-backend")
    return cluster


def leader(cluster: FakeConsul) -> str | None:
    """Read who leads."""
    return leader_of(cluster.peek(keys.LEADER))


class HidingPort(FakePort):
    """Reads of the sessions leave out those that are hidden."""

    def __init__(self, cluster: FakeConsul, node: str, hidden: set[str]) -> None:
        super().__init__(cluster, node)
        self._hidden = hidden

    def session_list(self, node: str, *, index: int = 0, wait_s: float = 0.0) -> tuple[int, tuple[Session, ...]]:
        at, found = super().session_list(node, index=index, wait_s=wait_s)
        return at, tuple(each for each in found if each.id not in self._hidden)


def elections(cluster: FakeConsul) -> tuple[Election, Election]:
    """Return the part of each VM's controller."""
    first, second = (Election(cluster.port(vm), vm) for vm in VMS)
    return first, second


def test_of_two_controllers_one_leads(cluster: FakeConsul) -> None:
    first, second = elections(cluster)
    assert (first.campaign(), second.campaign()) == (True, False)
    assert (first.session is not None, second.session) == (True, None)
    assert leader(cluster) == "vm-1"


def test_campaigning_again_keeps_the_lead_and_changes_nothing(cluster: FakeConsul) -> None:
    first, _ = elections(cluster)
    first.campaign()
    index, session = cluster.index, first.session
    assert first.campaign()
    assert (cluster.index, first.session) == (index, session)


def test_a_leader_whose_alive_check_turns_critical_is_replaced(cluster: FakeConsul) -> None:
    first, second = elections(cluster)
    first.campaign()
    cluster.set_check("vm-1", ALIVE_CHECK, CRITICAL)
    assert not first.notice(cluster.peek(keys.LEADER))
    assert first.session is None
    assert second.campaign()
    assert leader(cluster) == "vm-2"
    assert not first.campaign()
    with pytest.raises(Refused, match="critical"):
        first.campaign()
    cluster.set_check("vm-1", ALIVE_CHECK, PASSING)
    assert not first.campaign()


def test_a_leader_notices_that_another_holds_the_lock(cluster: FakeConsul) -> None:
    first, second = elections(cluster)
    first.campaign()
    assert first.notice(cluster.peek(keys.LEADER))
    cluster.set_reachable("vm-1", False)
    assert second.campaign()
    assert not first.notice(cluster.peek(keys.LEADER))
    assert not second.notice(None)


def test_a_controller_that_was_never_elected_does_not_lead_by_noticing(cluster: FakeConsul) -> None:
    first, second = elections(cluster)
    first.campaign()
    assert not second.notice(cluster.peek(keys.LEADER))


def test_resigning_frees_the_lead_at_once(cluster: FakeConsul) -> None:
    first, second = elections(cluster)
    first.campaign()
    first.resign()
    assert leader(cluster) is None
    assert second.campaign()


def test_a_controller_restarted_in_a_moment_leads_again_and_its_old_session_is_gone(cluster: FakeConsul) -> None:
    before, _ = elections(cluster)
    before.campaign()
    after, _ = elections(cluster)
    assert after.campaign()
    assert [session.id for session in own_sessions(cluster.port("vm-1"), controller_session("vm-1"))] == [after.session]
    assert not before.notice(cluster.peek(keys.LEADER))


def test_an_old_session_that_shows_up_late_with_the_lock_is_ended_by_its_own_vm_and_by_no_other(
    cluster: FakeConsul,
) -> None:
    """All servers lost power the moment after it was made: none of them knew it when the daemons began."""
    old = cluster.port("vm-1").session_create(controller_session("vm-1"), (ALIVE_CHECK,))
    hidden = {old}
    again, other = (Election(HidingPort(cluster, vm, hidden), vm) for vm in VMS)
    for election in (again, other):
        assert election.campaign()
        assert cluster.port("vm-1").lock_release(keys.LEADER, b"", str(election.session))
    assert cluster.port("vm-1").lock_acquire(keys.LEADER, LockValue(vm="vm-1").to_json().encode(), old)
    hidden.clear()
    pair = cluster.peek(keys.LEADER)
    assert (again.notice(pair), other.notice(pair)) == (False, False)
    assert (again.is_hopeless(pair), other.is_hopeless(pair)) == (False, True)
    assert (again.campaign(), cluster.session_exists(old)) == (False, False)
    assert again.campaign()
    assert leader(cluster) == "vm-1"


def test_without_quorum_a_campaign_ends_in_unknown(cluster: FakeConsul) -> None:
    first, _ = elections(cluster)
    cluster.quorum = False
    with pytest.raises(Unknown):
        first.campaign()


@pytest.mark.parametrize("value", [b"", b"vm-1", b'{"vm": 3}'])
def test_a_leader_key_that_cannot_be_read_names_no_leader(cluster: FakeConsul, value: bytes) -> None:
    port = cluster.port("vm-1")
    port.lock_acquire(keys.LEADER, value, port.session_create("x", ()))
    assert leader(cluster) is None


def test_a_session_made_anew_ends_the_old_ones_of_its_name_and_vm_only(cluster: FakeConsul) -> None:
    port, other = cluster.port("vm-1"), cluster.port("vm-2")
    name = controller_session("vm-1")
    old = [port.session_create(name, ()) for _ in range(2)]
    bystanders = [port.session_create("orch-worker@vm-1", ()), other.session_create(name, ())]
    new = own_session(port, name, (ALIVE_CHECK,))
    alive = {session: cluster.session_exists(session) for session in (*old, *bystanders, new)}
    assert alive == {**dict.fromkeys(old, False), **dict.fromkeys((*bystanders, new), True)}


def guard_port(cluster: FakeConsul) -> tuple[FakePort, str, tuple[str, ...]]:
    """Return what a guard on vm-1 uses."""
    return cluster.port("vm-1"), guard_session("backend", "vm-1"), ("orch-backend:unit",)


def test_a_guard_finds_its_session_again_with_its_lock(cluster: FakeConsul) -> None:
    port, name, checks = guard_port(cluster)
    first = kept_session(port, name, checks)
    port.lock_acquire("orch/lock", b"", first)
    index = cluster.index
    assert kept_session(cluster.port("vm-1"), name, checks) == first
    assert cluster.index == index


def test_a_session_bound_to_other_checks_is_not_the_guards_and_is_replaced(cluster: FakeConsul) -> None:
    port, name, checks = guard_port(cluster)
    unbound = port.session_create(name, ())
    assert found_session(port, name, checks) is None
    new = kept_session(port, name, checks)
    assert (cluster.session_exists(unbound), cluster.session_exists(new)) == (False, True)


def test_of_several_sessions_that_fit_one_is_kept(cluster: FakeConsul) -> None:
    port, name, checks = guard_port(cluster)
    first = port.session_create(name, checks)
    port.session_create(name, checks)
    assert kept_session(port, name, checks) == first
    assert [session.id for session in own_sessions(port, name)] == [first]
