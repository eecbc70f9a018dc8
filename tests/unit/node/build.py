"""Situations for the tests of `node`, healthy and active unless a test says otherwise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from orchestrator.domain.policy import CheckPolicy, FrontDoorPolicy, ServicePolicy
from orchestrator.domain.records import Assignment, LockValue, MoveKind
from orchestrator.domain.view import LockView
from orchestrator.node.instance import describe_unit, meta_of
from orchestrator.node.situation import (
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

HERE = "frontend-server"
OTHER = "backend-server"
SESSION = "11111111-aaaa"
NOW = 1000.0

ACTIVE = UnitStatus(UnitState.ACTIVE, "active (running)", 1763840000.0, 123, "success")
FAILED = UnitStatus(UnitState.FAILED, "failed (failed)", 1763840100.0, 0, "signal")
STOPPED = UnitStatus(UnitState.STOPPED, "inactive (dead)", 1763840100.0)
STOPPING = UnitStatus(UnitState.STOPPING, "deactivating (stop-sigterm)", 1763840100.0, 123)
RESTARTING = UnitStatus(UnitState.RESTARTING, "activating (auto-restart)", 1763840100.0)
ABSENT = UnitStatus(UnitState.ABSENT, "inactive (dead)")
UNKNOWN = UnitStatus(UnitState.UNKNOWN)
ANSWERS = ProbeResult(ProbeState.OK, "HTTP 200 from / on port 80", NOW)
SILENT = ProbeResult(ProbeState.FAILED, "port 80: connection refused", NOW)


def policy(standby: str = "cold", door: bool = True) -> ServicePolicy:
    return ServicePolicy(
        order=(HERE, OTHER),
        unit="nginx",
        port=80,
        standby="hot" if standby == "hot" else "cold",
        check=CheckPolicy(kind="http"),
        activate="a.yml",
        deactivate="d.yml",
        front_door=FrontDoorPolicy(kind="vip", address="10.0.0.100") if door else None,
    )


def assignment(
    active: str = HERE, epoch: int = 7, designated: str = HERE, standbys: tuple[str, ...] = ()
) -> Assignment:
    return Assignment(
        service="frontend",
        active=active,
        designated=designated,
        standbys=standbys,
        epoch=epoch,
        since=1.0,
        kind=MoveKind.INITIAL,
        reason="test",
    )


def lock(vm: str = HERE, epoch: int = 7, session: str | None = SESSION) -> LockView:
    return LockView(LockValue(vm=vm, epoch=epoch), session, 5)


def situation(**changes: Any) -> Situation:
    """Active here at epoch 7, everything in place."""
    base = Situation(
        service="frontend",
        policy=policy(),
        vm_address="10.0.8.49",
        assignment=assignment(),
        assignment_index=3,
        lock=lock(),
        sessions=(SESSION,),
        unit=ACTIVE,
        address=AddressState.UP,
    )
    base = replace(base, **{name: value for name, value in changes.items() if name != "registration"})
    return replace(base, registration=changes.get("registration", registered(base)))


def registered(at: Situation, tag: str = "active", unit: str = PASSING, probe: str = PASSING) -> Registration:
    return Registration(
        tags=(tag,),
        meta=meta_of(at, HERE),
        address=at.vm_address,
        port=at.policy.port,
        unit_status=unit,
        unit_output=describe_unit(at.policy.unit, at.unit),
        probe_status=probe,
    )


def view(*situations: Situation, **changes: Any) -> LocalView:
    base = LocalView(vm=HERE, drain_s=1.0, give_up_s=30.0, situations=situations, kv_fresh=True, agent_known=True)
    return replace(base, **changes)
