"""Failback: a service comes home when its designated VM has been healthy for the grace."""

from __future__ import annotations

from orchestrator.decide.candidates import obstacle_on
from orchestrator.decide.case import Case
from orchestrator.decide.diagnose import diagnosis
from orchestrator.decide.moves import rule_request, start
from orchestrator.decide.writing import of_case
from orchestrator.domain.decision import Decision, Diagnosis
from orchestrator.domain.records import RequestKind

Step = tuple[Decision | None, Diagnosis, float | None]


def consider_failback(case: Case) -> Step:
    """Return the failback of a healthy service that is not where it is designated, or why it waits."""
    home = case.designated
    away = f"{case.name} is active on {case.active}, designated is {home}"
    since = case.healthy_since(home)
    why = _obstacle(case, home, since)
    if why is not None or since is None:
        return (
            None,
            diagnosis("displaced", case.name, f"{away}; it stays there because {why}.", because=why),
            _wake(case),
        )
    due = since + case.policy.failback.grace_s
    if case.now < due:
        return _in_grace(case, home, since, due)
    reason = f"{home} has been healthy for {case.now - since:.0f} s, failback triggered"
    decision = start(case, rule_request(case, RequestKind.FAILBACK, home, reason), home, reason)
    return decision, diagnosis("grace", case.name, f"{reason}.", action=decision.code), None


def _wake(case: Case) -> float | None:
    return case.now_assigned.hold_until if case.hold_is_in_force else None


def _obstacle(case: Case, home: str, since: float | None) -> str | None:
    if not case.policy.failback.automatic:
        return "automatic failback is off"
    if case.view.paused is not None:
        return f"automation is paused by {case.view.paused.by}"
    if case.hold_is_in_force:
        return f"it is held for flapping (acknowledge with `orch resume {case.name}`)"
    obstacle = obstacle_on(case, home)
    if obstacle is not None:
        return obstacle
    if not case.has_guard(case.active):
        return f"the guard on {case.active} does not run and could not hand over"
    return f"{case.name} does not run on {home}" if since is None else None


def grace_key(case: Case, since: float) -> str:
    """Return what the memory notes so that the start of a grace is reported once."""
    return f"grace:{case.name}:{case.designated}:{since:.3f}"


def _in_grace(case: Case, home: str, since: float, due: float) -> Step:
    left = diagnosis(
        "grace", case.name, f"{case.name} has recovered on {home}; failback in {due - case.now:.0f} s.", action="wait"
    )
    if grace_key(case, since) in case.memory.announced:
        return None, left, due
    grace_s = case.policy.failback.grace_s
    sentence = f"{case.name} has recovered on {home}; the grace of {grace_s:g} s has started."
    return of_case(case, "grace", sentence, vm=home), left, due
