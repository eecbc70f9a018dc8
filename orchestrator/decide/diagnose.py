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
        "While automation is paused or no VM of the order is up, it waits. A replicated service is founded at home "
        "only, and not where its record of whole copies says that it was served before.",
    ),
    "assignment_unreadable": Row(
        "The service's assignment in KV was overwritten with something else, or deleted.",
        "It is restored from what tells the newest epoch: the running request, the role lock's holder, the endpoints, "
        "or the last good one that this leader has seen. The epoch never goes back.",
        "Where none of them tells, nothing moves: a guess could make two VMs active. An operator writes it back.",
    ),
    "active_down": Row(
        "The active instance fails its check, or is neither registered nor holding the role lock; its VM is not "
        "reachable by gossip; or it never got the traffic and no guard runs there to take the lock.",
        "The service fails over to the best candidate: healthy ones first, then the designated VM, then the order.",
        "A VM that is down, in maintenance, without a guard, or where the service fails its check is no candidate, nor "
        "one whose copy of the service's data lacks acknowledged writes: only an operator's `orch failover SERVICE "
        "--accept-data-loss` goes there.",
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
    "gossip_settles": Row(
        "Gossip calls the active VM unreachable just after a lost quorum, or while another VM is or has just been.",
        "If it still does after a second (after a lost quorum: six), the service fails over.",
        "Nothing moves on it before: servers that did not see each other still hold each other for failed.",
    ),
    "held": Row(
        "The service failed over too often within the flapping window.",
        "It is held where it is.",
        "No automatic failover or failback until the hold is over or `orch resume SERVICE` acknowledges it.",
    ),
    "unlocked": Row(
        "The active instance is not down, but not seen healthy with the role lock of this epoch either; so it is for "
        "about a second after its VM's Consul agent was restarted.",
        "The guard takes the lock by itself within a second.",
        "Nothing is moved or stopped meanwhile: endpoints and standbys stay as they are.",
    ),
    "unready": Row(
        "The active instance of a replicated service holds the role lock and takes no traffic: its copy of the data "
        "is being promoted, or cannot be.",
        "If it is not ready within `dispatch.activation_timeout_s`, the service fails over to a VM whose copy is "
        "whole.",
        "Without such a VM it stays there: only an operator's `orch failover SERVICE --accept-data-loss` promotes a "
        "copy that may lack acknowledged writes, also the one where the service is active.",
    ),
    "grace": Row(
        "The designated VM is healthy again while the service is active elsewhere.",
        "When it has been healthy without a break for `failback.grace_s`, the service comes home, make before break. A "
        "designated VM that never served it (home was down at the first assignment, or the order changed) is started "
        "by its play first.",
        "A move home that failed or was cancelled starts the grace anew.",
    ),
    "displaced": Row(
        "The service is healthy, but not active where it is designated, and cannot go there yet.",
        "It comes home when what stands in the way is over.",
        "It stays where it is: the designated VM is down, in maintenance or without a guard, the service fails or was "
        "stopped there, or automatic failback is off.",
    ),
    "standby_missing": Row(
        "A VM of the order of a hot service has no standby that is healthy and among the endpoints; of a replicated "
        "service: none that is healthy and in sync.",
        "Its activate play runs there: 3 s after it was first seen absent, 10 s after it was first seen failing. The "
        "next start comes 10 s after the last one at the earliest, twice as long for each further one within 30 min, "
        "5 min at most; a standby that stayed healthy for 30 s ends that count. Whatever moves the service supersedes "
        "a start.",
        "Nothing is started while automation is paused, while the service moves or is not served, or where the VM is "
        "down, in maintenance or without a guard. To have a hot standby stopped, take its VM into maintenance.",
    ),
    "member_away": Row(
        "A member of a service's cluster is away: its VM is not reachable by gossip, or its broker fails its check.",
        "When it has been away without a break for `cluster.replace_after_s`, the spare takes its place, while the "
        "other members are well: it joins the cluster and gets a replica of each queue; only then is the lost member "
        "forgotten, if every queue has a running replica on each of the others. A change that fails is tried again "
        "after 10 s, twice as long for each further time, 5 min at most.",
        "Nobody is replaced while automation is paused, while the member or the spare is in maintenance, while the "
        "service moves or is active on that VM, where the spare is down or has the place of another member, or where "
        "too few of the others are well.",
    ),
    "member_replaced": Row(
        "The spare has the place of a member of a service's cluster, or a change of the cluster is under way.",
        "When the member's VM has been up, with its guard, for `failback.grace_s` without a break, it is taken back: "
        "its broker begins anew, joins and gets a replica of each queue; then the spare leaves and is stopped.",
        "The spare stays while that VM is down, in maintenance or without a guard, while the spare is in maintenance, "
        "while automation is paused and while too few of the other members are well.",
    ),
    "members_unknown": Row(
        "What KV says of the members of a service's cluster cannot be read, or contradicts the policy.",
        "The service itself goes on: nothing but the members depends on that record.",
        "Nobody is replaced or taken back until an operator has compared it with `rabbitmqctl cluster_status` and "
        "written it back; where the policy is right, the record is deleted.",
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
