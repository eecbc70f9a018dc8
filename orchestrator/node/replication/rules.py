"""PURE: what a guard does about the data of a replicated service, for one situation of its VM.

In: a `Case` with the server's facts and the record of the copies that are whole. Out: duties, or when to ask again.
Three promises, whatever the view: writes are opened only by the holder of the role lock at the assignment's epoch,
with a copy that the record calls whole; the record is written before the server behaves accordingly; and one server
does one thing at a time.
"""

from __future__ import annotations

from orchestrator.domain.gtid import behind_at_least, lacking
from orchestrator.domain.records import MoveKind, Sync
from orchestrator.node import duties as do
from orchestrator.node.case import Case
from orchestrator.node.later import Found, Later
from orchestrator.node.replication.facts import ServerFacts
from orchestrator.node.situation import DOWN, UnitState

TRY_AGAIN_S = 2.0
"""A server that did not get there is told again after this: joining a standby lets commits wait for a moment, and a
copy that follows tries to connect by itself."""

GONE_AFTER_S = 0.25
"""A standby that has ended its connection, as one does that is stopped or dies, is not waited for until it counts as
silent; only for as long as it takes to connect anew at once."""

REPORT_FIRST_S, REPORT_LATER_S = 10.0, 300.0
REPORT_SHARE = 0.1
"""A primary that alone is whole reports its position after 10 s, and then whenever this share of the time for which it
was alone has passed, 300 s at most: so about a tenth of what the other copy may lack is unknown, and a day costs some
300 writes to Consul, each of which takes its place in the recorder's ring."""


# -- what the rule about the role lock asks ---------------------------------------------------------------------------


def writes_are_open(case: Case) -> bool:
    """Say whether the data may still change here, so that the role lock must not be given away.

    A server that runs and does not answer may take writes for all that anybody knows.
    """
    if not case.replicated or case.at.unit.state in DOWN - {UnitState.STOPPING}:
        return False
    facts = case.at.data.facts
    return bool(case.at.data.busy) or facts is None or not facts.answers or facts.writable or facts.waiting > 0


def final_position(case: Case) -> str | None:
    """Return up to where the data goes here, once it does not change any more."""
    facts = case.at.data.facts
    return facts.position if case.replicated and facts is not None and facts.answers else None


def position_to_reach(case: Case) -> str | None:
    """Return what the previous holder said when it gave the lock up for this epoch, or what was kept of it since."""
    lock, assignment = case.at.lock, case.at.assignment
    if not case.replicated or lock is None or lock.value is None or assignment is None:
        return None
    return lock.value.position if lock.value.epoch == assignment.epoch else None


def free_dead_lock(case: Case) -> Found:
    """Give the lock up at once where its server is dead: a lost session would keep it from everybody for a while."""
    lock = case.at.lock
    dead = case.at.unit.state in DOWN - {UnitState.STOPPING}
    if case.replicated and dead and case.view.kv_fresh and case.lock_mine and lock is not None and lock.session:
        epoch = lock.value.epoch if lock.value is not None else 0
        yield do.ReleaseLock(case.at.service, f"{case.describe}: it takes no write.", lock.session, epoch)


# -- the server -------------------------------------------------------------------------------------------------------


def tend_data(case: Case) -> Found:
    """Have the server do what the role asks for."""
    facts = case.at.data.facts
    if not case.replicated or facts is None or not facts.answers or case.at.data.busy:
        return
    if case.at.unit.state is not UnitState.ACTIVE:
        return
    if not case.view.kv_fresh:
        yield from _without_consul(case)
        return
    for found in _role(case, facts):
        yield _not_too_often(case, found)


def _without_consul(case: Case) -> Found:
    """The lease closes writes, and nothing else is safe. A guard that has restarted has none: it takes as long."""
    policy = case.at.policy.replication
    if policy is None or case.since.unleased is None:
        return
    over = case.since.unleased + policy.lease_s
    if case.now < over:
        yield Later(over)
    else:
        yield do.CloseWrites(case.at.service, "Nobody confirms the role lock: no write is taken here any more.", True)


def _role(case: Case, facts: ServerFacts) -> Found:
    if case.lock_current:
        yield from _primary(case, facts)
    elif facts.writable and not (case.lock_mine and case.active_here):
        where = case.at.assignment.active if case.at.assignment else "elsewhere"
        reason = f"{case.at.service} is active on {where}" if not case.active_here else "The role lock is not ours"
        # Who may not end a commit waits for the standby, and one that is gone would keep the role here for ever.
        at_any_cost = not case.lock_mine or _is_lost(case)
        yield do.CloseWrites(case.at.service, f"{reason}: no write is taken here any more.", at_any_cost)
    elif case.active_here and case.lock_free and not facts.writable:
        yield from _prepare(case, facts)
    elif not facts.writable:
        yield from _standby(case, facts)


def _not_too_often(case: Case, found: do.Duty | Later) -> do.Duty | Later:
    data = case.at.data
    told_at = data.followed_at if isinstance(found, do.Follow) else data.failed_at.get(type(found).__name__)
    hurried = isinstance(found, Later | do.CloseWrites)
    if hurried or told_at is None or case.now >= told_at + TRY_AGAIN_S:
        return found
    return Later(told_at + TRY_AGAIN_S)


def _primary(case: Case, facts: ServerFacts) -> Found:
    """Holder of the role lock: promote, record, open, and keep the record of the standby true."""
    sync = case.at.data.sync
    if sync is None:
        yield from _first_record(case, facts)
    elif not _is_recorded(case, sync):
        yield from _take_over(case, facts, sync)
    elif facts.replica is not None:
        yield do.Promote(case.at.service, f"{case.at.service} is active here: its copy follows nobody.", None)
    else:
        yield from _serve(case, facts, sync)


def _prepare(case: Case, facts: ServerFacts) -> Found:
    """Promote while the role lock, which nobody holds, cannot be taken yet: the copy stays read-only.

    Whoever held it acknowledges nothing more from then on, since it waits for this copy.
    """
    sync = case.at.data.sync
    if sync is not None and _is_whole(case, facts, sync) and facts.replica is not None and case.healthy:
        reason = f"{case.at.service} is to be active here: its copy is promoted, read-only."
        yield do.Promote(case.at.service, reason, _upto(case))


def _is_whole(case: Case, facts: ServerFacts, sync: Sync) -> bool:
    """Say whether the copy here holds every acknowledged write: recorded, and not started anew since."""
    return case.view.vm in sync.complete and (facts.replica is None or facts.acknowledges)


def _upto(case: Case) -> str | None:
    """Return the position to reach, at the first try only.

    What a whole copy has never received was never acknowledged, and nobody may have it any more.
    """
    return None if do.Promote.__name__ in case.at.data.failed_at else position_to_reach(case)


def _is_recorded(case: Case, sync: Sync) -> bool:
    assignment = case.at.assignment
    return assignment is not None and (sync.primary, sync.epoch) == (case.view.vm, assignment.epoch)


def _first_record(case: Case, facts: ServerFacts) -> Found:
    """Begin the record where the service is founded, or where it was deleted under a primary that serves.

    Otherwise only on an operator's word, as for any copy of which nobody knows whether it is whole.
    """
    assignment, lock = case.at.assignment, case.at.lock
    if assignment is None or (case.at.data.sync_problem and not assignment.accepts_data_loss):
        return
    ready = facts.writable and lock is not None and lock.value is not None and lock.value.ready
    if assignment.kind is MoveKind.INITIAL:
        yield _write_sync(case, facts, (case.view.vm,), "it is founded here")
    elif ready or case.at.data.had_traffic:
        yield _write_sync(case, facts, (case.view.vm,), "it is its primary, and the record was gone")
    elif assignment.accepts_data_loss and facts.replica is not None:
        yield do.Promote(case.at.service, f"{case.at.service} is active here: its copy is promoted.", None)
    elif assignment.accepts_data_loss:
        yield _write_sync(case, facts, (case.view.vm,), "there was no record, and an operator accepts what it lacks")


def _take_over(case: Case, facts: ServerFacts, sync: Sync) -> Found:
    """Promote a whole copy: apply what was received, then record that it alone is whole, then (next) open writes."""
    assignment = case.at.assignment
    whole = _is_whole(case, facts, sync)
    if assignment is None or not (whole or assignment.accepts_data_loss):
        return
    if facts.replica is not None:
        reason = f"{case.at.service} is active here: its copy is promoted."
        yield do.Promote(case.at.service, reason, _upto(case) if whole else None)
    else:
        why = "its copy was promoted" if whole else "its copy was promoted although it may lack acknowledged writes"
        yield _write_sync(case, facts, (case.view.vm,), why, (None, None) if whole else _lacks(case, facts, sync))


Lacks = tuple[int | None, float | None]


def _lacks(case: Case, facts: ServerFacts, sync: Sync) -> Lacks:
    """Return how many transactions the copy lacks, and by when that is known to the holder of the whole one.

    A primary that gives the role lock up says where its copy ends (None: that is all). Of one that died, what it had
    reported is known: at least so many.
    """
    assignment, last = case.at.assignment, position_to_reach(case)
    if assignment is None or case.view.vm in (assignment.previous, sync.primary):
        return None, None
    if last is not None and assignment.previous in sync.complete:
        number = lacking(facts.position, last)
        if number is not None:
            return number, None
    if sync.reported is None or sync.reported_at is None:
        return None, None
    number = behind_at_least(facts.position, sync.reported)
    return number, None if number is None else sync.reported_at


def _serve(case: Case, facts: ServerFacts, sync: Sync) -> Found:
    service, standby = case.at.service, _standby_of(case)
    lock, assignment = case.at.lock, case.at.assignment
    if lock is None or lock.session is None or assignment is None:
        return
    others = tuple(vm for vm in sync.complete if vm != case.view.vm)
    if standby is not None and not others and facts.writable and _is_proven(case, facts, standby):
        why = f"{standby} has everything and acknowledges each commit"
        yield _write_sync(case, facts, (case.view.vm, standby), why)
        return
    if facts.waits_for_replica != bool(others):
        why = f"{others[0]} is in sync" if others else "no standby is in sync"
        verb = "waits for it" if others else "waits for nobody"
        yield do.WaitForReplica(service, f"{why}: each commit {verb}.", bool(others))
    elif not facts.writable or not case.at.data.leased:
        # Also where a guard that restarted finds them open: nothing would close them.
        yield do.OpenWrites(
            service, "The role lock is ours and the copy whole: writes are taken.", lock.session, assignment.epoch
        )
    elif lock.value is None or not lock.value.ready:
        index = case.at.assignment_index
        if index:
            yield do.AcquireLock(service, f"{service} is ready for traffic.", lock.session, assignment.epoch, index)
    elif others:
        yield from _lose_standby(case, facts, others[0])
    else:
        if standby is not None and facts.replicas > 0:
            why = f"{standby} replicates: it is to acknowledge."
            yield do.JoinReplica(service, why, case.view.vm_addresses[standby])
        yield from _report(case, facts, sync)


def _report(case: Case, facts: ServerFacts, sync: Sync) -> Found:
    """Have the record say how far the only whole copy is, for whoever has to go on without it."""
    if not facts.writable or facts.position in ("", sync.reported or sync.position):
        return
    last = sync.since if sync.reported_at is None else sync.reported_at
    due = last + min(max(REPORT_FIRST_S, REPORT_SHARE * (last - sync.since)), REPORT_LATER_S)
    # A clock that was set back since must not silence it.
    if last <= case.view.wall < due:
        yield Later(case.now + due - case.view.wall)
        return
    at = case.view.wall - max(0.0, case.now - facts.at)
    why = f"The only whole copy of {case.at.service} is here, and is at {facts.position}."
    yield _told(case, sync.with_(reported=facts.position, reported_at=at), why)


def _is_proven(case: Case, facts: ServerFacts, standby: str) -> bool:
    """Say whether the standby was proved to have everything, and has not fallen silent since."""
    return case.since.silent is None and facts.proven == case.view.vm_addresses.get(standby)


def _standby_of(case: Case) -> str | None:
    """Return the other VM of the order, where it may run."""
    others = [vm for vm in case.at.policy.order if vm != case.view.vm]
    assignment = case.at.assignment
    known = [vm for vm in others if vm in case.view.vm_addresses and assignment and assignment.may_run_on(vm)]
    return known[0] if known else None


def _is_lost(case: Case) -> bool:
    """Say whether the standby's silence has lasted so long that it counts as lost, connected or not."""
    policy, silent = case.at.policy.replication, case.since.silent
    return policy is not None and silent is not None and case.now >= silent + policy.standby_lost_after_s


def _lose_standby(case: Case, facts: ServerFacts, standby: str) -> Found:
    policy, silent = case.at.policy.replication, case.since.silent
    if policy is None or silent is None:
        return
    after_s, why = policy.standby_lost_after_s, f"{standby} has not acknowledged for {policy.standby_lost_after_s:g} s"
    if facts.replicas == 0 and after_s > GONE_AFTER_S:
        after_s, why = GONE_AFTER_S, f"{standby} has ended its connection"
    if case.now < silent + after_s:
        yield Later(silent + after_s)
    else:
        yield _write_sync(case, facts, (case.view.vm,), why)


def _write_sync(
    case: Case, facts: ServerFacts, complete: tuple[str, ...], why: str, lacks: Lacks = (None, None)
) -> do.Duty:
    assignment, before = case.at.assignment, case.at.data.sync
    epoch = assignment.epoch if assignment else 0
    # A primary that is promoted again while it alone is whole: what the other copy lacks began when that one was lost.
    same = before is not None and set(before.complete) == set(complete)
    since, position = (before.since, before.position) if before and same else (case.view.wall, facts.position or None)
    record = Sync(
        service=case.at.service,
        primary=case.view.vm,
        epoch=epoch,
        complete=complete,
        since=since,
        reason=why,
        position=position,
        reported=before.reported if before and same else None,
        reported_at=before.reported_at if before and same else None,
        lacks=lacks[0],
        lacks_by=lacks[1],
    )
    named = " and ".join(complete)
    return _told(case, record, f"The whole copies of {case.at.service} are now: {named} ({why}).")


def _told(case: Case, record: Sync, why: str) -> do.Duty:
    lock = case.at.lock
    session = lock.session if lock is not None and lock.session is not None else ""
    return do.WriteSync(case.at.service, why, record, case.at.data.sync_index, session, case.at.assignment_index)


def _standby(case: Case, facts: ServerFacts) -> Found:
    """Not the holder of the role lock: follow the one that is ready, and nobody else."""
    assignment, lock = case.at.assignment, case.at.lock
    if assignment is None or case.active_here or not case.may_run or lock is None or lock.value is None:
        return
    ready = lock.session is not None and lock.value.ready and lock.value.vm == assignment.active
    if not ready or lock.value.epoch != assignment.epoch or assignment.active not in case.view.vm_addresses:
        return
    address, replica = case.view.vm_addresses[assignment.active], facts.replica
    if replica is not None and replica.source == address:
        if replica.needs_clone:
            return
        if replica.receives and replica.applies:
            if not facts.acknowledges:
                why = f"{assignment.active} is told what is received, once all that it has is here."
                yield do.Acknowledge(case.at.service, why, address)
            return
    yield do.Follow(case.at.service, f"{assignment.active} takes the writes: its data is copied here.", address)
