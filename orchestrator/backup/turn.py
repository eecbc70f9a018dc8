"""Which VM makes a backup of what: exactly one, so that a fleet does not keep every day several times. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.domain.records import Assignment, Sync


@dataclass(frozen=True, slots=True)
class Turn:
    """The VM whose turn it is, and why it."""

    vm: str
    why: str


def turn_for_database(assignment: Assignment, sync: Sync | None, up: frozenset[str]) -> Turn:
    """Return a standby that has every acknowledged write and is up, which spares the active; else the active."""
    if sync is not None and sync.epoch == assignment.epoch:
        for vm in sync.complete:
            if vm != assignment.active and vm in up:
                return Turn(vm, f"its copy of {assignment.service} has every acknowledged write, and serves nobody")
    return Turn(assignment.active, f"it is the active one of {assignment.service}, and no standby has every write")


def turn_for_consul(leader: str) -> Turn:
    """Return the VM of the leading controller: any controller would do, and there is one leader."""
    return Turn(leader, "its controller leads")
