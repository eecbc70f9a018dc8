"""PURE: one service on this VM with everything that follows from its situation at once.

In: a `Situation`, and since when things have been so. Out: questions that the rules in `node.duty` ask.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from orchestrator.node.instance import describe_unit
from orchestrator.node.replication.facts import ServerFacts
from orchestrator.node.situation import (
    CRITICAL,
    RUNNING,
    SETTLING,
    AddressState,
    LocalView,
    ProbeState,
    Situation,
    UnitState,
    UnitStatus,
)


@dataclass(frozen=True, slots=True)
class Given:
    """A planned move as its new holder sees it; `at` (monotonic) is when the lock was first seen free for it."""

    by: str
    at: float


@dataclass(frozen=True, slots=True)
class Since:
    """Since when (monotonic) something has been so without a break; None: it is not so."""

    unwanted: float | None = None
    """The unit runs here and may not."""
    settling: float | None = None
    """systemd has been starting or restarting the unit."""
    awaited: float | None = None
    """The service should be active here and its instance is not registered."""
    awaited_unit: UnitStatus | None = None
    """The unit as it was when the waiting began, to tell an old failure from a new one."""
    probing: float | None = None
    """The instance has been probed without being taken as healthy."""
    handed_over: float | None = None
    """The address has been on the loopback interface: given to another VM."""
    unanswering: float | None = None
    """The data's server runs and does not answer."""
    full: float | None = None
    """The disk with the data has been full."""
    silent: float | None = None
    """The standby that is in sync has acknowledged nothing although something waits for it, or is not connected."""
    unleased: float | None = None
    """The data's server takes writes that no lease would end."""
    lockless: float | None = None
    """There has been no role lock at all, which is not how a lock becomes free: somebody has deleted it."""
    acknowledged: int = 0
    """How many commits had been acknowledged at the last look."""
    given: Given | None = None
    """The role lock was given to this VM by a guard that released it for the present epoch."""


MUTE_S = 3.0
"""A server that runs and has not answered for so long has failed: a busy one answers within `CALL_TIMEOUT_S`."""

FULL_S = 3.0
"""A disk that has been full for so long stays so: what a single query needs may fill it for a moment."""

Memory = Mapping[str, Since]
EMPTY_MEMORY: Memory = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Case:
    """One service with what follows from its situation at once."""

    view: LocalView
    at: Situation
    since: Since
    now: float

    @property
    def active_here(self) -> bool:
        assignment = self.at.assignment
        return assignment is not None and assignment.active == self.view.vm

    @property
    def may_run(self) -> bool:
        """With no assignment yet, the first VM of the order counts as designated."""
        if self.at.assignment is None:
            return self.view.vm == self.at.policy.home
        return self.at.assignment.may_run_on(self.view.vm)

    @property
    def must_leave(self) -> bool:
        return self.view.kv_fresh and self.at.assignment is not None and not self.may_run

    @property
    def ought_to_run(self) -> bool:
        """Active here, or hot standby here: a unit that is down is a failure, not a choice."""
        assignment = self.at.assignment
        hot = self.at.policy.standby == "hot" and assignment is not None and self.view.vm in assignment.standbys
        return self.active_here or hot

    @property
    def lock_mine(self) -> bool:
        return self.at.lock_mine

    @property
    def lock_current(self) -> bool:
        """Ours, at the assignment's epoch, for the VM that the assignment makes active."""
        lock, assignment = self.at.lock, self.at.assignment
        return (
            self.active_here
            and self.lock_mine
            and lock is not None
            and lock.value is not None
            and assignment is not None
            and (lock.value.vm, lock.value.epoch) == (self.view.vm, assignment.epoch)
        )

    @property
    def lock_free(self) -> bool:
        return self.at.lock is None or self.at.lock.session is None

    @property
    def address_is_safe(self) -> bool:
        """Nobody else may hold it: the lock is ours, or it is free and only we may take it (and are about to)."""
        return self.lock_mine or (self.lock_free and self.active_here and (self.healthy or self.unproven))

    @property
    def answers(self) -> bool:
        running = self.at.unit.state is UnitState.ACTIVE and self.at.probe.state is ProbeState.OK
        return running and (not self.replicated or (self.has_read_server and self.data_fault is None))

    @property
    def replicated(self) -> bool:
        return self.at.policy.replication is not None

    @property
    def has_read_server(self) -> bool:
        facts = self.at.data.facts
        return facts is not None and facts.answers

    @property
    def server_is_mute(self) -> bool:
        """The data's server runs, and was asked and did not answer."""
        facts = self.at.data.facts
        running = self.replicated and self.at.unit.state is UnitState.ACTIVE
        return running and facts is not None and not facts.answers

    def standby_is_mute(self, acknowledged_before: int) -> bool:
        """Commits wait here for a standby that is gone, or that says nothing."""
        facts = self.at.data.facts
        if facts is None or not facts.answers or not facts.waits_for_replica:
            return False
        return facts.replicas == 0 or (facts.waiting > 0 and facts.acknowledged == acknowledged_before)

    @property
    def data_fault(self) -> str | None:
        """Why the instance of a replicated service fails although its unit runs."""
        facts, name = self.at.data.facts, self.at.policy.unit
        if facts is None or self.at.unit.state is not UnitState.ACTIVE:
            return None
        if self.can_write_no_more and not (self.active_here and self.alone_is_whole):
            return f"{name} runs and can write nothing more: {facts.full}"
        if not facts.answers:
            over = self.since.unanswering is not None and self.now >= self.since.unanswering + MUTE_S
            return f"{name} runs and does not answer: {facts.problem}" if over else None
        if facts.replica is not None and facts.replica.needs_clone and not self.active_here:
            source, why = facts.replica.source, facts.replica.error
            return f"the copy of {self.at.service} here cannot follow {source} any more and must be replaced: {why}"
        return None

    @property
    def can_write_no_more(self) -> bool:
        return self.since.full is not None and self.now >= self.since.full + FULL_S

    @property
    def alone_is_whole(self) -> bool:
        """No other copy holds every acknowledged write, as far as is known: nobody could take over without loss."""
        sync = self.at.data.sync
        return sync is None or set(sync.complete) <= {self.view.vm}

    @property
    def data_words(self) -> str:
        """What the server does, for people; changes only when that does."""
        facts = self.at.data.facts
        if not self.replicated or facts is None:
            return ""
        full = f"; {facts.full}" if facts.full else ""
        return f"{full}; {_words_for(facts)}"

    @property
    def healthy(self) -> bool:
        registration = self.at.registration
        return self.at.unit.state is UnitState.ACTIVE and registration is not None and registration.is_healthy

    @property
    def unproven(self) -> bool:
        """The agent has just started: it has ended our session, and lets us have another when it has asked."""
        registration = self.at.registration
        return self.at.unit.state is UnitState.ACTIVE and registration is not None and registration.is_unproven

    @property
    def fails_probe(self) -> bool:
        registration = self.at.registration
        return registration is not None and registration.probe_status == CRITICAL and not registration.probe_unasked

    @property
    def lock_moves(self) -> bool:
        """The lock is about to be taken or released; what only people read waits until then."""
        return self.lock_mine if not self.active_here else self.healthy and not self.lock_current

    @property
    def stopped_on_purpose(self) -> bool:
        """Down without failing, where it need not run."""
        down = self.at.unit.state in (UnitState.STOPPED, UnitState.ABSENT)
        return down and not self.ought_to_run and not self.lock_mine

    @property
    def let_go(self) -> bool:
        """Neither lock nor address is held: the instance may be taken apart."""
        return not self.lock_mine and self.at.address is not AddressState.UP

    @property
    def needs_probe(self) -> bool:
        registration = self.at.registration
        unproven = registration is None or not registration.is_whole or registration.unit_status == CRITICAL
        ready = self.view.kv_fresh and self.view.agent_known and self.may_run
        # With a fault of its data no answer would make it healthy.
        return ready and unproven and self.at.unit.state is UnitState.ACTIVE and self.data_fault is None

    @property
    def describe(self) -> str:
        return describe_unit(self.at.policy.unit, self.at.unit) + self.data_words


def _words_for(facts: ServerFacts) -> str:
    if not facts.answers:
        return f"it does not answer: {facts.problem}"
    if facts.writable:
        return "it takes writes, each acknowledged by the standby" if facts.waits_for_replica else "it takes writes"
    if facts.replica is None:
        return "it is read-only and nobody's copy"
    trouble = f" and {facts.replica.trouble}" if facts.replica.trouble else ""
    return f"it is a copy of {facts.replica.source}{trouble}"


def remember(old: Since, case: Case) -> Since:
    """Return since when the things that have a grace have been so."""

    def since(was: float | None, is_so: bool) -> float | None:
        return (case.now if was is None else was) if is_so else None

    registration, facts = case.at.registration, case.at.data.facts
    unregistered = case.view.kv_fresh and case.view.agent_known and (registration is None or not registration.is_whole)
    awaited = unregistered and case.active_here
    return Since(
        unwanted=since(old.unwanted, case.must_leave and case.at.unit.state in RUNNING),
        settling=since(old.settling, case.at.unit.state in SETTLING),
        awaited=since(old.awaited, awaited),
        awaited_unit=(old.awaited_unit or case.at.unit) if awaited else None,
        probing=since(old.probing, case.needs_probe),
        handed_over=since(old.handed_over, case.at.address is AddressState.HANDED_OVER),
        unanswering=since(old.unanswering, case.server_is_mute),
        full=since(old.full, facts is not None and bool(facts.full)),
        silent=since(old.silent, case.standby_is_mute(old.acknowledged)),
        unleased=since(old.unleased, facts is not None and facts.writable and not case.at.data.leased),
        lockless=since(old.lockless, case.view.kv_fresh and case.at.lock is None),
        acknowledged=facts.acknowledged if facts is not None and facts.answers else old.acknowledged,
        given=_given(old.given, case),
    )


def _given(old: Given | None, case: Case) -> Given | None:
    """Tell a lock that was released for this epoch from one that was lost: that one's value is of an older epoch."""
    lock, assignment = case.at.lock, case.at.assignment
    if not case.active_here or lock is None or lock.value is None or assignment is None:
        return None
    if case.lock_mine:
        return old
    released = lock.session is None and lock.value.epoch == assignment.epoch and lock.value.vm != case.view.vm
    return (old or Given(lock.value.vm, case.now)) if released else None
