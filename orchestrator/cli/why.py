"""`orch why`: the chain from observation to decision for a service's present state."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import click

from orchestrator.cli import report
from orchestrator.cli.app import App, json_option
from orchestrator.cli.fleet import Fleet, read_fleet, records_under, unknown_service
from orchestrator.cli.names import complete_services
from orchestrator.cli.report import age, record
from orchestrator.cli.steps import steps_of
from orchestrator.domain import keys
from orchestrator.domain.decision import Outcome
from orchestrator.domain.records import Assignment, Command, HistoryEntry, Request, RequestKind
from orchestrator.domain.view import Kept, Unreadable
from orchestrator.store.port import Check

ENTRIES = 6


@click.command()
@click.argument("service", shell_complete=complete_services)
@json_option
@click.pass_obj
def why(app: App, service: str) -> None:
    """Say why a service is where it is, from observation to decision.

    What was seen, what was decided and by which rule or whom, what was run, what the checks say now, and what
    follows from it.
    """
    fleet = read_fleet(app)
    if service not in fleet.policy.services:
        raise unknown_service(service, fleet.policy)
    found = why_report(fleet, app.decide(fleet.view, fleet.memory, fleet.policy, fleet.at), service)
    if app.as_json:
        app.answer(found)
        return
    from orchestrator.cli import render

    app.show(render.why(found))


def why_report(fleet: Fleet, outcome: Outcome, service: str) -> dict[str, Any]:
    """Return the records of the chain and, under `chain`, the same as sentences in the order of the story."""
    kept = fleet.view.services[service].assignment
    assignment = kept.value if isinstance(kept, Kept) else None
    entries = [e for e in records_under(keys.HISTORY, HistoryEntry, fleet.pairs)[0] if e.service == service]
    request = _request_of(fleet, assignment)
    commands = [c for c in records_under(keys.COMMANDS, Command, fleet.pairs)[0] if c.service == service]
    mine = [c for c in commands if request is not None and c.request_id == request.id]
    checks = _checks_of(fleet, service)
    planned = report.plan(outcome, only=service)
    return {
        "service": service,
        "state": _state(service, kept, fleet.at),
        "assignment": record(assignment) if assignment else None,
        "request": record(request) if request else None,
        "commands": [record(command) for command in mine],
        "checks": [{"vm": c.node, "check": c.check_id, "status": c.status, "output": c.output} for c in checks],
        "diagnoses": [d for d in planned["diagnoses"] if d["service"] == service],
        "decisions": planned["decisions"],
        "history": [record(entry) for entry in entries[-ENTRIES:]],
        "chain": {
            "It is there because": _because(assignment, request),
            "What was done for that": _done(request, mine, fleet.at),
            "What was done for its hot standbys": _beside(fleet, service, RequestKind.STANDBY),
            "What was done for its cluster": _beside(fleet, service, RequestKind.MEMBER),
            "What the checks say now": [_check_line(check) for check in checks],
            "What follows now": _follows(fleet, service, planned),
            "The journal": [f"{age(fleet.at - e.at):>12} ago  {e.kind}: {e.reason}" for e in entries[-ENTRIES:]],
        },
    }


def _state(service: str, kept: Kept[Assignment] | Unreadable | None, at: float) -> str:
    if kept is None:
        return f"{service} has no assignment yet."
    if isinstance(kept, Unreadable):
        return f"the assignment of {service} cannot be read: {kept.problem}"
    now = kept.value
    apart = "" if now.active == now.designated else f", although {now.designated} is its designated VM"
    return f"{service} is active on {now.active} (epoch {now.epoch}, for {age(at - now.since)}){apart}."


def _request_of(fleet: Fleet, assignment: Assignment | None) -> Request | None:
    requests, _ = records_under(keys.REQUESTS, Request, fleet.pairs)
    return next((r for r in requests if assignment is not None and r.id == assignment.request_id), None)


def _because(assignment: Assignment | None, request: Request | None) -> list[str]:
    if assignment is None:
        return []
    lines = [f"{assignment.kind.value}: {assignment.reason}"]
    if request is not None:
        reason = f" ({request.reason})" if request.reason and request.reason not in assignment.reason else ""
        lines.append(f"request {request.id}, asked for by {request.origin}{reason}: {request.state.value}")
    return lines


def _done(request: Request | None, commands: Iterable[Command], at: float) -> list[str]:
    if request is None:
        return []
    steps = steps_of(request, commands)
    ended = [request.outcome] if request.outcome else []
    return [f"{step.at - request.created:+6.1f} s  {step.text}" for step in steps] + ended


_BEGUN = {RequestKind.STANDBY: "started on", RequestKind.MEMBER: "taken in:"}


def _beside(fleet: Fleet, service: str, kind: RequestKind) -> list[str]:
    """Tell what was last begun on each VM beside the active, and what came of it."""
    last: dict[str | None, Request] = {}
    for request in sorted(records_under(keys.REQUESTS, Request, fleet.pairs)[0], key=lambda r: (r.created, r.id)):
        if request.service == service and request.kind is kind:
            last[request.target] = request
    return [
        f"{age(fleet.at - r.created):>12} ago  {_BEGUN[kind]} {vm} ({r.reason}): {r.state.value}"
        + (f", {r.outcome}" if r.outcome else "")
        for vm, r in last.items()
    ]


def _checks_of(fleet: Fleet, service: str) -> list[Check]:
    """The checks that the service's state is derived from: its instances', and the reach of the VMs of its order."""
    order = fleet.policy.services[service].order
    mine = (keys.probe_check_id(service), keys.unit_check_id(service), keys.SERF_HEALTH)
    found = [c for c in fleet.checks if c.node in order and c.check_id in mine]
    return sorted(found, key=lambda c: (order.index(c.node), mine.index(c.check_id)))


def _check_line(check: Check) -> str:
    said = next((line.strip() for line in check.output.splitlines() if line.strip()), "")
    return f"{check.node}: {check.check_id} is {check.status}{': ' + said if said else ''}"


def _follows(fleet: Fleet, service: str, planned: dict[str, Any]) -> list[str]:
    seen = fleet.view.services[service]
    lines = []
    for found in planned["diagnoses"]:
        because = found["not_actionable_because"]
        lines.append(found["sentence"] + (f" Nothing is done: {because}." if because else ""))
    lines += [f"the leader would now do this: {made['sentence']}" for made in planned["decisions"]]
    holder = seen.lock.holder if seen.lock else None
    lines.append(f"the role lock is held by {holder}" if holder else "nobody holds the role lock")
    if isinstance(seen.endpoints, Kept):
        lines.append(f"traffic is pointed at {', '.join(e.vm for e in seen.endpoints.value.endpoints)}")
    return lines
