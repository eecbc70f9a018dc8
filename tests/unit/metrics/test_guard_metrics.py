"""What a guard tells of its VM."""

from __future__ import annotations

import pytest

from orchestrator.metrics.guard import GuardMetrics, is_fence
from orchestrator.node import duties as do
from orchestrator.node.replication.facts import no_answer
from orchestrator.node.replication.lease import Confirmation
from orchestrator.node.situation import AddressState, LocalView, Situation
from tests.unit.metrics.build import replicated, value
from tests.unit.node.build import FAILED, situation, view

DROP, STOP = do.DropAddress("frontend", "test"), do.StopUnit("frontend", "test", 3)
CLOSE = do.CloseWrites("frontend", "test", True)


def told(seen: LocalView | None) -> GuardMetrics:
    return GuardMetrics(lambda: seen)


def test_lock_address_instance_and_unit_are_told_as_at_the_last_look() -> None:
    found = told(view(situation()))
    assert value(found, "orch_guard_role_lock_held", service="frontend") == 1.0
    assert value(found, "orch_guard_address_held", service="frontend") == 1.0
    assert value(found, "orch_guard_instance_healthy", service="frontend") == 1.0
    assert value(found, "orch_guard_unit_state", service="frontend", state="active") == 1.0
    assert value(found, "orch_guard_consul_fresh") == 1.0
    found = told(
        view(
            situation(unit=FAILED, lock=None, address=AddressState.HANDED_OVER, registration=None),
            kv_fresh=False,
        )
    )
    assert value(found, "orch_guard_role_lock_held", service="frontend") == 0.0
    assert value(found, "orch_guard_address_held", service="frontend") == 0.0
    assert value(found, "orch_guard_instance_healthy", service="frontend") == 0.0
    assert value(found, "orch_guard_unit_state", service="frontend", state="active") == 0.0
    assert value(found, "orch_guard_unit_state", service="frontend", state="failed") == 1.0
    assert value(found, "orch_guard_consul_fresh") == 0.0


def test_a_guard_that_has_not_looked_yet_claims_nothing() -> None:
    assert value(told(None), "orch_guard_consul_fresh") is None


def test_a_copy_is_told_with_its_lag_and_whether_it_is_whole() -> None:
    found = told(replicated())
    assert value(found, "orch_guard_replica_in_sync", service="database") == 1.0
    assert value(found, "orch_guard_replica_lag_seconds", service="database") == 2.5
    assert value(found, "orch_guard_database_writable", service="database") == 0.0
    assert value(found, "orch_guard_replica_in_sync", service="frontend") is None
    found = told(replicated(sync=None, facts=no_answer(1.0, "connection refused")))
    assert value(found, "orch_guard_replica_in_sync", service="database") == 0.0
    assert value(found, "orch_guard_database_answers", service="database") == 0.0
    assert value(found, "orch_guard_replica_lag_seconds", service="database") is None, "what is not known is absent"


def test_duties_are_counted_and_questions_are_not() -> None:
    found = told(None)
    found.note_duty(do.CreateSession("frontend", "test"), situation(), False)
    found.note_duty(do.CreateSession("frontend", "test"), situation(), True)
    found.note_duty(do.ProbeNow("frontend", "test"), situation(), True)
    labels = {"service": "frontend", "duty": "CreateSession"}
    assert value(found, "orch_guard_duties_total", outcome="failed", **labels) == 1.0
    assert value(found, "orch_guard_duties_total", outcome="done", **labels) == 1.0
    assert value(found, "orch_guard_duties_total", service="frontend", duty="ProbeNow", outcome="done") is None


@pytest.mark.parametrize(
    ("duty", "at", "fences"),
    [
        (DROP, situation(lock=None), True),
        (DROP, situation(), False),
        (DROP, situation(lock=None, address=AddressState.HANDED_OVER), False),
        (CLOSE, situation(lock=None), True),
        (CLOSE, situation(), False),
        (STOP, situation(lock=None), True),
        (do.Deregister("frontend", "test"), None, False),
    ],
    ids=[
        "an address without the lock",
        "an address in its holder's own trouble",
        "an address that was handed over",
        "writes without the lock",
        "writes in a planned move",
        "a unit that may not run here",
        "what is no longer in the policy",
    ],
)
def test_what_another_vm_may_have_by_now_is_fenced(duty: do.Duty, at: Situation | None, fences: bool) -> None:
    assert is_fence(duty, at) is fences
    found = told(None)
    found.note_duty(duty, at, True)
    by = {"service": "frontend", "by": type(duty).__name__}
    assert (value(found, "orch_guard_fences_total", **by) or 0.0) == float(fences)


def test_a_fence_that_failed_is_none_yet_and_is_seen_to_rise_from_0() -> None:
    found = told(None)
    found.note_duty(STOP, situation(lock=None), False)
    assert value(found, "orch_guard_fences_total", service="frontend", by="StopUnit") == 0.0


def test_leases_are_counted_by_what_their_confirmation_came_to_and_their_end_is_a_fence() -> None:
    found = told(None)
    for outcome in (Confirmation.CONFIRMED, Confirmation.CONFIRMED, Confirmation.UNANSWERED, Confirmation.LOST):
        found.note_confirmation("database", outcome)
    found.note_lease_end("database")
    confirmations = [
        value(found, "orch_guard_lease_confirmations_total", service="database", outcome=outcome)
        for outcome in ("confirmed", "unanswered", "lost")
    ]
    assert confirmations == [2.0, 1.0, 1.0]
    assert value(found, "orch_guard_fences_total", service="database", by="lease") == 1.0
