"""Members of a cluster: the spare takes the place of one that stays away, and gives it back when that one returns.

In: the case of a service. Out: the change that is due, the end of one that runs, what is the matter and why not more.
A change is a request of its own kind (`member`) with one command, whose play has one VM join and another leave, in that
order. Its record is written before the play runs: who leads next goes on from there. The play looks again itself before
anybody is forgotten, and may be run any number of times. It is no move, and whatever moves the service supersedes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.decide.beside import (
    ENDED,
    LOOK_AGAIN_S,
    RECENT_S,
    End,
    Tended,
    ends_of,
    overtaken,
    pause_after,
    unfinished,
)
from orchestrator.decide.candidates import obstacle_to_work
from orchestrator.decide.case import Case, index_of, readable
from orchestrator.decide.cluster import Membership, membership_of
from orchestrator.decide.diagnose import diagnosis
from orchestrator.decide.moves import rule_request
from orchestrator.decide.plays import trouble_of, wait_for
from orchestrator.decide.writing import create, finished, new_command, of_case
from orchestrator.domain import keys
from orchestrator.domain.decision import Change, Decision, Diagnosis, Put
from orchestrator.domain.policy import ClusterPolicy
from orchestrator.domain.records import Members, MoveKind, Play, Request, RequestKind, RequestState
from orchestrator.domain.view import InstanceState, Kept


@dataclass(frozen=True, slots=True)
class Swap:
    """One VM that is to take the place of another, from `due` on (wall-clock seconds)."""

    joining: str
    leaving: str
    due: float
    reason: str


def away_members(case: Case) -> tuple[str, ...]:
    """Return the members that are known to be away, in the policy's order. Whoever was not heard of yet is not away."""
    found = _membership(case)
    return tuple([vm for vm in found.members if _is_away(case, vm)]) if found is not None else ()


def returned_member(case: Case) -> str | None:
    """Return the VM whose place the spare has, where it could be taken back now."""
    found = _membership(case)
    replaced = found.replaced if found is not None else None
    return replaced if replaced is not None and obstacle_to_work(case, replaced) is None else None


def tend_members(case: Case, *, idle: bool) -> Tended:
    """Return what is done about the members of the service's cluster, what is the matter, and when to look again.

    `idle`: nothing else is decided for the service in this cycle. Only then a change begins.
    """
    cluster = case.service.cluster
    ended, wakes = ends_of(
        case.changes,
        lambda request: _past(case, request) or _come_of(case, request),
        lambda kept, state, why: _ending(case, kept, state, why),
    )
    if cluster is None:
        return Tended(ended)
    found = membership_of(cluster, case.seen)
    if isinstance(found, str):
        because = "only an operator can say who the members are"
        sentence = f"Nobody can tell who is in the cluster of {case.name}: {found}."
        return Tended(ended, (diagnosis("members_unknown", case.name, sentence, because=because),), wakes)
    swap = None if case.changes else _next_swap(case, cluster, found)
    obstacle = _obstacle_to(case, cluster, found, swap) if swap is not None else None
    if swap is None or obstacle is not None:
        return Tended(ended, tuple(_diagnoses(case, cluster, found, swap, obstacle)), wakes)
    begins = idle and case.now >= swap.due
    made = (_begin(case, cluster, swap),) if begins else ()
    wake_at = wakes if begins else max(swap.due, case.now + LOOK_AGAIN_S)
    return Tended((*ended, *made), tuple(_diagnoses(case, cluster, found, swap, None)), wake_at)


# -- who is where ------------------------------------------------------------------------------------------------------


def _membership(case: Case) -> Membership | None:
    found = membership_of(case.service.cluster, case.seen) if case.service.cluster is not None else None
    return found if isinstance(found, Membership) else None


def _broker_on(case: Case, vm: str) -> InstanceState:
    broker = case.seen.brokers.get(vm)
    return broker.state if broker is not None else InstanceState.ABSENT


def _is_away(case: Case, vm: str) -> bool:
    return case.is_lost(vm) or (case.is_up(vm) and _broker_on(case, vm) is InstanceState.FAILED)


def _is_well(case: Case, vm: str) -> bool:
    return case.is_up(vm) and _broker_on(case, vm) is InstanceState.HEALTHY


# -- what is next ------------------------------------------------------------------------------------------------------


def _next_swap(case: Case, cluster: ClusterPolicy, found: Membership) -> Swap | None:
    """Return the change that is due first: one that the record asks for already, unless another has become due.

    While one is not done its VM may die, or the one that it replaces may return: then the way round is as good.
    """
    others = tuple(_returns(case, cluster, found)) + tuple(_replacements(case, cluster, found))
    due_now = [swap for swap in others if case.now >= swap.due]
    if not due_now and found.joining is not None and found.leaving is not None:
        reason = f"{found.joining} has not taken the place of {found.leaving} yet"
        return Swap(found.joining, found.leaving, _after_pause(case, found.joining, case.now), reason)
    return min(others, key=lambda swap: swap.due, default=None)


def _returns(case: Case, cluster: ClusterPolicy, found: Membership) -> Iterator[Swap]:
    if found.replaced is not None and cluster.spare is not None and case.back_since is not None:
        due = _after_pause(case, found.replaced, case.back_since + case.policy.failback.grace_s)
        yield Swap(found.replaced, cluster.spare, due, f"{found.replaced} is back")


def _replacements(case: Case, cluster: ClusterPolicy, found: Membership) -> Iterator[Swap]:
    if cluster.spare is None or cluster.replace_after_s is None or cluster.spare in found.members:
        return
    for vm, since in case.away_since.items():
        due = _after_pause(case, cluster.spare, since + cluster.replace_after_s)
        yield Swap(cluster.spare, vm, due, f"{vm} has been away for {case.now - since:.0f} s")


def _after_pause(case: Case, joining: str, due: float) -> float:
    """Return when the VM is to join at the earliest: later each time it was tried in vain.

    The attempts are counted from their records, so a new leader waits as long as the one before.
    """
    vain = _vain_changes(case, joining)
    return max(due, vain[-1].updated + pause_after(len(vain))) if vain else due


def _vain_changes(case: Case, joining: str) -> tuple[Request, ...]:
    """Return the latest attempts that failed, oldest first, since the last that did not."""
    mine = [
        request
        for request in case.view.ended_starts
        if request.kind is RequestKind.MEMBER
        and (request.service, request.target) == (case.name, joining)
        and case.now - request.updated < RECENT_S
    ]
    good = [n for n, request in enumerate(mine, start=1) if request.state is not RequestState.FAILED]
    return tuple(mine[good[-1] if good else 0 :])


def _obstacle_to(case: Case, cluster: ClusterPolicy, found: Membership, swap: Swap) -> str | None:
    """Say why the one VM cannot take the place of the other now, or None when it can."""
    # It would be overtaken at once, and begun anew in the next cycle, as often as the leader looks.
    if case.move is not None:
        return f"the {case.move.value.kind.value} of {case.name} goes on first"
    if case.view.paused is not None:
        return f"automation is paused by {case.view.paused.by}"
    if case.in_maintenance(swap.leaving):
        return f"{swap.leaving} is in maintenance"
    if swap.leaving == case.active:
        return f"{case.name} is active on {swap.leaving}"
    well = [vm for vm in found.members if vm not in (swap.joining, swap.leaving) and _is_well(case, vm)]
    if len(well) < cluster.majority:
        return f"only {len(well)} of the other members are well, and it takes {cluster.majority}"
    return obstacle_to_work(case, swap.joining)


# -- a change, from its beginning to its end ---------------------------------------------------------------------------


def _begin(case: Case, cluster: ClusterPolicy, swap: Swap) -> Decision:
    record = Members(
        service=case.name,
        members=cluster.members if swap.leaving == cluster.spare else cluster.members_with(swap.joining, swap.leaving),
        joining=swap.joining,
        leaving=swap.leaving,
        since=case.now,
        reason=swap.reason,
    )
    request = rule_request(case, RequestKind.MEMBER, swap.joining, swap.reason).with_(
        epoch=case.now_assigned.epoch, previous=swap.leaving, times={"decided": case.now}
    )
    command = new_command(case, request, Play.MEMBER, swap.joining, case.now_assigned, MoveKind.MEMBER)
    return of_case(
        case,
        "member",
        f"{swap.joining} takes the place of {swap.leaving} in the cluster of {case.name}: {swap.reason}.",
        Put(keys.members(case.name), record, index_of(case.seen.members)),
        Put(keys.request(request.id), request, 0),
        create(command.with_(leaves=swap.leaving, source=case.active)),
        request=request,
        vm=swap.joining,
    )


def _past(case: Case, request: Request) -> End | float | None:
    """Say why nobody wants the change to go on, or when to look again; None while it is wanted."""
    if (found := overtaken(case, request)) is not None:
        return found
    if case.service.cluster is None:
        return RequestState.CANCELLED, f"the policy has no cluster of {case.name}"
    return None


def _come_of(case: Case, request: Request) -> End | float:
    """Say what came of the change, or until when it goes on at the latest."""
    command = case.command_of(request, Play.MEMBER, str(request.target))
    if command is None or not command.is_final:
        return unfinished(case, request, command)
    trouble = trouble_of(command)
    if trouble is not None:
        return RequestState.FAILED, trouble
    return RequestState.SUCCEEDED, f"done {case.now - request.created:.1f} s after"


def _ending(case: Case, kept: Kept[Request], state: RequestState, why: str) -> Decision:
    joining, leaving = kept.value.target, kept.value.previous
    changes: list[Change] = [finished(case, kept, state, why)]
    record = readable(case.seen.members)
    # Two that run (a leader that died, a record put there by hand) may end in one cycle: the later one counts.
    is_done = state is RequestState.SUCCEEDED and kept is case.changes[-1]
    if record is not None and is_done and (record.value.joining, record.value.leaving) == (joining, leaving):
        done = record.value.with_(joining=None, leaving=None, since=case.now)
        changes.append(Put(keys.members(case.name), done, record.index))
    sentence = f"That {joining} takes the place of {leaving} in the cluster of {case.name} {ENDED[state]}: {why}."
    code = f"member_{state.value}"
    return of_case(case, code, sentence, *changes, request=kept.value, vm=joining, about=kept.value.id)


# -- what is the matter ------------------------------------------------------------------------------------------------


def _diagnoses(
    case: Case, cluster: ClusterPolicy, found: Membership, swap: Swap | None, obstacle: str | None
) -> Iterator[Diagnosis]:
    """Say of each member that is away, and of the one that is replaced, what is done or why nothing is."""
    for kept in case.changes:
        yield diagnosis("member_replaced", case.name, f"{_change(case, kept.value)}.")
    told = swap.leaving if swap is not None and swap.leaving != cluster.spare else None
    busy = {vm for kept in case.changes for vm in (kept.value.target, kept.value.previous)}
    if swap is not None:
        yield _about_swap(case, cluster, swap, obstacle)
    for vm in away_members(case):
        if vm not in busy and vm != told and (swap is None or vm != swap.joining):
            why = _why_not_replaced(cluster, found)
            sentence = f"{vm} is away from the cluster of {case.name}, and nobody takes its place: {why}."
            yield diagnosis("member_away", case.name, sentence, because=why)
    if found.replaced is not None and swap is None and not case.changes:
        why = obstacle_to_work(case, found.replaced) or "it has been back for too short a time"
        sentence = f"{cluster.spare} has the place of {found.replaced} in the cluster of {case.name}: {why}."
        yield diagnosis("member_replaced", case.name, sentence, because=why)


def _about_swap(case: Case, cluster: ClusterPolicy, swap: Swap, obstacle: str | None) -> Diagnosis:
    is_return = swap.leaving == cluster.spare
    code = "member_replaced" if is_return else "member_away"
    state = f"{swap.leaving} is away from the cluster of {case.name}"
    if is_return:
        state = f"{swap.leaving} has the place of {swap.joining} in the cluster of {case.name}"
    vain = _vain_changes(case, swap.joining)
    last = f"; attempt {len(vain)} failed ({vain[-1].outcome})" if vain else ""
    if obstacle is not None:
        does = "nobody changes that" if is_return else f"{swap.joining} does not take its place"
        return diagnosis(code, case.name, f"{state}{last}, and {does}: {obstacle}.", because=obstacle)
    does = f"{swap.joining} is taken back" if is_return else f"{swap.joining} takes its place"
    left_s = max(0.0, swap.due - case.now)
    if left_s == 0:
        return diagnosis(code, case.name, f"{state}{last}; {does}.", action="member")
    stays = "stays up" if is_return else "stays away"
    # Whoever has not watched for so long (`orch status`) counts from now.
    return diagnosis(code, case.name, f"{state}{last}; {does} in {left_s:.0f} s at most if it {stays}.")


def _why_not_replaced(cluster: ClusterPolicy, found: Membership) -> str:
    if cluster.spare is None:
        return "the policy has no spare"
    if cluster.replace_after_s is None:
        return "the policy has members replaced never"
    if found.replaced is not None:
        return f"{cluster.spare} has the place of {found.replaced}"
    return f"{cluster.spare} has not left the cluster yet" if found.leaving == cluster.spare else "another is first"


def _change(case: Case, request: Request) -> str:
    command = case.command_of(request, Play.MEMBER, str(request.target))
    doing = wait_for(case, command).words if command is not None and not command.is_final else "its command has ended"
    return f"{request.target} takes the place of {request.previous} in the cluster of {case.name}: {doing}"
