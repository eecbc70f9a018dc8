"""Requests that move nothing, beside the active that serves: starts of hot standbys, changes of a cluster's members.

In: the case of a service and such a request. Out: whether it is over, how and why, or when to look at it again.
Whatever moves the service overtakes them; attempts in vain are repeated after pauses that grow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from orchestrator.decide.case import UNHEARD_S, Case
from orchestrator.decide.plays import wait_for
from orchestrator.domain.decision import Decision, Diagnosis
from orchestrator.domain.records import Command, Request, RequestState
from orchestrator.domain.view import Kept

# What else is decided for the service shows in the next view, or nowhere: then the clock has to wake the leader.
LOOK_AGAIN_S = 0.05
FIRST_PAUSE_S = 10.0
"""After the first attempt in vain; each further one within `RECENT_S` doubles it."""
LONGEST_PAUSE_S = 300.0
RECENT_S = 1800.0

End = tuple[RequestState, str]
"""How a request ends, and why."""

ENDED = {
    RequestState.SUCCEEDED: "is done",
    RequestState.FAILED: "failed",
    RequestState.SUPERSEDED: "is overtaken",
    RequestState.CANCELLED: "is cancelled",
}


@dataclass(frozen=True, slots=True)
class Tended:
    """What one look at what goes on beside a service came to."""

    decisions: tuple[Decision, ...] = ()
    diagnoses: tuple[Diagnosis, ...] = ()
    wake_at: float | None = None


def pause_after(times: int) -> float:
    """Return the seconds from the last of so many attempts in vain, one at least, to the next."""
    return float(min(FIRST_PAUSE_S * 2.0 ** (times - 1), LONGEST_PAUSE_S))


def ends_of(
    running: Iterable[Kept[Request]],
    fate_of: Callable[[Request], End | float],
    ending: Callable[[Kept[Request], RequestState, str], Decision],
) -> tuple[tuple[Decision, ...], float | None]:
    """Return the ends of those that are over, and when to look at the others again."""
    ended: list[Decision] = []
    wakes: list[float] = []
    for kept in running:
        found = fate_of(kept.value)
        if isinstance(found, float):
            wakes.append(found)
        else:
            ended.append(ending(kept, *found))
    return tuple(ended), min(wakes, default=None)


def overtaken(case: Case, request: Request) -> End | float | None:
    """Say what overtook the request, or when to look again; None while it is not overtaken."""
    epoch, heard_by = case.now_assigned.epoch, request.created + UNHEARD_S
    if request.epoch is not None and request.epoch > epoch and case.now < heard_by:
        return heard_by
    if request.epoch != epoch:
        return RequestState.SUPERSEDED, f"the epoch is {epoch}"
    if case.move is not None:
        return RequestState.SUPERSEDED, f"the {case.move.value.kind.value} of {case.name} has begun"
    return None


def unfinished(case: Case, request: Request, command: Command | None) -> End | float:
    """Say until when a command that is not final, or not there, is waited for, or that it was long enough."""
    if command is None:
        # KV prefixes are watched apart: its command may be seen a moment later.
        until, why = request.created + UNHEARD_S, "its command is gone"
    else:
        wait = wait_for(case, command)
        until, why = wait.until, wait.why
    return (RequestState.FAILED, why) if case.now >= until else until
