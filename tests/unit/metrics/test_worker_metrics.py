"""What a worker tells: it is taken from its steps, on a Consul in memory."""

from __future__ import annotations

import pytest

from orchestrator.domain import keys
from orchestrator.metrics.worker import WorkerMetrics
from orchestrator.store.port import Unknown
from tests.unit.execute.build import an_assignment
from tests.unit.execute.test_worker_steps import COMMAND, A, Fleet
from tests.unit.metrics.build import value

PLAYED = {"playbook": "activate_backend.yml"}


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


@pytest.fixture
def told(fleet: Fleet) -> WorkerMetrics:
    """What the first worker tells."""
    return fleet.a.metrics


def begun(fleet: Fleet) -> None:
    """The first worker has the command's play in hand."""
    fleet.a.deliver(fleet.create())
    fleet.a.cycle()


def test_a_play_is_counted_by_its_outcome_and_timed(fleet: Fleet, told: WorkerMetrics) -> None:
    begun(fleet)
    assert value(told, "orch_worker_plays_in_hand") == 1.0
    assert value(told, "orch_worker_claims_total", outcome="won") == 1.0
    assert value(told, "orch_worker_messages_total", outcome="command") == 1.0
    fleet.consul.now += 1.25
    fleet.a.plays.end(COMMAND.id)
    fleet.a.cycle()
    assert value(told, "orch_worker_plays_in_hand") == 0.0
    assert value(told, "orch_worker_plays_total", outcome="succeeded", **PLAYED) == 1.0
    assert value(told, "orch_worker_play_duration_seconds_sum", **PLAYED) == 1.25


def test_a_play_that_fails_or_is_superseded_is_counted_so(fleet: Fleet, told: WorkerMetrics) -> None:
    begun(fleet)
    fleet.a.plays.end(COMMAND.id, rc=2)
    fleet.a.cycle()
    assert value(told, "orch_worker_plays_total", outcome="failed", **PLAYED) == 1.0
    begun(fleet)
    fleet.put(keys.assignment("backend"), an_assignment(8))
    fleet.a.cycle()
    fleet.a.cycle()
    assert value(told, "orch_worker_plays_total", outcome="superseded", **PLAYED) == 1.0


def test_a_play_that_is_left_to_another_worker_is_released_or_dropped(fleet: Fleet, told: WorkerMetrics) -> None:
    begun(fleet)
    fleet.a.worker.release_plays()
    fleet.a.cycle()
    assert value(told, "orch_worker_plays_total", outcome="released", **PLAYED) == 1.0
    fleet = Fleet()
    begun(fleet)
    fleet.stop_worker(A)
    fleet.a.cycle()
    fleet.a.cycle()
    assert value(fleet.a.metrics, "orch_worker_plays_total", outcome="dropped", **PLAYED) == 1.0


def test_of_two_workers_that_claim_a_command_one_is_told_to_have_lost(fleet: Fleet) -> None:
    fleet.create()
    for now in (0.0, 1.0):
        fleet.consul.now = now
        fleet.a.stale = fleet.b.stale = fleet.consul.peek_list(keys.ROOT)
        fleet.a.cycle()
        fleet.b.cycle()
    assert value(fleet.a.metrics, "orch_worker_claims_total", outcome="won") == 1.0
    assert value(fleet.b.metrics, "orch_worker_claims_total", outcome="lost") == 1.0
    assert value(fleet.b.metrics, "orch_worker_claims_total", outcome="won") == 0.0


def test_a_claim_without_an_answer_counts_as_unknown(fleet: Fleet, told: WorkerMetrics) -> None:
    fleet.a.deliver(fleet.create())

    def unanswered(node: str, operation: str, when: str) -> None:
        raise Unknown("the answer was lost")

    fleet.consul.on_write = unanswered
    fleet.a.cycle()
    assert value(told, "orch_worker_claims_total", outcome="unknown") == 1.0


def test_a_message_that_is_none_counts_as_rejected(fleet: Fleet, told: WorkerMetrics) -> None:
    fleet.a.deliver(b"no message")
    assert value(told, "orch_worker_messages_total", outcome="rejected") == 1.0


def test_a_worker_without_its_session_says_so(fleet: Fleet, told: WorkerMetrics) -> None:
    assert value(told, "orch_worker_session") == 1.0
    fleet.stop_worker(A)
    fleet.a.cycle()
    assert value(told, "orch_worker_session") == 0.0
