"""What every `Port` promises, held by the fake and by the real agent alike.

`make test` runs it a second time against the maintained fork (`PYTHONPATH=.venv/py-consul pytest tests/contract`).
"""

from __future__ import annotations

import json
import os
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import consul
import pytest

from orchestrator.domain.keys import SERF_HEALTH
from orchestrator.store.consul_port import ConsulPort
from orchestrator.store.port import (
    AgentService,
    CasDelete,
    CasPut,
    CheckIndex,
    CheckSession,
    KvPair,
    LockPut,
    Port,
    ProbeSpec,
    PushedSpec,
    Refused,
    TxnOutcome,
    UnlockPut,
)
from tests.fakes.fake_consul import FakeConsul
from tests.integration.consul_agent import NODE, ConsulAgent

SERVICE = AgentService(
    "orch-backend", "backend", 3000, "127.0.0.1", ("active", "orch"), (("epoch", "4"), ("role", "active"))
)
UNIT = PushedSpec("orch-backend:unit", "unit node-app", 86400.0, "passing", "node-app is running")
# Port 1 refuses every connection: a probe that fails as soon as the agent runs it.
PROBE = ProbeSpec("orch-backend:probe", "answers", "http", "http://127.0.0.1:1/health", 60.0, 0.5, 3, "passing")


@dataclass(frozen=True)
class Ground:
    """A port to test, and a second one to the same node for what another process does."""

    port: Port
    other: Port
    lose: Callable[[str], None]
    """Takes a check of the node out of the catalog, of which its agent hears nothing."""


@pytest.fixture(params=["fake", "consul"])
def ground(request: pytest.FixtureRequest) -> Iterator[Ground]:
    """An empty cluster of one node, fake or real."""
    if request.param == "fake":
        cluster = FakeConsul([NODE])
        yield Ground(cluster.port(NODE), cluster.port(NODE), partial(cluster.lose_check, NODE))
        return
    agent: ConsulAgent = request.getfixturevalue("consul_agent")
    ports = [ConsulPort(port=agent.http_port) for _ in range(2)]
    yield Ground(ports[0], ports[1], partial(lose_check, agent.http_port))
    leave_as_found(ports[0])
    for port in ports:
        port.close()


@pytest.fixture
def port(ground: Ground) -> Port:
    """The port under test."""
    return ground.port


def lose_check(http_port: int, check_id: str) -> None:
    """Take a check out of the catalog behind its agent's back, as happens to a VM that counted as dead."""
    body = json.dumps({"Node": NODE, "CheckID": check_id}).encode()
    url = f"http://127.0.0.1:{http_port}/v1/catalog/deregister"
    with urllib.request.urlopen(urllib.request.Request(url, body, method="PUT"), timeout=5):
        pass


def leave_as_found(port: Port) -> None:
    """Remove what a test left, so that the next one finds an empty cluster."""
    for session in port.session_list(NODE)[1]:
        port.session_destroy(session.id)
    for key in port.kv_keys(""):
        port.kv_delete(key)
    for service in port.agent_services():
        port.agent_deregister(service.id)
    eventually(lambda: {check.check_id for check in port.checks()[1]} == {SERF_HEALTH})


def eventually(question: Callable[[], object]) -> None:
    """Ask until the answer is true: an agent hands its changes in to the catalog a moment later."""
    deadline = time.monotonic() + 10.0
    while not question():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


def value_of(port: Port, key: str) -> bytes:
    """Read the value of a key that must exist."""
    return pair_of(port, key).value


def pair_of(port: Port, key: str) -> KvPair:
    """Read a key that must exist."""
    pair = port.kv_get(key)[1]
    assert pair is not None
    return pair


def registered(port: Port) -> None:
    """Register the instance with its checks and wait until the catalog has them."""
    port.agent_register(SERVICE)
    port.agent_register_probe(SERVICE.id, PROBE)
    port.agent_register_pushed(SERVICE.id, UNIT)
    eventually(lambda: status_of(port, UNIT.check_id) == "passing" and status_of(port, PROBE.check_id) == "passing")


def status_of(port: Port, check_id: str) -> str | None:
    """Return what the catalog says of a check."""
    return next((check.status for check in port.checks()[1] if check.check_id == check_id), None)


# -- KV -----------------------------------------------------------------------------------------------------------


def test_an_absent_key_reads_as_none_and_an_empty_prefix_as_no_keys(port: Port) -> None:
    assert port.kv_get("orch/none")[1] is None
    assert port.kv_list("orch/")[1] == ()
    assert port.kv_keys("orch/") == ()


@pytest.mark.parametrize("value", [b"", b"text", b'{"a": "\xc3\xa4"}', bytes(range(256))])
def test_a_value_comes_back_byte_for_byte(port: Port, value: bytes) -> None:
    port.kv_put("orch/value", value)
    assert value_of(port, "orch/value") == value


@pytest.mark.parametrize("key", ["orch/with space", "orch/ü", "orch/a?b=c&d", "orch/100%", "orch/a#b", "orch/a+b"])
def test_a_key_with_odd_characters_is_that_key(port: Port, key: str) -> None:
    port.kv_put(key, b"1")
    assert port.kv_keys("orch/") == (key,)
    assert value_of(port, key) == b"1"
    port.kv_delete(key)
    assert port.kv_keys("orch/") == ()


def test_a_list_holds_the_keys_under_the_prefix_sorted(port: Port) -> None:
    for key in ("orch/b", "orch/a/2", "orch/a/1", "other", "orch"):
        port.kv_put(key, key.encode())
    _, pairs = port.kv_list("orch/")
    assert [(pair.key, pair.value) for pair in pairs] == [
        ("orch/a/1", b"orch/a/1"),
        ("orch/a/2", b"orch/a/2"),
        ("orch/b", b"orch/b"),
    ]
    assert port.kv_keys("orch/a/") == ("orch/a/1", "orch/a/2")


def test_deleting_an_absent_key_is_no_error(port: Port) -> None:
    port.kv_delete("orch/none")


def test_a_write_raises_the_modify_index_and_the_same_value_again_does_not(port: Port) -> None:
    port.kv_put("orch/a", b"1")
    first = pair_of(port, "orch/a")
    port.kv_put("orch/a", b"1")
    assert pair_of(port, "orch/a") == first
    port.kv_put("orch/a", b"2")
    assert pair_of(port, "orch/a").modify_index > first.modify_index


def test_the_index_of_a_list_grows_with_every_change_under_it(port: Port) -> None:
    port.kv_put("orch/a", b"1")
    changes: tuple[tuple[str, bytes | None], ...] = (
        ("orch/a", b"2"),
        ("orch/b", b"1"),
        ("orch/a", None),
        ("orch/b", None),
    )
    seen = [port.kv_list("orch/")[0]]
    for key, value in changes:
        if value is None:
            port.kv_delete(key)
        else:
            port.kv_put(key, value)
        seen.append(port.kv_list("orch/")[0])
    assert seen == sorted(set(seen))


def test_a_blocking_read_answers_at_once_when_something_changed_since_its_index(port: Port) -> None:
    port.kv_put("orch/a", b"1")
    index, _ = port.kv_list("orch/")
    port.kv_put("orch/a", b"2")
    started = time.monotonic()
    later, pairs = port.kv_list("orch/", index=index, wait_s=10.0)
    assert time.monotonic() - started < 5.0
    assert later > index
    assert pairs[0].value == b"2"


def test_a_blocking_read_gives_the_same_data_when_nothing_changed(port: Port) -> None:
    port.kv_put("orch/a", b"1")
    index, pairs = port.kv_list("orch/")
    assert port.kv_list("orch/", index=index, wait_s=0.05) == (index, pairs)
    index_of_one, pair = port.kv_get("orch/a")
    assert port.kv_get("orch/a", index=index_of_one, wait_s=0.05) == (index_of_one, pair)


# -- transactions -----------------------------------------------------------------------------------------------


def test_a_key_is_created_once(port: Port) -> None:
    assert port.txn((CasPut("orch/a", b"1", 0),)) is TxnOutcome.WON
    assert port.txn((CasPut("orch/a", b"2", 0),)) is TxnOutcome.LOST
    assert value_of(port, "orch/a") == b"1"


def test_an_update_wins_with_the_index_that_was_read_and_loses_with_an_old_one(port: Port) -> None:
    port.kv_put("orch/a", b"1")
    index = pair_of(port, "orch/a").modify_index
    assert port.txn((CasPut("orch/a", b"2", index),)) is TxnOutcome.WON
    assert port.txn((CasPut("orch/a", b"3", index),)) is TxnOutcome.LOST
    assert value_of(port, "orch/a") == b"2"


def test_an_update_of_a_key_that_was_deleted_meanwhile_loses(port: Port) -> None:
    port.kv_put("orch/a", b"1")
    index = pair_of(port, "orch/a").modify_index
    port.kv_delete("orch/a")
    assert port.txn((CasPut("orch/a", b"2", index),)) is TxnOutcome.LOST
    assert port.kv_get("orch/a")[1] is None


def test_a_delete_loses_with_an_old_index_and_wins_with_the_right_one(port: Port) -> None:
    port.kv_put("orch/a", b"1")
    index = pair_of(port, "orch/a").modify_index
    assert port.txn((CasDelete("orch/a", index - 1),)) is TxnOutcome.LOST
    assert port.txn((CasDelete("orch/a", index),)) is TxnOutcome.WON
    assert port.kv_get("orch/a")[1] is None


def test_deleting_what_is_gone_already_wins(port: Port) -> None:
    assert port.txn((CasDelete("orch/none", 1),)) is TxnOutcome.WON


def test_check_index_holds_only_for_the_index_read(port: Port) -> None:
    port.kv_put("orch/a", b"1")
    index = pair_of(port, "orch/a").modify_index
    assert port.txn((CheckIndex("orch/a", index),)) is TxnOutcome.WON
    assert port.txn((CheckIndex("orch/a", index + 1),)) is TxnOutcome.LOST
    assert port.txn((CheckIndex("orch/none", 1),)) is TxnOutcome.LOST


def test_check_index_zero_means_that_the_key_is_absent(port: Port) -> None:
    assert port.txn((CheckIndex("orch/a", 0),)) is TxnOutcome.WON
    port.kv_put("orch/a", b"1")
    assert port.txn((CheckIndex("orch/a", 0),)) is TxnOutcome.LOST


def test_a_transaction_with_one_lost_operation_changes_nothing(port: Port) -> None:
    port.kv_put("orch/a", b"1")
    before = port.kv_list("orch/")[1]
    ops = (
        CasPut("orch/new", b"1", 0),
        CasPut("orch/a", b"2", before[0].modify_index),
        CasPut("orch/a", b"3", before[0].modify_index - 1),
    )
    assert port.txn(ops) is TxnOutcome.LOST
    assert port.kv_list("orch/")[1] == before


def test_all_writes_of_a_transaction_carry_one_index(port: Port) -> None:
    assert port.txn(tuple(CasPut(f"orch/{n:02}", b"1", 0) for n in range(64))) is TxnOutcome.WON
    _, pairs = port.kv_list("orch/")
    assert len(pairs) == 64
    assert len({pair.modify_index for pair in pairs}) == 1


def test_more_operations_than_consul_takes_are_a_bug_of_the_caller(port: Port) -> None:
    with pytest.raises(ValueError, match="at most 64"):
        port.txn(tuple(CasPut(f"orch/{n}", b"1", 0) for n in range(65)))


# -- locks and sessions --------------------------------------------------------------------------------------------


def test_a_lock_is_taken_by_one_session_and_freed_by_its_release(port: Port) -> None:
    first, second = port.session_create("a", ()), port.session_create("b", ())
    assert port.lock_acquire("orch/lock", b"first", first)
    assert not port.lock_acquire("orch/lock", b"second", second)
    assert not port.lock_release("orch/lock", b"second", second)
    held = pair_of(port, "orch/lock")
    assert (held.value, held.session) == (b"first", first)
    assert port.lock_release("orch/lock", b"free", first)
    freed = pair_of(port, "orch/lock")
    assert (freed.value, freed.session) == (b"free", None)
    assert port.lock_acquire("orch/lock", b"second", second)


def test_a_lock_held_can_be_taken_again_with_a_new_value_and_keeps_its_lock_index(port: Port) -> None:
    session = port.session_create("a", ())
    assert port.lock_acquire("orch/lock", b"1", session)
    first = pair_of(port, "orch/lock")
    assert port.lock_acquire("orch/lock", b"1", session)
    assert pair_of(port, "orch/lock") == first
    assert port.lock_acquire("orch/lock", b"2", session)
    again = pair_of(port, "orch/lock")
    assert (again.value, again.session, again.lock_index) == (b"2", session, first.lock_index)


def test_a_lock_survives_an_ordinary_write_to_its_key(port: Port) -> None:
    session = port.session_create("a", ())
    port.lock_acquire("orch/lock", b"1", session)
    port.kv_put("orch/lock", b"2")
    assert pair_of(port, "orch/lock").session == session
    index = pair_of(port, "orch/lock").modify_index
    assert port.txn((CasPut("orch/lock", b"3", index),)) is TxnOutcome.WON
    assert pair_of(port, "orch/lock").session == session


def test_check_session_holds_only_while_the_session_holds_the_key(port: Port) -> None:
    first, second = port.session_create("a", ()), port.session_create("b", ())
    port.lock_acquire("orch/lock", b"", first)
    assert port.txn((CheckSession("orch/lock", first), CasPut("orch/a", b"1", 0))) is TxnOutcome.WON
    assert port.txn((CheckSession("orch/lock", second), CasPut("orch/b", b"1", 0))) is TxnOutcome.LOST
    assert port.txn((CheckSession("orch/none", first), CasPut("orch/b", b"1", 0))) is TxnOutcome.LOST
    port.session_destroy(first)
    assert port.txn((CheckSession("orch/lock", first), CasPut("orch/b", b"1", 0))) is TxnOutcome.LOST
    assert port.kv_get("orch/b")[1] is None


def test_a_transaction_takes_and_releases_a_lock(port: Port) -> None:
    first, second = port.session_create("a", ()), port.session_create("b", ())
    port.kv_put("orch/lock", b"0")
    index = pair_of(port, "orch/lock").modify_index
    assert port.txn((CheckIndex("orch/lock", index), LockPut("orch/lock", b"1", first))) is TxnOutcome.WON
    assert pair_of(port, "orch/lock").session == first
    assert port.txn((LockPut("orch/lock", b"2", second),)) is TxnOutcome.LOST
    assert port.txn((UnlockPut("orch/lock", b"2", second),)) is TxnOutcome.LOST
    assert port.txn((LockPut("orch/lock", b"2", first),)) is TxnOutcome.WON
    assert port.txn((UnlockPut("orch/lock", b"3", first),)) is TxnOutcome.WON
    freed = pair_of(port, "orch/lock")
    assert (freed.value, freed.session) == (b"3", None)


def test_a_session_that_is_gone_is_refused_by_acquire_and_loses_a_transaction(port: Port) -> None:
    session = port.session_create("a", ())
    port.session_destroy(session)
    with pytest.raises(Refused, match="invalid session"):
        port.lock_acquire("orch/lock", b"", session)
    assert port.txn((LockPut("orch/lock", b"", session),)) is TxnOutcome.LOST
    assert not port.lock_release("orch/lock", b"", session)


def test_destroying_a_session_frees_its_locks_and_twice_is_no_error(port: Port) -> None:
    session = port.session_create("a", ())
    port.lock_acquire("orch/lock", b"kept", session)
    before = pair_of(port, "orch/lock")
    port.session_destroy(session)
    freed = pair_of(port, "orch/lock")
    assert (freed.value, freed.session) == (b"kept", None)
    assert freed.modify_index > before.modify_index
    port.session_destroy(session)


def test_a_lock_delay_keeps_the_lock_free_for_a_while_after_its_session_ended(port: Port) -> None:
    first, second = port.session_create("a", (), lock_delay_s=30.0), port.session_create("b", ())
    port.lock_acquire("orch/delayed", b"", first)
    port.session_destroy(first)
    assert not port.lock_acquire("orch/delayed", b"", second)
    assert port.txn((LockPut("orch/delayed", b"", second),)) is TxnOutcome.LOST


def test_an_explicit_release_has_no_lock_delay(port: Port) -> None:
    first, second = port.session_create("a", (), lock_delay_s=30.0), port.session_create("b", ())
    port.lock_acquire("orch/lock", b"", first)
    assert port.lock_release("orch/lock", b"", first)
    assert port.lock_acquire("orch/lock", b"", second)


def test_the_sessions_of_a_node_are_listed_with_their_names_and_checks(port: Port) -> None:
    registered(port)
    plain = port.session_create("orch-controller@vm-1", ())
    bound = port.session_create("orch-guard:backend@vm-1", (UNIT.check_id, PROBE.check_id))
    _, sessions = port.session_list(NODE)
    found = {session.id: (session.name, session.node, set(session.checks)) for session in sessions}
    assert found == {
        plain: ("orch-controller@vm-1", NODE, {SERF_HEALTH}),
        bound: ("orch-guard:backend@vm-1", NODE, {SERF_HEALTH, UNIT.check_id, PROBE.check_id}),
    }
    assert port.session_list("another-vm")[1] == ()


def test_a_session_on_an_unknown_or_critical_check_is_refused(port: Port) -> None:
    with pytest.raises(Refused, match="Missing check"):
        port.session_create("a", ("orch-none:probe",))
    registered(port)
    port.agent_push(UNIT.check_id, "critical", "stopped")
    eventually(lambda: status_of(port, UNIT.check_id) == "critical")
    with pytest.raises(Refused, match="critical"):
        port.session_create("a", (UNIT.check_id,))
    port.agent_push(UNIT.check_id, "warning", "slow")
    eventually(lambda: status_of(port, UNIT.check_id) == "warning")
    assert port.session_create("a", (UNIT.check_id,))


def test_a_session_ends_when_its_check_is_pushed_critical_and_its_lock_is_free(port: Port) -> None:
    registered(port)
    session = port.session_create("guard", (UNIT.check_id,))
    port.lock_acquire("orch/lock", b"1", session)
    index, _ = port.kv_list("orch/")
    port.agent_push(UNIT.check_id, "critical", "node-app failed")
    eventually(lambda: port.kv_list("orch/", index=index, wait_s=5.0)[1][0].session is None)
    assert port.session_list(NODE)[1] == ()
    other = port.session_create("another guard", ())
    assert port.lock_acquire("orch/lock", b"2", other)


def test_a_session_ends_when_its_check_is_deregistered(port: Port) -> None:
    registered(port)
    port.session_create("guard", (UNIT.check_id,))
    bystander = port.session_create("controller", ())
    port.agent_deregister(SERVICE.id)
    eventually(lambda: [session.id for session in port.session_list(NODE)[1]] == [bystander])


# -- the local agent -------------------------------------------------------------------------------------------------


def test_what_was_registered_is_what_the_agent_says(port: Port) -> None:
    registered(port)
    assert port.agent_services() == (SERVICE,)
    checks = {check.check_id: (check.status, check.service_id) for check in port.agent_checks()}
    assert checks == {PROBE.check_id: ("passing", SERVICE.id), UNIT.check_id: ("passing", SERVICE.id)}
    pushed = next(check for check in port.agent_checks() if check.check_id == UNIT.check_id)
    assert pushed.output == UNIT.initial_output


def test_the_catalog_has_the_checks_with_node_and_service(port: Port) -> None:
    registered(port)
    found = {(check.node, check.check_id, check.service_id, check.status) for check in port.checks()[1]}
    assert found == {
        (NODE, SERF_HEALTH, "", "passing"),
        (NODE, PROBE.check_id, SERVICE.id, "passing"),
        (NODE, UNIT.check_id, SERVICE.id, "passing"),
    }


def test_registering_the_service_again_changes_tags_and_touches_no_check_and_no_session(port: Port) -> None:
    registered(port)
    session = port.session_create("guard", (UNIT.check_id, PROBE.check_id))
    changed = AgentService(SERVICE.id, SERVICE.name, SERVICE.port, SERVICE.address, ("standby",), (("epoch", "5"),))
    port.agent_register(changed)
    assert port.agent_services() == (changed,)
    assert {check.status for check in port.agent_checks()} == {"passing"}
    assert [known.id for known in port.session_list(NODE)[1]] == [session]


def test_registering_a_check_again_with_a_good_status_keeps_its_session(port: Port) -> None:
    registered(port)
    session = port.session_create("guard", (UNIT.check_id, PROBE.check_id))
    port.agent_register_pushed(SERVICE.id, UNIT)
    port.agent_register_probe(SERVICE.id, PROBE)
    assert [known.id for known in port.session_list(NODE)[1]] == [session]


def test_registering_a_check_again_keeps_its_status_and_output_whatever_the_initial_status(port: Port) -> None:
    registered(port)
    port.agent_register_pushed(SERVICE.id, PushedSpec(UNIT.check_id, UNIT.name, 600.0, "critical", "other"))
    port.agent_register_probe(SERVICE.id, replace(PROBE, initial_status="critical"))
    found = {check.check_id: (check.status, check.output) for check in port.agent_checks()}
    assert found == {PROBE.check_id: ("passing", ""), UNIT.check_id: ("passing", UNIT.initial_output)}
    eventually(lambda: status_of(port, UNIT.check_id) == status_of(port, PROBE.check_id) == "passing")


def test_a_check_can_start_critical(port: Port) -> None:
    port.agent_register(SERVICE)
    port.agent_register_pushed(SERVICE.id, PushedSpec(UNIT.check_id, UNIT.name, 60.0, "critical", "never started"))
    eventually(lambda: status_of(port, UNIT.check_id) == "critical")


@pytest.mark.parametrize("status", ["passing", "warning", "critical"])
def test_a_pushed_status_reaches_the_agent_at_once_and_the_catalog_soon(port: Port, status: str) -> None:
    registered(port)
    port.agent_push(UNIT.check_id, status, "ä line\nanother")
    pushed = next(check for check in port.agent_checks() if check.check_id == UNIT.check_id)
    assert (pushed.status, pushed.output) == (status, "ä line\nanother")
    eventually(lambda: status_of(port, UNIT.check_id) == status)


def test_a_push_to_a_check_that_is_not_there_is_refused(port: Port) -> None:
    with pytest.raises(Refused):
        port.agent_push("orch-none:unit", "passing", "")


def test_a_push_to_a_check_that_the_agent_runs_itself_is_refused(port: Port) -> None:
    registered(port)
    with pytest.raises(Refused):
        port.agent_push(PROBE.check_id, "passing", "")


def test_a_check_of_a_service_that_is_not_there_is_refused(port: Port) -> None:
    with pytest.raises(Refused):
        port.agent_register_pushed("orch-none", UNIT)
    with pytest.raises(Refused):
        port.agent_register_probe("orch-none", PROBE)


def test_deregistering_removes_the_service_and_its_checks_and_twice_is_no_error(port: Port) -> None:
    registered(port)
    port.agent_deregister(SERVICE.id)
    assert (port.agent_services(), port.agent_checks()) == ((), ())
    eventually(lambda: {check.check_id for check in port.checks()[1]} == {SERF_HEALTH})
    port.agent_deregister(SERVICE.id)


def test_the_port_knows_its_node_and_whether_there_is_a_leader(port: Port) -> None:
    assert port.node_name() == NODE
    assert port.leader_known()


# -- two ports ---------------------------------------------------------------------------------------------------


def test_what_one_port_wrote_the_other_reads(ground: Ground) -> None:
    ground.port.kv_put("orch/a", b"1")
    assert ground.other.kv_get("orch/a") == ground.port.kv_get("orch/a")


def test_of_two_that_compare_and_set_one_wins(ground: Ground) -> None:
    outcomes: list[TxnOutcome] = []
    started = threading.Barrier(2)

    def write(port: Port) -> None:
        started.wait()
        outcomes.append(port.txn((CasPut("orch/once", b"", 0),)))

    threads = [threading.Thread(target=write, args=(port,)) for port in (ground.port, ground.other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcome.value for outcome in outcomes) == ["lost", "won"]


def test_an_agent_that_compares_with_the_catalog_sends_again_what_it_took_for_known(ground: Ground) -> None:
    port = ground.port
    registered(port)
    for _ in range(2):
        ground.lose(UNIT.check_id)
        eventually(lambda: status_of(port, UNIT.check_id) is None)
        port.agent_compare("")
        eventually(lambda: status_of(port, UNIT.check_id) == "passing")


def test_an_agent_that_compares_with_the_catalog_keeps_what_is_registered_and_its_sessions(port: Port) -> None:
    registered(port)
    session = port.session_create("keeper", (UNIT.check_id,))
    port.agent_compare("")
    assert status_of(port, UNIT.check_id) == "passing"
    assert {service.id for service in port.agent_services()} >= {SERVICE.id}
    assert session in {found.id for found in port.session_list(NODE)[1]}


def test_having_the_agent_send_its_changes_changes_nothing_else(port: Port) -> None:
    registered(port)
    session = port.session_create("keeper", (UNIT.check_id,))
    port.agent_sync(SERVICE.id)
    port.agent_sync("no-such-service")
    assert status_of(port, UNIT.check_id) == "passing"
    assert session in {found.id for found in port.session_list(NODE)[1]}


def test_the_library_is_the_one_that_was_asked_for() -> None:
    """PYTHONPATH decides: python-consul2, or its maintained fork."""
    wanted = "py-consul" if "py-consul" in os.environ.get("PYTHONPATH", "") else "site-packages"
    assert wanted in str(consul.__file__)
