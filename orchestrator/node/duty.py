"""PURE: what a guard has to do now, for one immutable view of its VM.

In: `LocalView`, the `Memory` of the last cycle, monotonic `now`. Out: `Plan`: the duties, the new memory, when to
look again. No I/O, no clock, no randomness. The rules stand one below the other in `_RULES`; each yields duties
or the time at which it wants to be asked again (`Later`). docs/architecture.md, "Guard", says them in prose.

What must never happen, whatever the view: an address taken without the role lock of the assignment's epoch, or kept
while another VM may take it; a change of anything but our own check and address while KV cannot be read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType

from orchestrator.node import duties as do
from orchestrator.node.case import EMPTY_MEMORY, Case, Memory, Since, remember
from orchestrator.node.instance import meta_of, probe_differs, role_tag
from orchestrator.node.later import Found, Later
from orchestrator.node.replication.rules import (
    final_position,
    free_dead_lock,
    position_to_reach,
    tend_data,
    writes_are_open,
)
from orchestrator.node.situation import (
    CRITICAL,
    DOWN,
    PASSING,
    SETTLING,
    AddressState,
    LocalView,
    ProbeState,
    Registration,
    UnitState,
)

FENCE_GRACE_S = 5.0
"""A unit that may not run here is stopped after this; the `deactivate` play normally comes first."""
RESTART_LIMIT_S = 10.0
"""systemd may take this long to bring a unit back before its check is pushed critical."""
FAST_PROBING_S = 15.0
FAST_PROBE_EVERY_S = 0.05
SLOW_PROBE_EVERY_S = 1.0
FAREWELL_S = 1.0
"""After draining, a handed-over address stays for this long: a server that is reloaded closes what is idle."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What one cycle came to."""

    duties: tuple[do.Duty, ...] = ()
    memory: Memory = field(default_factory=lambda: EMPTY_MEMORY)
    wake_at: float | None = None
    watch_agent: bool = False
    """A check of ours is awaited to recover: read the agent often."""


def duties(view: LocalView, memory: Memory, now: float) -> Plan:
    """Return what is to be done now. `now` is monotonic seconds."""
    found: list[do.Duty] = [
        do.Deregister(service, f"{service} is not in the policy any more.")
        for service in (view.strays if view.kv_fresh and view.agent_known else ())
    ]
    remembered: dict[str, Since] = {}
    times: list[float] = []
    watch_agent = False
    for situation in view.situations:
        case = Case(view, situation, Since(), now)
        case = Case(view, situation, remember(memory.get(situation.service, Since()), case), now)
        remembered[situation.service] = case.since
        watch_agent = watch_agent or (case.active_here and situation.registration is not None and not case.healthy)
        for rule in _RULES:
            for thing in rule(case):
                if isinstance(thing, Later):
                    times.append(thing.at)
                else:
                    found.append(thing)
    return Plan(tuple(found), MappingProxyType(remembered), min(times, default=None), watch_agent)


def _unit_check(case: Case) -> Found:
    """Keep the `:unit` check true. A failure is pushed at once: this is what frees the role lock."""
    registration = case.at.registration
    if not case.view.agent_known or registration is None or not registration.unit_status:
        return
    state, status, name = case.at.unit.state, registration.unit_status, case.at.policy.unit
    if case.data_fault is not None:
        if status != CRITICAL:
            yield do.PushUnit(case.at.service, f"{case.data_fault}.", CRITICAL, case.describe)
    elif state is UnitState.ACTIVE and status != PASSING and case.answers and not case.fails_probe:
        yield do.PushUnit(case.at.service, f"{name} runs and answers.", PASSING, case.describe)
    elif state in SETTLING and case.since.settling is not None and status != CRITICAL:
        limit = case.since.settling + RESTART_LIMIT_S
        if case.now < limit:
            yield Later(limit)
        else:
            reason = f"systemd has not brought {name} back within {RESTART_LIMIT_S:g} s."
            yield do.PushUnit(case.at.service, reason, CRITICAL, case.describe)
    elif state is UnitState.ACTIVE and status != CRITICAL and case.fails_probe:
        # The probe alone may not show: after a start of the agent it was critical before it was made, and another
        # output of a check whose status stays is sent within minutes.
        said = f"{case.describe}, but does not answer: {registration.probe_output}"
        yield do.PushUnit(case.at.service, f"{name} runs and does not answer.", CRITICAL, said)
    elif (state is UnitState.FAILED or (state in DOWN and case.ought_to_run)) and status != CRITICAL:
        yield do.PushUnit(case.at.service, f"{case.describe}.", CRITICAL, case.describe)


def _unit_words(case: Case) -> Found:
    """Keep the text of the `:unit` check true (another PID, another time), after everything that is in a hurry."""
    registration = case.at.registration
    if not case.view.agent_known or registration is None or registration.unit_output == case.describe:
        return
    settled = {PASSING: (UnitState.ACTIVE,), CRITICAL: (UnitState.FAILED, UnitState.STOPPED, UnitState.ABSENT)}
    if case.lock_moves or case.must_leave or case.stopped_on_purpose:
        return
    if case.at.unit.state in settled.get(registration.unit_status, ()):
        yield do.PushUnit(case.at.service, f"{case.describe}.", registration.unit_status, case.describe)


def _address(case: Case) -> Found:
    """Hold the front door's address while the role lock is ours and the unit is not down.

    A lock that is lost and free while the assignment names this VM can be taken by nobody else: a healthy instance
    keeps the address until it has the lock again.
    """
    door = case.at.policy.front_door
    if door is None or door.kind == "dns":
        return
    service, name = case.at.service, door.address or door.kind
    down = case.at.unit.state in DOWN
    if case.at.address is AddressState.UP:
        if down:
            yield do.DropAddress(service, f"The address {name} is dropped: {case.describe}.")
        elif not case.view.kv_fresh and case.at.contested:
            reason = f"The address {name} is dropped: another VM answers for it while Consul cannot be asked."
            yield do.DropAddress(service, reason)
        elif case.view.kv_fresh and not case.address_is_safe:
            yield do.DropAddress(service, f"The address {name} is dropped: the role lock is not ours any more.")
        elif case.view.kv_fresh and case.at.assignment is not None and not case.active_here:
            yield do.HandOverAddress(service, f"The address {name} is handed over to {case.at.assignment.active}.")
        return
    if case.view.kv_fresh and case.lock_current and not down and case.at.address is not AddressState.UNKNOWN:
        reason = f"The role lock is ours, so the address {name} is taken."
        yield do.TakeAddress(service, reason, _forwarding(case))
    elif case.at.address is AddressState.HANDED_OVER and case.since.handed_over is not None:
        yield from _drain(case, case.since.handed_over + case.view.drain_s, name)


def _drain(case: Case, drained_at: float, name: str) -> Found:
    """Let open connections end, have the idle ones closed, then give the address up."""
    service, over = case.at.service, case.at.unit.state in DOWN - {UnitState.STOPPING}
    if over or case.now >= drained_at + FAREWELL_S:
        yield do.DropAddress(service, f"The address {name} is given up: open connections had time to end.")
    elif case.now >= drained_at:
        if case.at.unit.state is UnitState.ACTIVE and case.view.kv_fresh:
            yield do.CloseConnections(service, f"{service} has drained: {case.at.policy.unit} closes what is idle.")
        yield Later(drained_at + FAREWELL_S)
    else:
        yield Later(drained_at)


def _forwarding(case: Case) -> do.Forwarding | None:
    """Return where the connections are that were opened before a planned move, while they may still be open there."""
    given = case.since.given
    if given is None or given.by not in case.view.vm_addresses:
        return None
    left_s = given.at + case.view.drain_s + FAREWELL_S - case.now
    return do.Forwarding(case.view.vm_addresses[given.by], left_s) if left_s > 0 else None


def _lock(case: Case) -> Found:
    """Hold the role lock exactly where the assignment says, at its epoch, with a healthy instance."""
    assignment, lock = case.at.assignment, case.at.lock
    if not case.view.kv_fresh or assignment is None:
        return
    if case.lock_mine and not case.active_here:
        free = case.at.address is not AddressState.UP and not writes_are_open(case)
        if free and lock is not None and lock.session is not None:
            reason = f"{case.at.service} moves to {assignment.active} at epoch {assignment.epoch}."
            position = final_position(case)
            yield do.ReleaseLock(case.at.service, reason, lock.session, assignment.epoch, position)
        return
    if not case.active_here or not case.healthy or case.lock_current or not case.at.sessions:
        return
    # Consul keeps a lock that was lost from others for its delay, and a lock that was deleted from nobody.
    replication, lockless = case.at.policy.replication, case.since.lockless
    if replication and lockless is not None and case.now < lockless + replication.lock_delay_s:
        yield Later(lockless + replication.lock_delay_s)
    elif case.at.assignment_index and (case.lock_free or case.lock_mine):
        session = lock.session if case.lock_mine and lock is not None and lock.session else case.at.sessions[0]
        reason = f"{case.at.service} is active here at epoch {assignment.epoch} and healthy."
        ready, position = not case.replicated, position_to_reach(case)
        index = case.at.assignment_index
        yield do.AcquireLock(case.at.service, reason, session, assignment.epoch, index, ready, position)


def _session(case: Case) -> Found:
    """Have one session wherever a healthy instance may have to take the lock: it then needs one write, not two."""
    if not case.view.kv_fresh or case.at.assignment is None:
        return
    service, sessions = case.at.service, case.at.sessions
    if case.must_leave:
        if not case.lock_mine:
            for session in sessions:
                yield do.DestroySession(service, f"{service} may not run here, so its session is ended.", session)
        return
    if not sessions and case.healthy and case.may_run:
        yield do.CreateSession(service, f"{service} is healthy here.")
    held = case.at.lock.session if case.at.lock else None
    needed = held if held in sessions else next(iter(sessions), None)
    for session in sessions:
        if session != needed:
            yield do.DestroySession(service, f"{service} has a second session here.", session)


def _registration(case: Case) -> Found:
    """Have in the catalog what runs here and what should, and nothing else."""
    if not case.view.agent_known or not case.view.kv_fresh:
        return
    registration, service = case.at.registration, case.at.service
    if registration is None:
        if case.may_run:
            yield from _first_registration(case)
        return
    if case.must_leave:
        if case.let_go:
            yield do.Deregister(service, f"{service} may not run here at this epoch.")
        return
    if not case.may_run:
        return
    if case.stopped_on_purpose:
        yield do.Deregister(service, f"{case.describe} on purpose: the service is not active here.")
    elif not registration.is_whole:
        yield from _first_registration(case)
    elif not registration.by_own_token:
        reason = f"The guard's token is another: {service} is registered by it anew."
        yield _register(case, registration.unit_status, registration.probe_status, reason)
    elif case.at.unsynced:
        # Registering again what the agent has already would not make it hand anything in.
        yield do.Deregister(service, f"The catalog has lost {service} here: it is registered anew.")
    elif probe_differs(case.at, registration):
        reason = f"The policy has another probe for {service}."
        yield _register(case, registration.unit_status, registration.probe_status, reason)
    elif not case.lock_moves:
        yield from _retag(case, registration)


def _first_registration(case: Case) -> Found:
    service = case.at.service
    if case.answers:
        yield _register(case, PASSING, PASSING, f"{case.at.policy.unit} runs and answers: {case.at.probe.output}.")
        return
    if case.since.awaited is None or case.since.awaited_unit is None:
        return
    then, unit = case.since.awaited_unit, case.at.unit
    if unit.state is UnitState.FAILED and (unit.state, unit.since) != (then.state, then.since):
        yield _register(case, CRITICAL, CRITICAL, f"{service} should be active here, but {case.describe}.")
        return
    until = case.since.awaited + case.view.give_up_s
    if case.now < until:
        yield Later(until)
    else:
        reason = f"{service} should be active here and has not become healthy in {case.view.give_up_s:g} s."
        yield _register(case, CRITICAL, CRITICAL, reason)


def _register(case: Case, unit_status: str, probe_status: str, reason: str) -> do.Register:
    tag = role_tag(case.at, case.view.vm, lock_held=case.lock_current)
    return do.Register(case.at.service, reason, tag, unit_status, probe_status)


def _retag(case: Case, registration: Registration) -> Found:
    tag = role_tag(case.at, case.view.vm, lock_held=case.lock_current)
    place = (case.at.vm_address, case.at.policy.port)
    told = (registration.tags, registration.meta, (registration.address, registration.port))
    if told != ((tag,), meta_of(case.at, case.view.vm), place):
        epoch = case.at.assignment.epoch if case.at.assignment else 0
        yield do.Retag(case.at.service, f"The instance is {tag} at epoch {epoch}.", tag)


def _fence(case: Case) -> Found:
    """Stop what may not run here. The hand reads the assignment once more before it does."""
    if case.since.unwanted is None or not case.let_go or not case.at.assignment_index:
        return
    until = case.since.unwanted + FENCE_GRACE_S
    if case.now < until:
        yield Later(until)
    else:
        assignment = case.at.assignment
        where = f"{assignment.active} at epoch {assignment.epoch}" if assignment else "elsewhere"
        reason = f"{case.at.policy.unit} runs here, but {case.at.service} is active on {where}."
        yield do.StopUnit(case.at.service, reason, case.at.assignment_index)


def _probing(case: Case) -> Found:
    """Ask often while the answer is awaited, seldom when it does not come, never when the agent's probe will do."""
    if not case.needs_probe or case.since.probing is None:
        return
    fast = case.now < case.since.probing + FAST_PROBING_S
    due = case.at.probe.at + (FAST_PROBE_EVERY_S if fast else SLOW_PROBE_EVERY_S)
    if case.at.probe.state is ProbeState.UNKNOWN or case.now >= due:
        yield do.ProbeNow(case.at.service, f"{case.at.policy.unit} runs and its answer is awaited.")
    else:
        yield Later(due)


_RULES = (
    free_dead_lock,
    _unit_check,
    _address,
    _lock,
    tend_data,
    _session,
    _registration,
    _fence,
    _probing,
    _unit_words,
)
