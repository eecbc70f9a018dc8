"""How an instance is written into the agent."""

from __future__ import annotations

import pytest

from orchestrator.node.instance import (
    agent_service,
    describe_unit,
    probe_differs,
    probe_spec,
    role_tag,
    session_name,
)
from orchestrator.node.situation import UnitState, UnitStatus
from tests.unit.node.build import (
    ABSENT,
    ACTIVE,
    FAILED,
    HERE,
    OTHER,
    UNKNOWN,
    assignment,
    policy,
    registered,
    situation,
)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (ACTIVE, "nginx is active (running) since 2025-11-22 19:33:20 UTC, PID 123"),
        (FAILED, "nginx is failed (failed) since 2025-11-22 19:35:00 UTC, result: signal"),
        (ABSENT, "nginx is not installed: systemd knows no such unit"),
        (UNKNOWN, "nginx: systemd could not be asked"),
        (UnitStatus(UnitState.STOPPED), "nginx is stopped"),
    ],
)
def test_the_unit_check_says_what_systemd_says(status: UnitStatus, expected: str) -> None:
    assert describe_unit("nginx", status) == expected


def test_the_tag_tells_the_role() -> None:
    hot = policy("hot")
    assert role_tag(situation(), HERE, lock_held=True) == "active"
    assert role_tag(situation(), HERE, lock_held=False) == "candidate"
    elsewhere = assignment(active=OTHER, standbys=(HERE,))
    assert role_tag(situation(policy=hot, assignment=elsewhere), HERE, lock_held=False) == "standby"
    assert role_tag(situation(assignment=elsewhere), HERE, lock_held=False) == "candidate"
    assert role_tag(situation(assignment=None), HERE, lock_held=False) == "candidate"


def test_the_probe_asks_the_vms_own_address() -> None:
    spec = probe_spec(situation(), "passing")
    assert (spec.check_id, spec.kind, spec.target) == ("orch-frontend:probe", "http", "http://10.0.8.49:80/")
    assert probe_spec(situation(vm_address="fd00::1"), "passing").target == "http://[fd00::1]:80/"


def test_another_probe_is_noticed_and_another_epoch_is_not_taken_for_one() -> None:
    before = registered(situation())
    assert not probe_differs(situation(), before)
    assert not probe_differs(situation(assignment=assignment(epoch=9)), before)
    assert probe_differs(situation(vm_address="10.0.8.50"), before)


def test_names() -> None:
    assert session_name("backend", "backend-server") == "orch-guard:backend@backend-server"
    service = agent_service(situation(), HERE, "active")
    assert (service.id, service.name, service.tags, service.port) == (
        "orch-frontend",
        "orch-frontend",
        ("active",),
        80,
    )
    assert dict(service.meta)["epoch"] == "7"
