"""What a VM that is well says of itself, to be changed by the tests."""

from __future__ import annotations

from typing import Any

from orchestrator.cli.fleet import Fleet, look
from orchestrator.doctor.facts import FORMAT, Asked, DiskFacts, FileFacts, UnitFacts, VmFacts
from orchestrator.doctor.findings import Finding
from tests.unit.cli.world import NOW, VMS, World

ON = UnitFacts(load="loaded", active="active", enabled="enabled")
OFF = UnitFacts(load="loaded", active="inactive", enabled="disabled")
ABSENT = UnitFacts(load="not-found", active="inactive", enabled="")


def well(vm: str = "backend-server", **changes: Any) -> VmFacts:
    """Return the facts of a VM on which nothing is wrong."""
    fields: dict[str, Any] = {
        "format": FORMAT,
        "vm": vm,
        "orch": "0.1.0",
        "started": NOW + 0.3,
        "ended": NOW + 0.5,
        "secrets": (
            FileFacts(path="/etc/orch/amqp/worker_password", mode=0o600, owner="orch", group="orch", belongs_to="orch"),
        ),
        "dns": VMS[vm]["address"],
        "disks": (DiskFacts(path="/", size=100 * 2**30, free=50 * 2**30, inodes_free=0.9),),
    }
    return VmFacts(**(fields | changes))


def answered(vm: str = "backend-server", **changes: Any) -> dict[str, Asked]:
    """Return what asking it came to."""
    return {vm: Asked(facts=well(vm, **changes), sent=NOW, answered=NOW + 0.6)}


def seen(world: World) -> Fleet:
    """Return the fleet as Consul tells it."""
    fleet = look(world.port(), NOW)
    assert isinstance(fleet, Fleet)
    return fleet


def told(found: Any) -> list[str]:
    """Return each finding as one line: how bad, about what, what is wrong."""
    return [f"{one.severity.value} {one.subject}: {one.wrong}" for one in found if isinstance(one, Finding)]
