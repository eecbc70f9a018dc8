"""Who is a member of a service's cluster: the policy's members, one of them perhaps replaced by the spare.

In: the policy and what KV says (`orch/services/S/members`). Out: the membership, or why nobody can tell it. "Nothing
says so" means that nobody was ever replaced; "cannot be read" means that nobody is replaced on a guess.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.domain import keys
from orchestrator.domain.policy import ClusterPolicy, ServicePolicy
from orchestrator.domain.view import ServiceView, Unreadable


@dataclass(frozen=True, slots=True)
class Membership:
    """Which VMs form the cluster, and what is still to be done for that."""

    members: tuple[str, ...]
    replaced: str | None = None
    """The policy's member whose place the spare has."""
    joining: str | None = None
    """The member that the cluster has yet to take in; None: nothing is left to be done."""
    leaving: str | None = None


def membership_of(cluster: ClusterPolicy, seen: ServiceView) -> Membership | str:
    """Return who the members are, or say why nobody can tell."""
    if seen.members is None:
        return Membership(cluster.members)
    if isinstance(seen.members, Unreadable):
        return f"{seen.members.key} cannot be read"
    record = seen.members.value
    replaced = [vm for vm in cluster.members if vm not in record.members]
    fits = [cluster.spare if vm in replaced else vm for vm in cluster.members]
    if len(replaced) > 1 or set(record.members) != set(fits):
        return (
            f"{keys.members(seen.name)} names {', '.join(record.members)}, the policy {', '.join(cluster.members)}"
            + (f" and {cluster.spare} as the spare" if cluster.spare else " and no spare")
        )
    change = (record.joining, record.leaving)
    if change != (None, None) and not _is_change(change, record.members, (*cluster.members, cluster.spare)):
        return f"{keys.members(seen.name)} has {record.joining} join and {record.leaving} leave, which cannot be"
    return Membership(record.members, replaced[0] if replaced else None, *change)


def _is_change(change: tuple[str | None, str | None], members: tuple[str, ...], known: tuple[str | None, ...]) -> bool:
    """Say whether a member joins and one that is none any more leaves, the spare being one of the two."""
    joining, leaving = change
    is_swap = joining in members and leaving in known and leaving not in members
    return is_swap and None not in change and known[-1] in change


def obstacle_to_membership(name: str, service: ServicePolicy, seen: ServiceView, vm: str) -> str | None:
    """Say why the VM's broker is not to be started by the service's own plays, or None when it may be.

    One that the cluster has forgotten cannot start: it is taken back by a play of its own.
    """
    found = membership_of(service.cluster, seen) if service.cluster is not None else None
    if not isinstance(found, Membership):
        return None
    if vm == found.replaced:
        return f"{service.cluster.spare if service.cluster else None} has the place of {vm} in the cluster of {name}"
    return f"{vm} is being taken into the cluster of {name}" if vm == found.joining else None
