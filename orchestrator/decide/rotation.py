"""Rotation: the designation moves round the order, on schedule or when asked."""

from __future__ import annotations

from orchestrator.decide.candidates import next_in_rotation, obstacle_to_rotation, why_none
from orchestrator.decide.case import Case, index_of, readable
from orchestrator.decide.diagnose import diagnosis
from orchestrator.decide.moves import rule_request, start
from orchestrator.decide.writing import of_case
from orchestrator.domain import keys
from orchestrator.domain.decision import Decision, Delete, Diagnosis, Put
from orchestrator.domain.records import Request, RequestKind, Rotation
from orchestrator.domain.view import Kept

Step = tuple[Decision | None, Diagnosis | None, float | None]


def _state_after(case: Case, target: str | None) -> Put:
    kept = readable(case.seen.rotation)
    last = case.now if target else (kept.value.last if kept else None)
    order = case.service.order
    state = Rotation(
        service=case.name,
        order=order,
        index=order.index(target or case.active) if (target or case.active) in order else 0,
        last=last,
        next_due=case.now + case.policy.rotation.interval_hours * 3600,
    )
    return Put(keys.rotation(case.name), state, index_of(case.seen.rotation))


def is_scheduled(case: Case) -> bool:
    """Say whether the policy rotates this service by itself."""
    rotation = case.policy.rotation
    return rotation.enabled and case.name not in rotation.exclude_services and len(case.service.order) > 1


def consider_rotation(case: Case) -> Step:
    """Return the rotation that is asked for by key or due by the clock, or when one will be due."""
    if case.seen.trigger_index is not None:
        return _forced(case, case.seen.trigger_index)
    if not is_scheduled(case):
        return None, None, None
    kept = readable(case.seen.rotation)
    if kept is None or not _is_valid(case, kept.value):
        sentence = f"The rotation of {case.name} is scheduled every {case.policy.rotation.interval_hours:g} h."
        return of_case(case, "schedule", sentence, _state_after(case, None), journal=False), None, None
    due = kept.value.next_due or case.now
    if case.now < due:
        return None, None, due
    if case.view.paused is not None or case.hold_is_in_force:
        return None, None, None
    return _due(case)


def _is_valid(case: Case, rotation: Rotation) -> bool:
    """Say whether the state fits the policy: its order, and no longer to wait than one interval."""
    interval_s = case.policy.rotation.interval_hours * 3600
    due = rotation.next_due
    return due is not None and due <= case.now + interval_s and rotation.order == case.service.order


def _due(case: Case) -> Step:
    target = next_in_rotation(case)
    if target is None or not case.has_guard(case.active):
        why = why_none(case, obstacle_to_rotation) if target is None else f"the guard on {case.active} does not run"
        sentence = f"The rotation of {case.name} is due, but {why}; it is put off by one interval."
        decision = of_case(case, "rotation_skipped", sentence, _state_after(case, None))
        return decision, diagnosis("rotation_waits", case.name, sentence, because=why), None
    reason = f"rotation is due every {case.policy.rotation.interval_hours:g} h"
    request = rule_request(case, RequestKind.ROTATION, target, reason, redesignate=True)
    return start(case, request, target, reason, _state_after(case, target)), None, None


def _forced(case: Case, trigger_index: int) -> Step:
    consumed = Delete(keys.rotate(case.name), trigger_index)
    target = next_in_rotation(case)
    if target is None or not case.has_guard(case.active):
        why = why_none(case, obstacle_to_rotation) if target is None else f"the guard on {case.active} does not run"
        sentence = f"The rotation of {case.name} that was asked for by {keys.rotate(case.name)} is refused: {why}."
        decision = of_case(case, "refused", sentence, consumed)
        return decision, diagnosis("rotation_waits", case.name, sentence, because=why), None
    reason = f"rotation asked for by {keys.rotate(case.name)}"
    request = rule_request(case, RequestKind.ROTATION, target, reason, redesignate=True).with_(origin="key")
    return start(case, request, target, reason, consumed, _state_after(case, target)), None, None


def rotation_on_request(case: Case, kept: Kept[Request], target: str) -> Decision:
    """Return the first step of a rotation that an operator's request asks for."""
    reason = kept.value.reason or f"rotation asked for by {kept.value.origin}"
    request = kept.value.with_(redesignate=True)
    return start(case, request, target, reason, _state_after(case, target), kept=kept)
