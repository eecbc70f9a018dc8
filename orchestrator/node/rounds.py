"""One look after the other until nothing is left to do: the guard's cycle, without threads and without waiting.

In: a `Knowledge` that events have been put into. Out: duties carried out, and when to be called again. The guard's
loop calls it for every event; the simulation calls it with a fake port and virtual time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from orchestrator.backoff import pause_s, pauses
from orchestrator.domain import keys
from orchestrator.node import duties as do
from orchestrator.node.address import Door
from orchestrator.node.case import EMPTY_MEMORY, Memory
from orchestrator.node.duty import Plan, duties
from orchestrator.node.hand import TROUBLES, Hand
from orchestrator.node.knowledge import DOUBT, Knowledge, registrations
from orchestrator.node.situation import AddressState, LocalView, ProbeResult, Situation
from orchestrator.store.port import Port, Refused, Unknown

log = logging.getLogger(__name__)

MAX_ROUNDS = 25
"""More duties in a row than any service needs: two of them must be undoing each other."""
REST_S = 0.5
"""Pause after `MAX_ROUNDS`."""
AGENT_EVERY_S = 5.0
AGENT_OFTEN_S = 0.3
ADDRESSES_EVERY_S = 5.0
CONTEST_EVERY_S = 0.5
"""While Consul cannot say who may hold an address that is up here, the network is asked this often."""
LEADER_EVERY_S = 0.5
# A check that was just registered is in the catalog some 10 ms later; until then a session on it is refused.
_SESSION_FAST_TRIES = 50
_SESSION_PAUSES = pauses(*[0.02] * _SESSION_FAST_TRIES, 2.0)
# By then the agent has handed a new check in. If it has not, it takes the catalog for complete although its VM was
# struck off meanwhile (a dead server is), and would notice only with its next full comparison, up to a minute later.
_UNSYNCED_AFTER_TRIES = 40
_PAUSES = pauses(0.1, 0.2, 0.5, 1.0, 2.0)
# A role lock whose session was lost is nobody's for its lock-delay, and clients wait for its end.
_LOCK_PAUSES = pauses(*[0.1] * 30, 1.0)
# What a duty that only asks for something (a stop, a reload) has brought about shows by then, or is asked for again.
_EFFECT_WITHIN_S = 2.0


@dataclass(slots=True)
class _Trouble:
    """A duty that could not be done, and when to try again."""

    tries: int
    not_before: float


class Rounds:
    """Used by one thread only."""

    def __init__(
        self,
        knowledge: Knowledge,
        port: Port,
        hand: Hand,
        clock: Callable[[], float],
        note: Callable[[do.Duty, Situation | None, bool], None] = lambda duty, at, done: None,
    ) -> None:
        """`port` answers with the newest data (not from a follower's copy). `clock` is monotonic. `note` is told each
        duty, what it was made for, and whether it was done, to be counted."""
        self.knowledge = knowledge
        self.doors: Mapping[str, Door] = {}
        self.sentence = "has not looked yet"
        self.view: LocalView | None = None
        """The last look."""
        self._port = port
        self._hand = hand
        self._clock = clock
        self._note = note
        self._memory: Memory = EMPTY_MEMORY
        self._troubles: dict[tuple[str, type[do.Duty]], _Trouble] = {}
        self._probing: dict[str, Situation] = {}
        self._agent_read_at = float("-inf")
        self._addresses_read_at = float("-inf")
        self._contest_asked_at = float("-inf")
        self._leader_asked_at = float("-inf")
        self._watch_agent = False
        self._held: frozenset[str] = frozenset()
        """Services whose role lock was ours at the last look."""

    def run(self, more_events: Callable[[], None] = lambda: None) -> float:
        """Do everything that is to be done; return the monotonic time at which to run again at the latest.

        `more_events` puts what came in meanwhile into the knowledge, so that a failure never waits for a round.
        """
        self._read_what_is_old()
        for _ in range(MAX_ROUNDS):
            more_events()
            view = self.view = self._looked()
            plan = duties(view, self._memory, self._clock())
            self._memory, self._watch_agent = plan.memory, plan.watch_agent
            due = [duty for duty in plan.duties if self._may_do(duty)]
            if not due:
                self.sentence = describe(view)
                return self._wake_at(plan)
            changed = {duty.changes for duty in due if self._do(duty, view)}
            self._read_again(changed)
        log.error("%d rounds without an end, the last duties were: %s", MAX_ROUNDS, [duty.reason for duty in due])
        return self._clock() + REST_S

    def take_probe(self, service: str, result: ProbeResult) -> None:
        """Take the answer of a probe that the hand started, unless the unit changed meanwhile."""
        asked = self._probing.pop(service, None)
        unit = self.knowledge.units.get(asked.policy.unit) if asked else None
        if asked and unit and (unit.state, unit.pid) == (asked.unit.state, asked.unit.pid):
            self.knowledge.probes[service] = result

    def doubt(self, why: str) -> None:
        """Take nothing in KV for known any more until the Raft leader has said it again.

        One that was frozen itself may still answer as the leader for some 100 ms: the network is asked, too.
        """
        self.knowledge.lose(DOUBT, why)
        self._leader_asked_at = float("-inf")
        self._ask_who_has_the_address()

    def read_agent_soon(self) -> None:
        """Read the agent in the next run, because it may have been restarted."""
        self._agent_read_at = float("-inf")

    def read_addresses_soon(self) -> None:
        """Read the addresses in the next run, because the doors are others now."""
        self._addresses_read_at = float("-inf")

    def _looked(self) -> LocalView:
        """Return the view. Where a role lock went, the agent is asked first which of our checks ended its session."""
        view = self.knowledge.view()
        held = frozenset(at.service for at in view.situations if at.lock_mine)
        lost, self._held = self._held - held, held
        if not lost:
            return view
        self._read_again({do.Medium.AGENT})
        return self.knowledge.view()

    def _may_do(self, duty: do.Duty) -> bool:
        if isinstance(duty, do.ProbeNow):
            return duty.service not in self._probing
        trouble = self._troubles.get((duty.service, type(duty)))
        return trouble is None or self._clock() >= trouble.not_before

    def _do(self, duty: do.Duty, view: LocalView) -> bool:
        """Carry it out; say whether something may have changed."""
        at = next((each for each in view.situations if each.service == duty.service), None)
        key = (duty.service, type(duty))
        if isinstance(duty, do.ProbeNow) and at is not None:
            self._probing[duty.service] = at
        fields = {"service": duty.service, "epoch": at.assignment.epoch if at and at.assignment else None}
        try:
            self._hand.carry_out(duty, at, self.doors)
        except TROUBLES as error:
            self._note(duty, at, False)
            self._trouble(key, duty, error, fields)
            return not isinstance(error, Refused)
        self._note(duty, at, True)
        if isinstance(duty, (do.StopUnit, do.CloseConnections)):
            # Its effect comes later; until then there is nothing to repeat.
            self._troubles[key] = _Trouble(0, self._clock() + _EFFECT_WITHIN_S)
        else:
            self._troubles.pop(key, None)
        if isinstance(duty, do.Deregister):
            self.knowledge.unsynced.discard(duty.service)
        if duty.changes is do.Medium.DATA:
            self.knowledge.tell_server(duty.service, _verb(duty))
        if isinstance(duty, do.OpenWrites):
            self.knowledge.lease(duty.service, True)
        if not isinstance(duty, do.ProbeNow):
            log.info("%s: %s", _verb(duty), duty.reason, extra=fields)
        return True

    def _trouble(
        self, key: tuple[str, type[do.Duty]], duty: do.Duty, error: Exception, fields: Mapping[str, object]
    ) -> None:
        tries = self._troubles[key].tries + 1 if key in self._troubles else 1
        fast = isinstance(duty, do.CreateSession) and tries <= _SESSION_FAST_TRIES
        wait = {do.CreateSession: _SESSION_PAUSES, do.AcquireLock: _LOCK_PAUSES}.get(type(duty), _PAUSES)
        self._troubles[key] = _Trouble(tries, self._clock() + pause_s(wait, tries))
        if isinstance(duty, do.CreateSession) and self._clock() >= self._agent_read_at + AGENT_OFTEN_S:
            self.read_agent_soon()  # perhaps the probe failed meanwhile: then there is nothing to try
        lost = tries % _SESSION_FAST_TRIES == _UNSYNCED_AFTER_TRIES and "Missing check" in str(error)
        if isinstance(duty, do.CreateSession) and lost:
            self.knowledge.unsynced.add(duty.service)
        if (not fast and tries in (1, 2, 5, _SESSION_FAST_TRIES + 1)) or tries % 100 == 0:
            log.warning("%s failed %d times: %s (%s)", _verb(duty), tries, error, duty.reason, extra=fields)

    def _wake_at(self, plan: Plan) -> float:
        agent_at = self._agent_read_at + (AGENT_OFTEN_S if plan.watch_agent else AGENT_EVERY_S)
        times = [agent_at, *(trouble.not_before for trouble in self._pending(plan))]
        if self.doors:
            times.append(self._addresses_read_at + ADDRESSES_EVERY_S)
        if self.knowledge.troubled and self._up():
            times.append(self._contest_asked_at + CONTEST_EVERY_S)
        if set(self.knowledge.troubled) == {DOUBT}:
            times.append(self._leader_asked_at + LEADER_EVERY_S)
        if plan.wake_at is not None:
            times.append(plan.wake_at)
        return min(times)

    def _pending(self, plan: Plan) -> list[_Trouble]:
        """Return the troubles of duties that are still due; the others are over."""
        wanted = {(duty.service, type(duty)) for duty in plan.duties}
        for key in [key for key in self._troubles if key not in wanted]:
            del self._troubles[key]
        return list(self._troubles.values())

    def _read_what_is_old(self) -> None:
        now = self._clock()
        media = set()
        if now >= self._agent_read_at + (AGENT_OFTEN_S if self._watch_agent else AGENT_EVERY_S) - 0.01:
            media.add(do.Medium.AGENT)
        if now >= self._addresses_read_at + ADDRESSES_EVERY_S - 0.01:
            media.add(do.Medium.ADDRESS)
        self._read_again(media)
        if not self.knowledge.troubled:
            self.knowledge.contested = set()
        elif now >= self._contest_asked_at + CONTEST_EVERY_S - 0.01:
            self._ask_who_has_the_address()
        if set(self.knowledge.troubled) == {DOUBT} and now >= self._leader_asked_at + LEADER_EVERY_S - 0.01:
            self._ask_the_leader()

    def _ask_the_leader(self) -> None:
        """End the doubt if the leader answers and nobody else has our address."""
        self._leader_asked_at = self._clock()
        try:
            self._read(do.Medium.SESSIONS)
            self._read(do.Medium.KV)
        except (Unknown, Refused) as error:
            log.warning("the Raft leader does not answer yet: %s", error)
            return
        if not self.knowledge.contested:
            self.knowledge.troubled.clear()

    def _ask_who_has_the_address(self) -> None:
        self._contest_asked_at = self._clock()
        self.knowledge.contested = {service for service in self._up() if self.doors[service].is_contested()}

    def _up(self) -> list[str]:
        return [service for service, state in self.knowledge.addresses.items() if state is AddressState.UP]

    def _read_again(self, media: set[do.Medium]) -> None:
        """Read what changed, so that the next round judges the world and not our memory of it."""
        if do.Medium.ADDRESS in media:
            self._addresses_read_at = self._clock()
            self.knowledge.addresses = {service: door.state() for service, door in self.doors.items()}
            self.knowledge.door_troubles = {service: door.trouble() for service, door in self.doors.items()}
        try:
            if do.Medium.AGENT in media:
                self._read_agent()
            for medium in (do.Medium.SESSIONS, do.Medium.KV):
                if medium in media:
                    self._read(medium)
        except (Unknown, Refused) as error:
            log.warning("could not read again what was changed: %s", error)

    def _read(self, medium: do.Medium) -> None:
        if medium is do.Medium.SESSIONS:
            index, sessions = self._port.session_list(self.knowledge.vm)
            self.knowledge.sessions.offer(index, sessions)
        else:
            index, pairs = self._port.kv_list(keys.SERVICES)
            self.knowledge.kv.offer(index, pairs)

    def _read_agent(self) -> None:
        self._agent_read_at = self._clock()
        try:
            self.knowledge.registered = registrations(self._port.agent_services(), self._port.agent_checks())
        except (Unknown, Refused):
            self.knowledge.registered = None
            raise


def _verb(duty: do.Duty) -> str:
    return type(duty).__name__


def describe(view: LocalView) -> str:
    """Return one sentence about the VM: what runs here, in which role."""
    if not view.situations:
        return "no service of the policy concerns this VM"
    words = []
    for at in view.situations:
        tag = at.registration.tags[0] if at.registration and at.registration.tags else "not registered"
        epoch = f" at epoch {at.assignment.epoch}" if at.assignment else ""
        words.append(f"{at.service} {tag}{epoch} ({at.policy.unit} {at.unit.state.value})")
        words.extend([at.door_trouble] if at.door_trouble else [])
    known = "" if view.kv_fresh else "; Consul's KV cannot be read now, so everything stays as it is"
    return "; ".join(words) + known
