"""Reports: what the verbs answer, as plain dictionaries with stable keys. Pure.

In: the fleet as read, what decide() said. Out: the JSON answer, which `cli/render.py` also renders for people, so
that the two can never say different things.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from orchestrator.decide.case import Case, reachable_vms
from orchestrator.decide.cluster import membership_of
from orchestrator.decide.standbys import missing_standbys
from orchestrator.domain import keys
from orchestrator.domain.decision import Decision, Delete, Diagnosis, Outcome, Unchanged
from orchestrator.domain.policy import Policy
from orchestrator.domain.records import Record
from orchestrator.domain.view import Kept, ServiceView, Unreadable, View

if TYPE_CHECKING:
    from orchestrator.cli.fleet import Fleet

Report = dict[str, Any]

EMPTY_STATUS: Mapping[str, Any] = {
    "healthy": False,
    "problem": None,
    "quorum": True,
    "leader": None,
    "paused": None,
    "services": {},
    "vms": {},
    "moves": [],
    "commands": [],
    "diagnoses": [],
    "unreadable": [],
}


def age(seconds: float) -> str:
    """Return a duration as people say it, in its two largest units."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole} s"
    units = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
    parts: list[str] = []
    for size, name in units:
        count, whole = divmod(whole, size)
        if count or parts:
            parts.append(f"{count} {name}")
    return " ".join(part for part in parts[:2] if not part.startswith("0 "))


def record(value: Record) -> Report:
    """Return a record as it stands in KV, without its format, which is for other releases of orch."""
    return value.model_dump(mode="json", exclude_none=True, exclude={"format"})


# -- status --------------------------------------------------------------------------------------------------


def status(fleet: Fleet, outcome: Outcome) -> Report:
    """Return the answer of `orch status`.

    `healthy` means: every service is served where it is designated, by the holder of its lock, with the traffic
    pointed there, with every hot standby beside it (`standbys_missing`: where one is not healthy and among the
    endpoints), and with every member of its cluster well; every VM and daemon is up; a controller leads; nothing is
    held. `quorum` is always true: without it nothing could be read, and the verb ends with exit 7.
    """
    view, policy = fleet.view, fleet.policy
    services = {
        name: {**service(view.services[name], policy, fleet.at), "standbys_missing": _standbys_missing(name, fleet)}
        for name in policy.services
    }
    vms = {name: _vm(name, fleet) for name in policy.vms}
    unreadable = [{"key": bad.key, "problem": bad.problem} for bad in _unreadable(view)]
    return {
        **EMPTY_STATUS,
        "at": fleet.at,
        "healthy": _is_healthy(services, vms) and fleet.leader is not None and not unreadable,
        "leader": fleet.leader,
        "paused": record(view.paused) if view.paused else None,
        "services": services,
        "vms": vms,
        "moves": [record(kept.value) for kept in view.requests if not kept.value.is_final],
        "commands": [record(kept.value) for kept in view.commands if not kept.value.is_final],
        "diagnoses": diagnoses(outcome.diagnoses),
        "unreadable": unreadable,
    }


def service(seen: ServiceView, policy: Policy, at: float) -> Report:
    """Return what is known of one service."""
    kept, order = seen.assignment, policy.services[seen.name].order
    report: Report = {
        "standby": policy.services[seen.name].standby,
        "active": None,
        "designated": None,
        "epoch": None,
        "since": None,
        "reason": None,
        "lock_holder": seen.lock.holder if seen.lock else None,
        "endpoints": _endpoints(seen),
        "instances": {vm: seen.state_on(vm).value for vm in order},
        "whole_copies": list(seen.sync.value.complete) if isinstance(seen.sync, Kept) else None,
        "cluster": _cluster(seen, policy),
        "hold_until": None,
        "healthy": False,
        "problem": f"the assignment cannot be read: {kept.problem}" if isinstance(kept, Unreadable) else None,
    }
    if not isinstance(kept, Kept):
        return report
    now_assigned = kept.value
    held = now_assigned.hold_until is not None and now_assigned.hold_until > at
    return report | {
        "active": now_assigned.active,
        "designated": now_assigned.designated,
        "epoch": now_assigned.epoch,
        "since": now_assigned.since,
        "reason": now_assigned.reason,
        "hold_until": now_assigned.hold_until if held else None,
        "healthy": seen.is_served,
    }


def _cluster(seen: ServiceView, policy: Policy) -> Report | None:
    """Return the members of the service's cluster, and whom the spare replaces; None where it has no cluster.

    `members` is null where nobody can tell, because of `problem`. A broker that is not registered is `absent`.
    `healthy`: the members are those of the policy, and each is healthy.
    """
    cluster = policy.services[seen.name].cluster
    if cluster is None:
        return None
    found = membership_of(cluster, seen)
    report: Report = {
        "members": None,
        "spare": cluster.spare,
        "replaced": None,
        "joining": None,
        "healthy": False,
        "problem": found if isinstance(found, str) else None,
    }
    if isinstance(found, str):
        return report
    states = {vm: seen.brokers[vm].state.value if vm in seen.brokers else "absent" for vm in found.members}
    in_place = found.replaced is None and found.joining is None
    return report | {
        "members": states,
        "replaced": found.replaced,
        "joining": found.joining,
        "healthy": in_place and set(states.values()) == {"healthy"},
    }


def _standbys_missing(name: str, fleet: Fleet) -> list[str]:
    seen, policy = fleet.view.services[name], fleet.policy
    if not isinstance(seen.assignment, Kept):
        return []
    up = reachable_vms(fleet.view, policy)
    case = Case(name, fleet.view, seen, policy, policy.services[name], seen.assignment, fleet.at, up)
    return list(missing_standbys(case))


def _is_healthy(services: Mapping[str, Report], vms: Mapping[str, Report]) -> bool:
    home = all(s["healthy"] and s["active"] == s["designated"] and not s["hold_until"] for s in services.values())
    whole = not any(s["standbys_missing"] or (s["cluster"] and not s["cluster"]["healthy"]) for s in services.values())
    return home and whole and all(vm["reach"] == "up" and all(vm["daemons"].values()) for vm in vms.values())


def _endpoints(seen: ServiceView) -> list[Report]:
    return [record(e) for e in seen.endpoints.value.endpoints] if isinstance(seen.endpoints, Kept) else []


def _vm(name: str, fleet: Fleet) -> Report:
    seen, policy = fleet.view.vms[name], fleet.policy.vms[name]
    return {
        "address": policy.address,
        "reach": seen.reach.value,
        "load": seen.load.value,
        "maintenance": record(seen.maintenance) if seen.maintenance else None,
        "roles": list(policy.roles),
        "daemons": {daemon: fleet.is_alive(daemon, name) for daemon in ("guard", *policy.roles)},
    }


def _unreadable(view: View) -> Iterable[Unreadable]:
    yield from view.unreadable
    for seen in view.services.values():
        for found in (seen.assignment, seen.endpoints, seen.rotation, seen.sync, seen.members):
            if isinstance(found, Unreadable):
                yield found


# -- plan ----------------------------------------------------------------------------------------------------


def plan(outcome: Outcome, only: str | None = None) -> Report:
    """Return what decide() would have done; with `only`, about that service alone."""
    made = [d for d in outcome.decisions if only is None or d.service == only]
    found = [d for d in outcome.diagnoses if only is None or d.service in (only, None)]
    return {
        "sentence": outcome.sentence,
        "decisions": [_decision(d) for d in made],
        "diagnoses": diagnoses(found),
        "wake_at": outcome.wake_at,
    }


def _decision(made: Decision) -> Report:
    writes = [
        f"{'delete' if isinstance(change, Delete) else 'write'} {change.key}"
        for change in made.changes
        if not isinstance(change, Unchanged) and not change.key.startswith(keys.HISTORY)
    ]
    return {
        "code": made.code,
        "service": made.service,
        "sentence": made.sentence,
        "writes": writes,
        "commands": [record(command) for command in made.commands],
    }


def diagnoses(found: Iterable[Diagnosis]) -> list[Report]:
    """Return diagnoses as JSON-able dictionaries."""
    return [
        {
            "code": d.code,
            "service": d.service,
            "sentence": d.sentence,
            "action": d.action,
            "not_actionable_because": d.not_actionable_because,
        }
        for d in found
    ]
