"""The table of what can be the matter with a service, and what is done about it.

`DIAGNOSES` is the one place for these facts: docs/failures.md is generated from it, and the rules may only use
codes that stand here.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.domain.decision import Diagnosis


@dataclass(frozen=True, slots=True)
class Row:
    """One diagnosis: what it means, what is done, what is not done and why."""

    means: str
    done: str
    not_done: str = ""


DIAGNOSES: dict[str, Row] = {
    "fine": Row(
        "The active instance is healthy, holds the role lock, is where it is designated and gets the traffic.",
        "Nothing.",
    ),
    "moving": Row(
        "A move of the service is under way.",
        "Its next step is taken as soon as the one before is seen to be done; every step has a time limit.",
        "No second move of the same service starts; another request is refused with the id of the running one.",
    ),
    "unassigned": Row(
        "The service has never been assigned.",
        "It is assigned to its home, or to the first VM of its order that is up, and its activate play runs.",
        "While automation is paused or no VM of the order is up, it waits.",
    ),
    "assignment_unreadable": Row(
        "The value of the service's assignment in KV is not an assignment (somebody or something overwrote it).",
        "The last good one is written back, if this leader has seen it or the role lock's holder tells it.",
        "Where neither is known nothing moves: a guess could make two VMs active. An operator writes it back.",
    ),
    "active_down": Row(
        "The active instance fails its check, or its VM is not reachable by gossip.",
        "The service fails over to the best candidate: healthy ones first, then the designated VM, then the order.",
    ),
    "no_candidate": Row(
        "The active instance is down and no other VM can take the service.",
        "If its VM is still up, the service is started again in place (this counts as a failover).",
        "Otherwise everything stays as it is until a VM of the order can take it; endpoints keep the last good state.",
    ),
    "paused": Row(
        "Something should be done, but an operator paused automation.",
        "An operator's own requests are still carried out.",
        "No automatic failover, failback or rotation, until `orch resume`.",
    ),
    "held": Row(
        "The service failed over too often within the flapping window.",
        "It is held where it is.",
        "No automatic failover or failback until the hold is over or `orch resume SERVICE` acknowledges it.",
    ),
    "unlocked": Row(
        "The active instance is healthy but its guard does not hold the role lock at this epoch.",
        "The guard takes the lock by itself within a second.",
        "Traffic is not moved: the instance is healthy, and moving it would cost more than waiting.",
    ),
    "grace": Row(
        "The designated VM is healthy again while the service is active elsewhere.",
        "When it has been healthy without a break for `failback.grace_s`, the service comes home, make before break.",
    ),
    "displaced": Row(
        "The service is healthy, but not active where it is designated, and cannot go there yet.",
        "It comes home when what stands in the way is over.",
        "It stays where it is: the designated VM is down, in maintenance, failing, or automatic failback is off.",
    ),
    "rotation_waits": Row(
        "A rotation is due or was asked for, and no other VM can take the service.",
        "A forced one is refused with the reason and consumed; a due one is tried again after its interval.",
        "The service stays where it is: rotation never costs a healthy service.",
    ),
}


def diagnosis(
    code: str, service: str, sentence: str, *, action: str | None = None, because: str | None = None
) -> Diagnosis:
    """Return a diagnosis whose code stands in the table (KeyError is a bug)."""
    DIAGNOSES[code]
    return Diagnosis(code, service, sentence, action, because)
