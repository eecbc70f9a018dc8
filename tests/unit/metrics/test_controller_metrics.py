"""What a controller tells of itself and, while it leads, of the fleet."""

from __future__ import annotations

from orchestrator.domain.records import RequestKind
from orchestrator.metrics.controller import OTHER
from tests.unit.decide.fleet import START, WEB, Fleet, policy_of
from tests.unit.metrics.build import Leader, value


def test_a_failover_is_counted_with_its_outcome_and_timed_with_its_steps() -> None:
    leader = Leader(Fleet().serving())
    leader.cycle()
    failover = {"kind": "failover", "origin": "rule"}
    ended = {"service": WEB, "outcome": "succeeded", **failover}
    assert value(leader.metrics, "orch_requests_total", **ended) == 0.0, "it must be seen to rise from 0"
    leader.fail_over(1.2)
    assert value(leader.metrics, "orch_requests_total", **ended) == 1.0
    assert value(leader.metrics, "orch_move_duration_seconds_bucket", le="1.0", **failover) == 0.0
    assert value(leader.metrics, "orch_move_duration_seconds_bucket", le="1.5", **failover) == 1.0
    assert value(leader.metrics, "orch_move_step_duration_seconds_count", step="endpoints", **failover) == 1.0


def test_the_fleet_is_told_as_the_leader_sees_it() -> None:
    fleet = Fleet().serving()
    leader = Leader(fleet)
    leader.cycle()
    assert value(leader.metrics, "orch_service_served", service=WEB) == 1.0
    assert value(leader.metrics, "orch_service_diagnosis", service=WEB, code="fine") == 1.0
    fleet.dies("third")
    fleet.in_maintenance.add("second")
    fleet.pause().fails("home")
    leader.cycle()
    found = leader.metrics
    assert value(found, "orch_service_served", service=WEB) == 0.0
    assert value(found, "orch_service_diagnosis", service=WEB, code="paused") == 1.0
    assert value(found, "orch_service_diagnosis", service=WEB, code="fine") == 0.0
    assert [value(found, "orch_vm_reachable", vm=vm) for vm in ("home", "third")] == [1.0, 0.0]
    assert [value(found, "orch_vm_maintenance", vm=vm) for vm in ("home", "second")] == [0.0, 1.0]
    assert value(found, "orch_paused") == 1.0


def test_epoch_active_and_designated_follow_a_failover() -> None:
    leader = Leader(Fleet().serving())
    leader.cycle()
    leader.fail_over(1.0)
    leader.cycle()
    found = leader.metrics
    assert value(found, "orch_service_epoch", service=WEB) == 4.0
    assert [value(found, "orch_service_active", service=WEB, vm=vm) for vm in ("home", "second")] == [0.0, 1.0]
    assert value(found, "orch_service_designated", service=WEB, vm="home") == 1.0


def test_missing_standbys_a_hold_and_waiting_commands_are_told() -> None:
    hold_until = START + 1800.0
    leader = Leader(Fleet(policy_of(standby="hot")).serving(standbys=("second",), hold_until=hold_until))
    leader.cycle()
    assert value(leader.metrics, "orch_service_standbys_missing", service=WEB) == 1.0
    assert value(leader.metrics, "orch_service_hold_until_timestamp_seconds", service=WEB) == hold_until
    leader.cycle(5.0)
    leader.cycle()
    assert value(leader.metrics, "orch_commands", state="pending") == 1.0
    assert value(leader.metrics, "orch_requests_open") == 1.0


def test_a_controller_that_leads_no_more_tells_nothing_of_the_fleet() -> None:
    leader = Leader(Fleet().serving())
    leader.cycle()
    leader.leads = False
    assert value(leader.metrics, "orch_controller_leader") == 0.0
    assert value(leader.metrics, "orch_service_epoch", service=WEB) is None


def test_a_decision_that_was_overtaken_counts_as_such_and_ends_no_request() -> None:
    leader = Leader(Fleet().serving().fails("home"))
    leader.cycle(applies=False)
    leader.cycle()
    found = leader.metrics
    assert value(found, "orch_controller_decisions_total", code="failover", outcome="overtaken") == 1.0
    assert value(found, "orch_controller_decisions_total", code="failover", outcome="applied") == 1.0
    assert value(found, "orch_controller_cycles_total") == 2.0
    assert value(found, "orch_controller_decide_duration_seconds_count") == 2.0


def test_what_a_request_says_freely_makes_no_series() -> None:
    fleet = Fleet().serving()
    fleet.asks(RequestKind.FAILOVER, service="no-such-service", origin="anything at all")
    leader = Leader(fleet)
    leader.cycle()
    labels = {"service": OTHER, "kind": "failover", "origin": OTHER, "outcome": "refused"}
    assert value(leader.metrics, "orch_requests_total", **labels) == 1.0


def test_an_operator_is_counted_without_a_name() -> None:
    fleet = Fleet().serving()
    fleet.asks(RequestKind.FAILBACK, origin="cli:op@host")
    leader = Leader(fleet)
    leader.cycle()
    labels = {"service": WEB, "kind": "failback", "origin": "cli", "outcome": "refused"}
    assert value(leader.metrics, "orch_requests_total", **labels) == 1.0
