"""What only the owner of the fake cluster can do to it; the contract tests hold the rest."""

from __future__ import annotations

import pytest

from orchestrator.domain.keys import SERF_HEALTH
from orchestrator.store.port import AgentService, CasPut, PushedSpec, TxnOutcome, Unknown
from tests.fakes.fake_consul import CRITICAL, PASSING, Change, FakeConsul, FakePort

UNIT = PushedSpec("orch-backend:unit", "unit", 600.0, PASSING)


@pytest.fixture
def cluster() -> FakeConsul:
    """Two VMs with an instance on the first."""
    cluster = FakeConsul(["vm-1", "vm-2"], now=100.0)
    port = cluster.port("vm-1")
    port.agent_register(AgentService("orch-backend", "backend", 3000))
    port.agent_register_pushed("orch-backend", UNIT)
    return cluster


def locked(cluster: FakeConsul, *, lock_delay_s: float = 0.0) -> tuple[FakePort, str]:
    """Let vm-1 hold a lock bound to its instance's check."""
    port = cluster.port("vm-1")
    session = port.session_create("guard", (UNIT.check_id,), lock_delay_s=lock_delay_s)
    assert port.lock_acquire("orch/lock", b"", session)
    return port, session


def holder(cluster: FakeConsul) -> str | None:
    """Read which session holds the lock."""
    pair = cluster.peek("orch/lock")
    return pair.session if pair else None


def status(cluster: FakeConsul, node: str, check_id: str) -> str:
    """Read what the catalog says of a check."""
    checks = cluster.port("vm-2").checks()[1]
    return next(check.status for check in checks if (check.node, check.check_id) == (node, check_id))


def test_a_node_that_gossip_declares_failed_loses_its_sessions_only(cluster: FakeConsul) -> None:
    _, session = locked(cluster)
    other = cluster.port("vm-2").session_create("other", ())
    cluster.set_reachable("vm-1", False)
    assert (cluster.session_exists(session), cluster.session_exists(other), holder(cluster)) == (False, True, None)


def test_without_quorum_nothing_changes_and_nothing_is_known(cluster: FakeConsul) -> None:
    port, session = locked(cluster)
    cluster.quorum = False
    index = cluster.index
    cluster.set_reachable("vm-1", False)
    port.agent_push(UNIT.check_id, CRITICAL, "stopped")
    for ask in (port.checks, lambda: port.kv_get("orch/lock"), lambda: port.session_list("vm-1")):
        with pytest.raises(Unknown):
            ask()
    with pytest.raises(Unknown):
        port.txn((CasPut("orch/a", b"", 0),))
    assert (port.leader_known(), cluster.index, cluster.session_exists(session)) == (False, index, True)


def test_what_happened_without_quorum_is_handed_in_when_it_is_back(cluster: FakeConsul) -> None:
    port, session = locked(cluster)
    cluster.quorum = False
    port.agent_push(UNIT.check_id, CRITICAL, "stopped")
    cluster.set_reachable("vm-2", False)
    cluster.quorum = True
    assert not cluster.session_exists(session)
    assert (status(cluster, "vm-1", UNIT.check_id), status(cluster, "vm-2", SERF_HEALTH)) == (CRITICAL, CRITICAL)


def test_a_node_that_is_cut_off_knows_only_itself_until_it_is_mended(cluster: FakeConsul) -> None:
    port, session = locked(cluster)
    cluster.set_cut("vm-1", True)
    port.agent_push(UNIT.check_id, CRITICAL, "stopped")
    assert [check.status for check in port.agent_checks()] == [CRITICAL]
    with pytest.raises(Unknown):
        port.checks()
    assert (status(cluster, "vm-1", UNIT.check_id), cluster.session_exists(session)) == (PASSING, True)
    cluster.set_cut("vm-1", False)
    assert (status(cluster, "vm-1", UNIT.check_id), cluster.session_exists(session)) == (CRITICAL, False)


def test_a_stopped_agent_answers_nothing(cluster: FakeConsul) -> None:
    port = cluster.port("vm-1")
    cluster.set_stopped("vm-1", True)
    for ask in (port.agent_checks, port.agent_services, port.leader_known, port.node_name, port.checks):
        with pytest.raises(Unknown):
            ask()
    assert cluster.port("vm-2").leader_known()


def test_a_lock_delay_ends_with_time(cluster: FakeConsul) -> None:
    port, session = locked(cluster, lock_delay_s=15.0)
    port.session_destroy(session)
    other = port.session_create("other", ())
    cluster.now = 114.9
    assert not port.lock_acquire("orch/lock", b"", other)
    cluster.now = 115.0
    assert port.lock_acquire("orch/lock", b"", other)


def test_a_write_may_have_happened_although_its_caller_cannot_know(cluster: FakeConsul) -> None:
    port = cluster.port("vm-1")

    def fail(node: str, operation: str, stage: str) -> None:
        if stage == "after":
            raise Unknown(f"{operation} on {node}")

    cluster.on_write = fail
    with pytest.raises(Unknown, match="txn on vm-1"):
        port.txn((CasPut("orch/a", b"1", 0),))
    assert cluster.peek("orch/a") is not None


def test_a_write_that_fails_before_it_was_sent_did_not_happen(cluster: FakeConsul) -> None:
    def fail(node: str, operation: str, stage: str) -> None:
        raise Unknown("connection refused")

    cluster.on_write = fail
    with pytest.raises(Unknown):
        cluster.port("vm-1").txn((CasPut("orch/a", b"1", 0),))
    assert cluster.peek("orch/a") is None


def test_listeners_hear_of_each_change_and_of_nothing_else(cluster: FakeConsul) -> None:
    heard: list[Change] = []
    port, session = locked(cluster)
    cluster.listeners.append(heard.append)
    port.txn((CasPut("orch/a", b"1", 0), CasPut("orch/b", b"1", 0)))
    assert port.txn((CasPut("orch/c", b"1", 0), CasPut("orch/a", b"1", 0))) is TxnOutcome.LOST
    port.lock_acquire("orch/lock", b"", session)
    port.agent_push(UNIT.check_id, CRITICAL, "")
    assert heard == [("kv", "orch/a"), ("kv", "orch/b"), ("check", "vm-1"), ("session", "vm-1"), ("kv", "orch/lock")]


def test_a_lost_transaction_leaves_locks_and_indexes_as_they_were(cluster: FakeConsul) -> None:
    port, session = locked(cluster)
    before, index = cluster.peek_list("orch/"), cluster.index
    assert port.txn((CasPut("orch/lock", b"2", before[0].modify_index), CasPut("orch/x", b"", 9))) is TxnOutcome.LOST
    assert (cluster.peek_list("orch/"), cluster.index) == (before, index)
    port.session_destroy(session)
    assert holder(cluster) is None


def test_a_node_removed_takes_its_checks_and_sessions_along_and_may_come_back(cluster: FakeConsul) -> None:
    _, session = locked(cluster)
    cluster.remove_node("vm-1")
    assert not cluster.session_exists(session)
    assert {check.node for check in cluster.port("vm-2").checks()[1]} == {"vm-2"}
    cluster.set_reachable("vm-1", True)
    assert status(cluster, "vm-1", UNIT.check_id) == PASSING


def test_the_same_steps_give_the_same_cluster() -> None:
    def run() -> tuple[object, ...]:
        cluster = FakeConsul(["vm-1"])
        port = cluster.port("vm-1")
        session = port.session_create("a", ())
        port.lock_acquire("orch/lock", b"", session)
        return session, cluster.index, cluster.peek_list("")

    assert run() == run()
