"""Which copies of a replicated service's data may be promoted: those that hold every acknowledged write.

In: what KV says of the copies (`orch/services/S/sync`). Out: why a VM's copy may not be promoted, or None. "Nothing
says so" and "cannot be read" are refusals of their own: nobody is promoted on a guess.
"""

from __future__ import annotations

from orchestrator.domain import keys
from orchestrator.domain.decision import Unchanged
from orchestrator.domain.policy import ServicePolicy
from orchestrator.domain.view import Kept, ServiceView, Unreadable


def obstacle_to_promotion(name: str, service: ServicePolicy, seen: ServiceView, vm: str) -> str | None:
    """Say why the VM's copy of the data may not be promoted, or None when it may (or there is no data)."""
    if service.replication is None:
        return None
    if isinstance(seen.sync, Unreadable):
        return f"nobody can tell whether the copy of {name} on {vm} is whole: {seen.sync.key} cannot be read"
    if seen.sync is None:
        return f"nobody can tell whether the copy of {name} on {vm} is whole: there is no {keys.sync(name)}"
    if vm not in seen.sync.value.complete:
        whole = " and ".join(seen.sync.value.complete)
        return f"the copy of {name} on {vm} lacks acknowledged writes (only that of {whole} is whole)"
    return None


def whole_copies(seen: ServiceView) -> frozenset[str]:
    """Return the VMs whose copy holds every acknowledged write, as far as anybody can tell."""
    return frozenset(seen.sync.value.complete) if isinstance(seen.sync, Kept) else frozenset()


def sync_unchanged(name: str, seen: ServiceView) -> tuple[Unchanged, ...]:
    """Return the condition under which a choice by `obstacle_to_promotion` holds: the record is still the one seen."""
    return (Unchanged(keys.sync(name), seen.sync.index),) if isinstance(seen.sync, Kept) else ()
