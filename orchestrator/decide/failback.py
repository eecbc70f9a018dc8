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

LOOK_AGAIN_S = 0.05


def consider_failback(case: Case) -> Step:
    """Return the failback of a healthy service that is not where it is designated, or why it waits."""
    home = case.designated
    away = f"{case.name} is active on {case.active}, designated is {home}"
    since = case.fit_since
    why = _obstacle(case, home)
    if why is not None or since is None:
        return (
            None,
            diagnosis("displaced", case.name, f"{away}; it stays there because {why}.", because=why),
            _wake(case),
        )
    due = since + case.policy.failback.grace_s
    if case.now < due or not case.grace_is_announced:
        # Announced even when the grace has passed meanwhile (Consul did not answer): the journal has no gaps.
        return _in_grace(case, home, due)
    has_been = "up" if case.is_new_on(home) else "healthy"
    reason = f"{home} has been {has_been} for {case.now - since:.0f} s, failback triggered"
    decision = start(case, rule_request(case, RequestKind.FAILBACK, home, reason), home, reason)
    return decision, diagnosis("grace", case.name, f"{reason}.", action=decision.code), None


def _wake(case: Case) -> float | None:
    return case.now_assigned.hold_until if case.hold_is_in_force else None


def _obstacle(case: Case, home: str) -> str | None:
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
    return f"{case.name} does not run on {home}" if case.fit_since is None else None


def grace_key(service: str, home: str, since: float) -> str:
    """Return what the memory notes so that the start of a grace is reported once."""
    return f"grace:{service}:{home}:{since:.3f}"


def _in_grace(case: Case, home: str, due: float) -> Step:
    recovered = f"{home} can take {case.name}" if case.is_new_on(home) else f"{case.name} has recovered on {home}"
    left = diagnosis("grace", case.name, f"{recovered}; failback in {max(0.0, due - case.now):.0f} s.")
    if case.grace_is_announced:
        return None, left, due
    sentence = f"{recovered}; the grace of {case.policy.failback.grace_s:g} s has started."
    # Only the journal changes, which nobody watches: so look again by the clock.
    return of_case(case, "grace", sentence, vm=home), left, max(due, case.now + LOOK_AGAIN_S)
