"""Which copies of a replicated service's data may be promoted: those that hold every acknowledged write.

In: what KV says of the copies (`orch/services/S/sync`). Out: why a VM's copy may not be promoted, or None. "Nothing
says so" and "cannot be read" are refusals of their own: nobody is promoted on a guess.
"""

from __future__ import annotations

from datetime import datetime, timezone

from orchestrator.domain import keys
from orchestrator.domain.decision import Unchanged
from orchestrator.domain.gtid import behind_at_least
from orchestrator.domain.policy import ServicePolicy
from orchestrator.domain.records import Request, Sync
from orchestrator.domain.view import Kept, ServiceView, Unreadable


def obstacle_to_promotion(name: str, service: ServicePolicy, seen: ServiceView, vm: str, now: float) -> str | None:
    """Say why the VM's copy of the data may not be promoted, or None when it may (or there is no data)."""
    if service.replication is None:
        return None
    if isinstance(seen.sync, Unreadable):
        return f"nobody can tell whether the copy of {name} on {vm} is whole: {seen.sync.key} cannot be read"
    if seen.sync is None:
        return f"nobody can tell whether the copy of {name} on {vm} is whole: there is no {keys.sync(name)}"
    known = seen.sync.value
    if vm not in known.complete:
        whole = " and ".join(known.complete)
        lacks = f"{_lack_since(known.since, now)}{_reported(known, now)}"
        return f"the copy of {name} on {vm} {lacks}: only that of {whole} is whole"
    return None


def loss_of(name: str, service: ServicePolicy, seen: ServiceView, vm: str, now: float) -> str | None:
    """Say what may be lost where the VM's copy is promoted on an operator's word; None where nothing is."""
    if obstacle_to_promotion(name, service, seen, vm, now) is None:
        return None
    if isinstance(seen.sync, Kept):
        known = seen.sync.value
        then = f", when {known.primary} was at {known.position}" if known.position else ""
        return f"its copy {_lack_since(known.since, now)}{then}{_reported(known, now)}"
    return "nobody can tell what its copy lacks"


def loss_told(request: Request, seen: ServiceView) -> str:
    """Say at the end of a move what `loss_of` said at its beginning, and how many transactions that is, as a clause.

    The number is known where the previous primary could still say where its copy ends; where it could not, how many it
    had reported at least. Empty where nothing was lost.
    """
    if request.loss is None:
        return ""
    sync = seen.sync.value if isinstance(seen.sync, Kept) else None
    if sync is None or (sync.primary, sync.epoch) != (request.target, request.epoch):
        return f"{request.loss}; how many transactions that is, is not known"
    last = "the whole copy" if request.previous in (None, request.target) else request.previous
    ends = f"; its own ends at {sync.position}" if sync.position else ""
    if sync.lacks is not None and sync.lacks_by is None:
        return f"{request.loss}; it lacks {_transactions(sync.lacks)} of what {last} had"
    if sync.lacks is not None and sync.lacks_by is not None:
        count, clock = _transactions(sync.lacks), f"{datetime.fromtimestamp(sync.lacks_by, tz=timezone.utc):%H:%M:%S}"
        at_least = "at least " if sync.lacks else ""
        return (
            f"{request.loss}; it lacks {at_least}{count} of what {last} had reported by {clock} UTC, "
            f"what {last} took later nobody could say{ends}"
        )
    return f"{request.loss}; how many transactions that is, is not known: nobody could say where {last} ended{ends}"


def _transactions(number: int) -> str:
    return "1 transaction" if number == 1 else f"{number or 'no'} transactions"


def _reported(known: Sync, now: float) -> str:
    """Say how much the only whole copy has taken since it is that, by its last report; empty where it has sent none."""
    if known.position is None or known.reported is None or known.reported_at is None:
        return ""
    number = behind_at_least(known.position, known.reported)
    if number is None:
        return ""
    return f", {_transactions(number)} by the last report of {known.primary} {_spoken(now - known.reported_at)} ago"


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
