"""Pending requests: what operators and messages ask for is refused at once or started."""

from __future__ import annotations

from orchestrator.decide.admission import refusal_of
from orchestrator.decide.candidates import candidates_for, next_in_rotation, obstacle_for, why_none
from orchestrator.decide.case import Case
from orchestrator.decide.moves import case_reason, start
from orchestrator.decide.rotation import rotation_on_request
from orchestrator.decide.standbys import start_asked
from orchestrator.decide.writing import decision, finished, of_case, put_assignment, put_request
from orchestrator.domain.decision import Decision
from orchestrator.domain.policy import Policy
from orchestrator.domain.records import Request, RequestKind, RequestState
from orchestrator.domain.view import Kept, View


def refused(kept: Kept[Request], why: str, now: float, *, about: str = "") -> Decision:
    """Return the refusal of a request, with its reason."""
    request = kept.value
    put = put_request(kept, state=RequestState.REFUSED, outcome=why, updated=now)
    sentence = f"The {request.kind.value} of {request.service} asked for by {request.origin} is refused: {why}"
    return decision("refused", now, sentence, (put,), service=request.service, request_id=request.id, about=about)


def endings_of_strangers(view: View, policy: Policy, now: float) -> tuple[Decision, ...]:
    """Return the endings of requests for services that the policy does not know (or does not know any more)."""
    strange = [kept for kept in view.requests if kept.value.service not in policy.services]
    return tuple(_stranger_ended(kept, view, policy, now, str(n)) for n, kept in enumerate(strange, start=1))


def _stranger_ended(kept: Kept[Request], view: View, policy: Policy, now: float, about: str) -> Decision:
    request = kept.value
    if request.state is RequestState.PENDING:
        return refused(kept, str(refusal_of(request, view, policy, now)), now, about=about)
    why = f"{request.service} is not a service of this fleet any more"
    put = put_request(kept, state=RequestState.CANCELLED, outcome=why, updated=now)
    sentence = f"The {request.kind.value} of {request.service} is cancelled: {why}."
    return decision("cancelled", now, sentence, (put,), service=request.service, request_id=request.id, about=about)


def consider_request(case: Case, kept: Kept[Request]) -> Decision:
    """Return the first step of the request, or its refusal."""
    request = kept.value
    why = refusal_of(request, case.view, case.policy, case.now)
    if why is not None:
        return refused(kept, why, case.now)
    if request.kind is RequestKind.ACKNOWLEDGE:
        return _acknowledge(case, kept)
    if request.kind is RequestKind.STANDBY:
        return start_asked(case, kept)
    if request.kind is RequestKind.ROTATION:
        following = next_in_rotation(case)
        return rotation_on_request(case, kept, following or case.active)
    if request.kind is RequestKind.FAILBACK:
        target = request.target or case.service.home
        wanted = request.with_(redesignate=request.redesignate or target == case.service.home)
        return start(case, wanted, target, case_reason(request), kept=kept)
    obstacle = obstacle_for(request)
    best = request.target or next(iter(candidates_for(case, obstacle)), None)
    if best is None:
        return refused(kept, f"{why_none(case, obstacle)}.", case.now)
    return start(case, request, best, case_reason(request), kept=kept)


def _acknowledge(case: Case, kept: Kept[Request]) -> Decision:
    sentence = f"The hold of {case.name} is acknowledged by {kept.value.origin}: automatic moves are possible again"
    return of_case(
        case,
        "acknowledged",
        f"{sentence}.",
        put_assignment(case, failovers=(), hold_until=None),
        finished(case, kept, RequestState.SUCCEEDED, sentence),
        request=kept.value,
    )
