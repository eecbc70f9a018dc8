"""Which copies of a replicated service's data may be promoted: those that hold every acknowledged write.

In: what KV says of the copies (`orch/services/S/sync`). Out: why a VM's copy may not be promoted, or None. "Nothing
says so" and "cannot be read" are refusals of their own: nobody is promoted on a guess.
"""

from __future__ import annotations

from datetime import datetime, timezone

from orchestrator.domain import keys
from orchestrator.domain.decision import Unchanged
from orchestrator.domain.policy import ServicePolicy
from orchestrator.domain.view import Kept, ServiceView, Unreadable


def obstacle_to_promotion(name: str, service: ServicePolicy, seen: ServiceView, vm: str, now: float) -> str | None:
    """Say why the VM's copy of the data may not be promoted, or None when it may (or there is no data)."""
    if service.replication is None:
        return None
    if isinstance(seen.sync, Unreadable):
        return f"nobody can tell whether the copy of {name} on {vm} is whole: {seen.sync.key} cannot be read"
    if seen.sync is None:
        return f"nobody can tell whether the copy of {name} on {vm} is whole: there is no {keys.sync(name)}"
    if vm not in seen.sync.value.complete:
        whole = " and ".join(seen.sync.value.complete)
        return f"the copy of {name} on {vm} {_lack_since(seen.sync.value.since, now)}: only that of {whole} is whole"
    return None


def loss_of(name: str, service: ServicePolicy, seen: ServiceView, vm: str, now: float) -> str | None:
    """Say what may be lost where the VM's copy is promoted on an operator's word; None where nothing is."""
    if obstacle_to_promotion(name, service, seen, vm, now) is None:
        return None
    if isinstance(seen.sync, Kept):
        return f"its copy {_lack_since(seen.sync.value.since, now)}"
    return "nobody can tell what its copy lacks"


def _lack_since(since: float, now: float) -> str:
    # The record is changed before the primary acknowledges alone, so whatever is older is in the other copy too.
    at = datetime.fromtimestamp(since, tz=timezone.utc)
    today = datetime.fromtimestamp(now, tz=timezone.utc).date() == at.date()
    clock = f"{at:%H:%M:%S}" if today else f"{at:%Y-%m-%d %H:%M:%S}"
    return f"may lack what was acknowledged since {clock} UTC ({_spoken(now - since)})"


def _spoken(seconds: float) -> str:
    """Return a length of time in the two units that tell most of it."""
    whole = max(0, round(seconds))
    minutes, s = divmod(whole, 60)
    hours, m = divmod(minutes, 60)
    if hours:
        return f"{hours} h {m} min"
    return f"{minutes} min {s} s" if minutes else f"{s} s"


def whole_copies(seen: ServiceView) -> frozenset[str]:
    """Return the VMs whose copy holds every acknowledged write, as far as anybody can tell."""
    return frozenset(seen.sync.value.complete) if isinstance(seen.sync, Kept) else frozenset()


def sync_unchanged(name: str, seen: ServiceView) -> tuple[Unchanged, ...]:
    """Return the condition under which a choice by `obstacle_to_promotion` holds: the record is still the one seen."""
    return (Unchanged(keys.sync(name), seen.sync.index),) if isinstance(seen.sync, Kept) else ()
