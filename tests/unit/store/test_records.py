"""Writing records: fenced, by compare-and-set, with retries that end."""

from __future__ import annotations

import pytest

from orchestrator.domain import keys
from orchestrator.domain.decision import Decision, Delete, Put
from orchestrator.domain.records import Maintenance, Paused
from orchestrator.domain.view import Kept, Unreadable
from orchestrator.store.port import CasPut, TxnOutcome, Unknown
from orchestrator.store.records import (
    NoSuchRecord,
    UnreadableRecord,
    apply_decision,
    create_record,
    read_record,
    update_record,
)
from tests.fakes.fake_consul import FakeConsul, FakePort

KEY = keys.PAUSED
PAUSED = Paused(by="anna", at=1.0)


@pytest.fixture
def cluster() -> FakeConsul:
    """A cluster of one node."""
    return FakeConsul(["vm-1"])


@pytest.fixture
def port(cluster: FakeConsul) -> FakePort:
    """A port to it."""
    return cluster.port("vm-1")


def leader_session(port: FakePort) -> str:
    """Take the leader's lock."""
    session = port.session_create("orch-controller@vm-1", ())
    assert port.lock_acquire(keys.LEADER, b"", session)
    return session


def test_reading_tells_absent_unreadable_and_kept_apart(port: FakePort) -> None:
    assert read_record(port, KEY, Paused) is None
    assert create_record(port, KEY, PAUSED) is TxnOutcome.WON
    assert create_record(port, KEY, PAUSED) is TxnOutcome.LOST
    kept = read_record(port, KEY, Paused)
    assert isinstance(kept, Kept)
    assert kept.value == PAUSED
    port.kv_put(KEY, b"{}")
    broken = read_record(port, KEY, Paused)
    assert isinstance(broken, Unreadable)
    assert broken.problem == "by: Field required"


def test_a_decision_is_written_whole_by_the_leader(port: FakePort) -> None:
    session = leader_session(port)
    port.kv_put(keys.rotate("backend"), b"")
    index = port.kv_get(keys.rotate("backend"))[0]
    changes = (Put(KEY, PAUSED, 0), Delete(keys.rotate("backend"), index))
    assert apply_decision(port, Decision("x", None, "both", changes), session) is TxnOutcome.WON
    assert port.kv_keys("orch/") == (keys.LEADER, KEY)


def test_a_decision_of_one_who_does_not_lead_changes_nothing(port: FakePort) -> None:
    session = leader_session(port)
    port.session_destroy(session)
    decision = Decision("x", None, "pause", (Put(KEY, PAUSED, 0),))
    assert apply_decision(port, decision, session) is TxnOutcome.LOST
    assert read_record(port, KEY, Paused) is None


def test_a_decision_without_changes_asks_nothing_of_consul(cluster: FakeConsul, port: FakePort) -> None:
    cluster.quorum = False
    assert apply_decision(port, Decision("refuse", None, "no"), "any") is TxnOutcome.WON


def test_a_decision_too_large_for_one_transaction_is_a_bug(port: FakePort) -> None:
    changes = tuple(Put(keys.maintenance(f"vm-{n}"), PAUSED, 0) for n in range(61))
    with pytest.raises(ValueError, match="61 changes"):
        apply_decision(port, Decision("x", None, "much", changes), "any")


def test_an_update_that_another_writer_overtook_is_made_on_what_that_one_wrote(port: FakePort) -> None:
    create_record(port, KEY, PAUSED)
    overtaken = [PAUSED.with_(by="otto")]

    def change(found: Paused) -> Paused:
        if overtaken:
            index = port.kv_get(KEY)[0]
            port.txn((CasPut(KEY, overtaken.pop().to_json().encode(), index),))
        return found.with_(reason=f"{found.by} said so")

    assert update_record(port, KEY, Paused, change) == PAUSED.with_(by="otto", reason="otto said so")


def test_an_update_overtaken_every_time_ends_in_unknown(port: FakePort) -> None:
    create_record(port, KEY, PAUSED)

    def change(found: Paused) -> Paused:
        port.kv_put(KEY, found.with_(at=found.at + 1).to_json().encode())
        return found

    with pytest.raises(Unknown, match="changed by others 3 times"):
        update_record(port, KEY, Paused, change, attempts=3)


def test_an_update_may_decide_to_change_nothing(port: FakePort) -> None:
    create_record(port, KEY, PAUSED)
    assert update_record(port, KEY, Paused, lambda found: None) is None


def test_an_update_of_an_absent_or_unreadable_record_says_so_and_writes_nothing(port: FakePort) -> None:
    with pytest.raises(NoSuchRecord):
        update_record(port, KEY, Paused, lambda found: found)
    port.kv_put(KEY, b"broken")
    with pytest.raises(UnreadableRecord, match=r"orch/paused: Invalid JSON"):
        update_record(port, KEY, Paused, lambda found: found)
    assert port.kv_get(KEY)[1] is not None


def test_an_update_by_the_holder_of_a_lock_ends_with_the_lock(port: FakePort) -> None:
    session = port.session_create("orch-worker@vm-1", ())
    key = keys.maintenance("vm-1")
    port.lock_acquire(key, Maintenance(by="a", at=1.0).to_json().encode(), session)
    assert update_record(port, key, Maintenance, lambda found: found.with_(at=2.0), held_by=session)
    port.session_destroy(session)
    assert update_record(port, key, Maintenance, lambda found: found.with_(at=3.0), held_by=session) is None
    kept = read_record(port, key, Maintenance)
    assert isinstance(kept, Kept)
    assert kept.value.at == 2.0


def test_a_lost_connection_comes_out_as_unknown(cluster: FakeConsul, port: FakePort) -> None:
    cluster.set_cut("vm-1", True)
    with pytest.raises(Unknown):
        read_record(port, KEY, Paused)
