"""What moves leave behind: commands that must not start or go on, standbys that are not those of the policy."""

from __future__ import annotations

from orchestrator.decide.case import Case
from orchestrator.decide.writing import of_case, put_assignment
from orchestrator.domain import keys
from orchestrator.domain.decision import Decision, Put
from orchestrator.domain.records import CommandState


def tidy_commands(case: Case) -> tuple[Decision, ...]:
    """Return the endings of commands that must not start or go on: their epoch or their request is past.

    A running one is stopped by its worker, which watches the epoch and `cancel_requested`; one that nobody holds is
    ended here.
    """
    if not case.commands:
        return ()
    open_requests = {kept.value.id for kept in case.requests}
    decisions: list[Decision] = []
    for kept in case.commands:
        command = kept.value
        if command.is_final:
            continue
        past = command.epoch < case.now_assigned.epoch
        heard = case.has_heard_of(command.request_id, command.created)
        orphaned = command.request_id not in open_requests and heard
        if command.epoch > case.now_assigned.epoch or not (past or orphaned):
            continue
        why = f"epoch {case.now_assigned.epoch} has begun" if past else "its request has ended"
        if command.state is CommandState.PENDING or kept.session is None:
            change = command.with_(state=CommandState.SUPERSEDED, reason=why, finished=case.now)
        elif orphaned and not command.cancel_requested:
            change = command.with_(cancel_requested=True)
        else:
            continue
        sentence = f"The command {command.id} will not go on: {why}."
        put = Put(keys.command(command.id), change, kept.index)
        made = of_case(case, "supersede_command", sentence, put, vm=command.target, about=str(len(decisions) + 1))
        decisions.append(made)
    return tuple(decisions)


def settled_standbys(case: Case) -> Decision | None:
    """Return the correction of `standbys` where no move needs them to differ from the policy.

    Not while automation is paused, nor before the active serves: a VM that still has the traffic may stand there.
    """
    wanted = case.standbys_wanted(case.active, case.designated)
    if case.now_assigned.standbys == wanted or case.view.paused is not None or not case.is_serving:
        return None
    named = ", ".join(wanted) or "none"
    sentence = f"The standbys of {case.name} beside {case.active} are now: {named}."
    return of_case(case, "standbys", sentence, put_assignment(case, standbys=wanted))
