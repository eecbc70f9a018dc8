"""A VM's units are as its roles and the assignments want them, or there is a finding."""

from __future__ import annotations

import json

import pytest

from orchestrator.doctor.facts import UnitFacts
from orchestrator.doctor.judge_units import judge_units
from orchestrator.domain import keys
from orchestrator.domain.records import Maintenance, Request, RequestKind, RequestState
from tests.unit.cli.world import NOW, POLICY, World
from tests.unit.doctor.build import ABSENT, OFF, ON, seen, told

OWN = {"consul": ON, "consul-template": ON, "orch-guard": ON}
WORKERS = OWN | {"orch-controller": ON, "orch-worker": ON}
RUNS_ONLY = UnitFacts(load="loaded", active="active", enabled="disabled")
ENABLED_ONLY = UnitFacts(load="loaded", active="inactive", enabled="enabled")


def of_units(world: World, vm: str, units: dict[str, UnitFacts]) -> list[str]:
    fleet = seen(world)
    return told(judge_units(vm, units, fleet.view, fleet.policy))


def test_units_as_assigned_are_well() -> None:
    world = World().founded()
    assert of_units(world, "backend-server", OWN | {"node-app": ON, "nginx": OFF}) == []
    assert of_units(world, "messaging-server", WORKERS | {"node-app": OFF, "nginx": OFF, "orch-controller": ON}) == []
    # A daemon that the VM has no role for may be absent.
    assert of_units(world, "database-server", OWN | {"orch-worker": ABSENT, "orch-playbooks-sync.timer": ABSENT}) == []


@pytest.mark.parametrize(
    ("unit", "facts", "line"),
    [
        ("orch-worker", ABSENT, "error messaging-server: there is no unit orch-worker"),
        ("orch-worker", ENABLED_ONLY, "error messaging-server: orch-worker is inactive"),
        ("consul", RUNS_ONLY, "warning messaging-server: consul is disabled: it will not start with the VM"),
        ("orch-proxy@database", ENABLED_ONLY, "error messaging-server: orch-proxy@database is inactive"),
        ("orch-playbooks-sync.timer", ENABLED_ONLY, "error messaging-server: orch-playbooks-sync.timer is inactive"),
        ("orch-playbooks-sync.timer", ABSENT, "error messaging-server: there is no unit orch-playbooks-sync.timer"),
        ("orch-backup@consul.timer", ENABLED_ONLY, "error messaging-server: orch-backup@consul.timer is inactive"),
    ],
)
def test_what_runs_always_runs_and_starts_with_the_vm(unit: str, facts: UnitFacts, line: str) -> None:
    assert of_units(World().founded(), "messaging-server", WORKERS | {unit: facts}) == [line]


@pytest.mark.parametrize(
    ("vm", "facts", "line"),
    [
        ("backend-server", OFF, "error backend-server: node-app is inactive, and backend is to run here"),
        (
            "backend-server",
            RUNS_ONLY,
            "warning backend-server: node-app is disabled: backend will not start here with the VM",
        ),
        (
            "messaging-server",
            RUNS_ONLY,
            "error messaging-server: node-app runs although backend is assigned to backend-server",
        ),
        (
            "messaging-server",
            ENABLED_ONLY,
            "warning messaging-server: node-app is enabled, and backend is designated to backend-server: "
            "it would start here with the VM",
        ),
        ("messaging-server", ABSENT, "error messaging-server: there is no unit node-app, so backend cannot run here"),
        ("database-server", ABSENT, ""),
    ],
)
def test_a_services_unit_is_where_it_is_assigned_and_nowhere_else(vm: str, facts: UnitFacts, line: str) -> None:
    assert line in [*of_units(World().founded(), vm, {"node-app": facts}), ""]
    assert len(of_units(World().founded(), vm, {"node-app": facts})) <= 2


def test_a_hot_standby_runs_but_in_maintenance() -> None:
    world = World().founded()
    hot = POLICY["services"]["backend"] | {"standby": "hot"}
    world.put(keys.CONFIG, json.dumps(POLICY | {"services": POLICY["services"] | {"backend": hot}}).encode())
    assert of_units(world, "messaging-server", {"node-app": ON}) == []
    assert of_units(world, "messaging-server", {"node-app": ENABLED_ONLY}) == [
        "error messaging-server: node-app is inactive, and backend is to run here"
    ]
    world.put(keys.maintenance("messaging-server"), Maintenance(by="ana@desk", at=NOW))
    assert of_units(world, "messaging-server", {"node-app": ENABLED_ONLY}) == []


def test_all_members_of_a_cluster_run_and_the_spare_does_not() -> None:
    world = World().founded()
    world.with_a_cluster()
    assert of_units(world, "frontend-server", {"node-app": ON}) == []
    assert of_units(world, "database-server", {"node-app": OFF}) == []
    assert any("node-app is inactive" in line for line in of_units(world, "frontend-server", {"node-app": OFF}))
    assert any("node-app runs although" in line for line in of_units(world, "database-server", {"node-app": ON}))


def test_while_a_service_is_moved_its_units_are_left_alone() -> None:
    world = World().founded()
    request = Request(
        id="1700000000000-backend-0001",
        kind=RequestKind.FAILOVER,
        service="backend",
        state=RequestState.RUNNING,
        created=NOW,
        updated=NOW,
    )
    world.put(keys.request(request.id), request)
    assert of_units(world, "messaging-server", {"node-app": ON}) == []
