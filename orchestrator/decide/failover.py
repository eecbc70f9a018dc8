"""Failover: what to do when the active instance is down."""

from __future__ import annotations

from orchestrator.decide.candidates import candidates_for, why_none
from orchestrator.decide.case import Case
from orchestrator.decide.diagnose import diagnosis
from orchestrator.decide.moves import rule_request, start
from orchestrator.decide.writing import of_case, put_assignment
from orchestrator.domain.decision import Decision, Diagnosis
from orchestrator.domain.records import RequestKind

Step = tuple[Decision | None, Diagnosis, float | None]


def what_failed(case: Case) -> str:
    """Say what is wrong with the active instance, with the check's own words."""
    if not case.is_up(case.active):
        return f"{case.active} is not reachable"
    instance = case.seen.instances.get(case.active)
    if instance is None:
        return f"{case.name} is not running on {case.active}"
    if case.is_healthy_on(case.active):
        return f"the guard on {case.active} does not run and cannot take the role lock of {case.name}"
    words = " ".join(instance.output.split())[:160]
    return f"{case.name} fails its check on {case.active}" + (f" ({words})" if words else "")


def consider_failover(case: Case) -> Step:
    """Return the failover of a service whose active is down, or why there is none."""
    failed = what_failed(case)
    if case.view.paused is not None:
        why = f"automation is paused by {case.view.paused.by}"
        return None, diagnosis("paused", case.name, f"{failed}, but {why}.", because=why), None
    doubted = _doubt(case, failed)
    if doubted is not None:
        return doubted
    held = _hold(case, failed)
    if held is not None:
        return held
    target = next(iter(candidates_for(case)), None)
    if target is None:
        return _restart_in_place(case, failed)
    decision = start(case, rule_request(case, RequestKind.FAILOVER, target, failed), target, failed)
    return decision, diagnosis("active_down", case.name, f"{failed}.", action=decision.code), None


def consider_unready(case: Case, since: float) -> Step:
    """Return the failover of a service whose active holds the role lock and does not come to take traffic, or why not.

    Its copy of the data may not be promoted after all (it lost what it had received), or cannot be.
    """
    failed = f"{case.active} holds the role lock of {case.name} and is not ready for traffic"
    due = since + case.policy.dispatch.activation_timeout_s
    if case.now < due:
        why = "its copy of the data is promoted first"
        return None, diagnosis("unready", case.name, f"{failed} yet: {why}.", because=why), due
    if case.view.paused is not None:
        why = f"automation is paused by {case.view.paused.by}"
        return None, diagnosis("paused", case.name, f"{failed}, but {why}.", because=why), None
    held = _hold(case, failed)
    if held is not None:
        return held
    target = next(iter(candidates_for(case)), None)
    if target is None or not case.has_guard(case.active):
        why = why_none(case) if target is None else f"the guard on {case.active} does not run and could not hand over"
        return None, diagnosis("unready", case.name, f"{failed}, and it stays there: {why}.", because=why), None
    decision = start(case, rule_request(case, RequestKind.FAILOVER, target, failed), target, failed)
    return decision, diagnosis("unready", case.name, f"{failed}.", action=decision.code), None


def _doubt(case: Case, failed: str) -> Step | None:
    """Return why gossip is not believed yet; None where it is, or where it is not gossip that says so."""
    doubt = case.doubts.get(case.active)
    if doubt is None:
        return None
    return None, diagnosis("gossip_settles", case.name, f"{failed}, but {doubt.why}.", because=doubt.why), doubt.until


def _hold(case: Case, failed: str) -> Step | None:
    assignment, flapping = case.now_assigned, case.policy.flapping
    if case.hold_is_in_force:
        until = assignment.hold_until or case.now
        why = (
            f"{case.name} is held after {len(assignment.failovers)} failovers within {flapping.window_s:g} s, "
            f"for {until - case.now:.0f} s more or until `orch resume {case.name}`"
        )
        return None, diagnosis("held", case.name, f"{failed}, but {why}.", because=why), until
    recent = [t for t in assignment.failovers if case.now - t < flapping.window_s]
    if assignment.hold_until is not None or len(recent) < flapping.max_failovers:
        return None
    until = case.now + flapping.hold_s
    sentence = (
        f"{failed}, and {case.name} has failed over {len(recent)} times within {flapping.window_s:g} s: "
        f"automatic moves are held for {flapping.hold_s:g} s or until `orch resume {case.name}`."
    )
    decision = of_case(case, "hold", sentence, put_assignment(case, hold_until=until))
    return decision, diagnosis("held", case.name, sentence, action="hold"), until


def _restart_in_place(case: Case, failed: str) -> Step:
    why = why_none(case)
    if not case.is_up(case.active) or case.in_maintenance(case.active) or not case.has_guard(case.active):
        sentence = f"{failed}, and no other VM can take {case.name}: {why}."
        return None, diagnosis("no_candidate", case.name, sentence, because=why), None
    reason = f"{failed}, and no other VM can take it ({why}), so it is started again in place"
    decision = start(case, rule_request(case, RequestKind.FAILOVER, case.active, reason), case.active, reason)
    return decision, diagnosis("no_candidate", case.name, f"{reason}.", action=decision.code), None
