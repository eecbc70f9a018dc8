"""The controller: one loop that watches, decides, writes and dispatches; only the leader of them changes anything.

In: snapshots of Consul (`observe.watch`). Out: transactions (`store`), commands on the queue (`dispatch`), a line in
the recorder. `Controller` has the steps and no thread; `run` has the threads and no rule.
"""

from __future__ import annotations

import contextlib
import logging
import re
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from orchestrator.decide import decide
from orchestrator.decide.news import announced_after
from orchestrator.dispatch.publisher import Publisher
from orchestrator.domain import keys
from orchestrator.domain.decision import Decision, Memory, Outcome, Put
from orchestrator.domain.policy import Policy
from orchestrator.domain.records import Command, HistoryEntry
from orchestrator.domain.sinks import SinkPolicy
from orchestrator.domain.view import Unreadable, View
from orchestrator.liveness import Liveness
from orchestrator.metrics.controller import ControllerMetrics, Decide
from orchestrator.notify.delivery import deliver
from orchestrator.notify.notice import Templates
from orchestrator.notify.notifier import Notifier
from orchestrator.observe.clock import LeaderClock, newest_moment
from orchestrator.observe.parse import parse_policy
from orchestrator.observe.quorum import QuorumWatch
from orchestrator.observe.watch import CHECKS, Observed, Snapshot, leader_sources, start_watching
from orchestrator.recorder import Inputs, Recorder
from orchestrator.settings import LocalSettings
from orchestrator.store.consul_port import ConsulPort
from orchestrator.store.election import Election
from orchestrator.store.port import Port, Refused, TxnOutcome, Unknown
from orchestrator.store.records import apply_decision
from orchestrator.store.retention import trim_finished
from orchestrator.store.shown_role import ShownRole

log = logging.getLogger(__name__)

# How often an idle loop comes round, to show that it is alive. The watches wake it at once when something changes.
HEARTBEAT_S = 1.0
# How soon to look again when Consul could not say whether a transaction was accepted.
AFTER_UNKNOWN_S = 0.2
# What we wrote arrives by every watch within milliseconds, within a second while Consul elects its leader.
OWN_WRITES_SEEN_WITHIN_S = 2.0
HOUSEKEEPING_S = 60.0
# A loop that has not gone round for so long hangs; its alive check turns critical and another controller leads.
STALE_AFTER_S = 5.0
DEFAULT_KEEP = 200


@dataclass(frozen=True, slots=True)
class Cycle:
    """What one cycle came to: when to come round again at the latest, what was decided on which view, what written."""

    wake_at: float | None
    outcome: Outcome | None
    applied: tuple[Decision, ...] = ()
    view: View | None = None


Heed = Callable[[str | None, Iterable[SinkPolicy]], None]
"""Who tells the sinks hears at each round by which session we lead (None: we do not), and whom the policy names."""


class Controller:
    """Decides and writes. Holds the leader's memory; knows no thread, socket or clock."""

    def __init__(
        self,
        port: Port,
        publish: Callable[[Command], None],
        record: Callable[[Inputs, Outcome], None],
        decide: Decide = decide,
    ) -> None:
        """`decide` is the one of `orchestrator.decide`, whatever is wrapped around it."""
        self._decide = decide
        self._port = port
        self._publish = publish
        self._record = record
        self._memory = Memory()
        self._policy: Policy | None = None
        self._said = ""
        self._complaints: set[str] = set()
        self._replaced: dict[str, int] = {}
        """Key that we wrote -> the ModifyIndex that we replaced."""
        self._replaced_at = 0.0

    def forget(self) -> None:
        """Drop the memory: leadership was lost or is new, and somebody else's view counts. Always safe."""
        self._memory = Memory()
        self._replaced = {}

    @property
    def policy(self) -> Policy | None:
        """The policy in force, as last learnt."""
        return self._policy

    def learn_policy(self, snapshot: Snapshot) -> Policy | None:
        """Return the policy in force: the newest valid one; the last good one while the newest is invalid."""
        found = parse_policy(snapshot.pair(keys.CONFIG))
        if isinstance(found, Unreadable):
            self._complain(f"{keys.CONFIG} is not a valid policy ({found.problem}); the last good one stays in force.")
        elif found is not None:
            self._policy = found.value
        return self._policy

    def cycle(
        self,
        snapshot: Snapshot,
        leader_session: str,
        now: float,
        observed_at: float,
        quorum_since: float | None = None,
    ) -> Cycle:
        """Decide on the snapshot and write what was decided, each decision in one transaction fenced by the session.

        Raises nothing that Consul may answer: a lost or unanswered transaction is decided anew on a later snapshot.
        """
        policy = self.learn_policy(snapshot)
        if policy is None:
            self._say(f"No policy yet: {keys.CONFIG} is absent; apply one with `orch config apply FILE`.")
            return Cycle(None, None)
        if self._lacks_own_writes(snapshot, now):
            return Cycle(self._replaced_at + OWN_WRITES_SEEN_WITHIN_S, None)
        inputs = Inputs(now, snapshot.pairs, snapshot.checks, policy, self._memory, observed_at, quorum_since)
        view = inputs.view()
        for bad in view.unreadable:
            self._complain(f"{bad.key} cannot be read and is ignored: {bad.problem}")
        outcome = self._decide(view, self._memory, policy, now)
        applied, unsure = self._write((*outcome.decisions, *outcome.news), leader_session)
        self._note_own_writes(applied, now)
        self._memory = self._memory_after(outcome, applied)
        self._record(inputs, outcome)
        if not outcome.decisions:
            self._say(outcome.sentence)
        soon = now + AFTER_UNKNOWN_S
        wake_at = min(outcome.wake_at or soon, soon) if unsure else outcome.wake_at
        return Cycle(wake_at, outcome, applied, view)

    def _lacks_own_writes(self, snapshot: Snapshot, now: float) -> bool:
        """Say whether the snapshot still shows something as it was before we wrote it.

        Prefixes are watched apart: half of a transaction of ours, seen for a moment, would be decided on as if the
        other half had never happened.
        """
        if not self._replaced or now >= self._replaced_at + OWN_WRITES_SEEN_WITHIN_S:
            return False
        shown = {pair.key: pair.modify_index for pair in snapshot.pairs if pair.key in self._replaced}
        self._replaced = {key: index for key, index in self._replaced.items() if shown.get(key, 0) == index}
        return bool(self._replaced)

    def _note_own_writes(self, applied: tuple[Decision, ...], now: float) -> None:
        """Remember what the next snapshot has to show. The history is not watched."""
        changes = [change for decision in applied for change in decision.changes]
        self._replaced = {change.key: change.index for change in changes if not change.key.startswith(keys.HISTORY)}
        self._replaced_at = now

    def _write(self, decisions: tuple[Decision, ...], leader_session: str) -> tuple[tuple[Decision, ...], bool]:
        """Apply the decisions; return those that were accepted, and whether the others are to be looked at soon."""
        applied: list[Decision] = []
        overtaken = False
        for decision in decisions:
            try:
                result = apply_decision(self._port, decision, leader_session)
            except Unknown as problem:
                unsure = "could not find out whether this was written: %s (%s)"
                log.warning(unsure, decision.sentence, problem, extra=fields_of(decision))
                return tuple(applied), True
            except Refused as problem:
                # It will be refused again each time, which must not keep the other services' decisions from theirs.
                log.warning("Consul refuses this: %s (%s)", decision.sentence, problem, extra=fields_of(decision))
                overtaken = True
                continue
            if result is not TxnOutcome.WON:
                log.info("overtaken, deciding anew: %s", decision.sentence, extra=fields_of(decision))
                overtaken = True
                continue
            log.info(decision.sentence, extra=fields_of(decision))
            applied.append(decision)
            for command in decision.commands:
                self._publish(command)
        return tuple(applied), overtaken

    def _memory_after(self, outcome: Outcome, applied: tuple[Decision, ...]) -> Memory:
        """Return the memory to keep: what was announced counts only if it was written."""
        return replace(outcome.memory, announced=announced_after(self._memory.announced, outcome, applied))

    def _say(self, sentence: str) -> None:
        """Log the sentence unless it is what was said last (but for the seconds that it counts down)."""
        gist = re.sub(r"([0-9]+ (h|min) )*[0-9]+(\.[0-9]+)? (min|s)\b", "", sentence)
        if gist != self._said:
            self._said = gist
            log.info(sentence)

    def _complain(self, sentence: str) -> None:
        """Warn once of what cannot be read."""
        if sentence not in self._complaints:
            self._complaints = {*list(self._complaints)[-99:], sentence}
            log.warning(sentence)


def fields_of(decision: Decision) -> dict[str, object]:
    """Return the journal's fields for what is logged about the decision: those of its history entry."""
    records = [change.record for change in decision.changes if isinstance(change, Put)]
    entry = next((record for record in records if isinstance(record, HistoryEntry)), None)
    commands = ",".join(command.id for command in decision.commands)
    told = {"vm": entry.vm, "epoch": entry.epoch, "request": entry.request_id} if entry else {}
    return {"service": decision.service, **told, "command": commands or None}


def run(settings: LocalSettings, stop: threading.Event) -> None:
    """Run the controller until `stop` is set. Leads when it can, follows otherwise, and keeps its view warm."""

    def make_port(stale: bool = False) -> Port:
        where, failed = settings.consul, metrics.note_consul_failure
        return ConsulPort(where.host, where.port, token_file=token_file, stale_reads=stale, on_failure=failed)

    token_file = settings.consul_token_file("controller")
    publisher = Publisher(settings.amqp)
    recorder = Recorder(settings.state_dir / "recorder")
    metrics = ControllerMetrics(lambda: election.leads, lambda: publisher.waiting, lambda: recorder.dropped)
    port = make_port()
    election = Election(port, settings.vm)
    liveness = Liveness(settings.health_ports.controller, STALE_AFTER_S, "controller", metrics)
    observed = start_watching(make_port, leader_sources(stop), stop)
    templates = Templates(settings.templates_dir)
    notifier = Notifier(make_port, lambda sink, notice: deliver(sink, notice, templates))
    publisher.start()
    controller = Controller(port, publisher.publish, recorder.write, metrics.timed(decide))
    loop = Loop(port, observed, election, controller, liveness, note=metrics.note, heed=notifier.heed)
    try:
        loop.run(stop)
    finally:
        loop.step_down()
        publisher.stop()
        liveness.close()


class Loop:
    """The controller's loop: wait for news, keep or take the lead, let the controller decide, tidy up now and then."""

    def __init__(
        self,
        port: Port,
        observed: Observed,
        election: Election,
        controller: Controller,
        liveness: Liveness,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        note: Callable[[Cycle], None] = lambda cycle: None,
        heed: Heed = lambda session, sinks: None,
    ) -> None:
        """`wall` and `monotonic` are others in the simulation only. `note` is told each cycle, to be counted; neither
        it nor `heed` may wait for anything."""
        self._note = note
        self._clock = LeaderClock(wall, monotonic)
        self._monotonic = monotonic
        self._port = port
        self._observed = observed
        self._election = election
        self._controller = controller
        self._liveness = liveness
        self._heed = heed
        self._quorum = QuorumWatch()
        self._role = ShownRole(port, monotonic)
        self._seen = 0
        self._wake_at: float | None = None
        self._tended_at: float | None = None
        self._begins = False

    def run(self, stop: threading.Event) -> None:
        """Go round until `stop` is set."""
        while not stop.is_set():
            self.round()

    def step_down(self) -> None:
        """Free the lead at once for another controller, tell nobody anything more, and show that this one has none."""
        self._heed(None, ())
        with contextlib.suppress(Unknown, Refused):
            self._election.resign()
        self._role.withdraw()

    @property
    def patience_s(self) -> float:
        """How long the next round waits for news at most."""
        left_s = HEARTBEAT_S if self._wake_at is None else max(0.0, self._wake_at - self._clock.now())
        return min(HEARTBEAT_S, left_s)

    def round(self) -> None:
        """Wait for news, then go round once."""
        snapshot = self._observed.wait(after=self._seen, timeout_s=self.patience_s)
        is_news = snapshot.version != self._seen
        self._seen = snapshot.version
        self._quorum.note(known=snapshot.known, monotonic=self._monotonic())
        led_before = self._election.leads
        leads = self._keeps_leading(snapshot)
        self._liveness.beat("it leads" if leads else "it follows")
        if leads != led_before:
            self._changed_role(leads, snapshot)
        if not leads:
            self._heed(None, ())
        if not snapshot.known:
            self._wake_at = None
            return
        if self._begins:
            fresh = self._look_as_leader()
            if fresh is None:
                self._wake_at = self._clock.now() + AFTER_UNKNOWN_S
                return
            snapshot = fresh
        self._decide(snapshot, is_news=is_news, begins=self._begins)
        self._begins = False
        # After what may be a failover.
        if leads and self._controller.policy is not None:
            self._heed(self._election.session, self._controller.policy.notifications)
        self._role.show(leads=leads)

    def _decide(self, snapshot: Snapshot, *, is_news: bool, begins: bool) -> None:
        """As the leader decide on what is new or due, and once when the lead `begins`; then tidy up."""
        session = self._election.session
        if session is None:
            self._wake_at = None
            return
        now, monotonic = self._clock.now(), self._monotonic()
        is_due = self._wake_at is not None and now >= self._wake_at
        if is_news or is_due or begins:
            observed_at = now - (monotonic - snapshot.changed_at) if is_news else now
            since = None if self._quorum.since is None else now - (monotonic - self._quorum.since)
            cycle = self._controller.cycle(snapshot, session, now, observed_at, since)
            self._wake_at = cycle.wake_at
            self._note(cycle)
        self._tend(snapshot, session)

    def _look_as_leader(self) -> Snapshot | None:
        """Return what is known now, with checks that are no older than the lead. None: Consul does not answer.

        The watch may be behind by what led to the election: a VM that has just come back would count as lost.
        """
        try:
            index, checks = self._port.checks()
        except (Unknown, Refused) as problem:
            log.info("The checks cannot be read anew, so nothing is decided yet: %s", problem)
            return None
        self._observed.learn(CHECKS, index, checks, swift=True)
        snapshot = self._observed.snapshot()
        return snapshot if snapshot.known else None

    def _keeps_leading(self, snapshot: Snapshot) -> bool:
        """Notice a lost lock, take a free one. An election that Consul does not answer is lost for now."""
        pair = snapshot.pair(keys.LEADER)
        if self._election.notice(pair):
            return True
        if not snapshot.known or self._election.is_hopeless(pair):
            return False
        try:
            return self._election.campaign()
        except (Unknown, Refused) as problem:
            log.debug("cannot campaign now: %s", problem)
            return False

    def _changed_role(self, leads: bool, snapshot: Snapshot) -> None:
        """Begin with an empty memory, which is always safe, and no earlier than the former leader has left off."""
        self._controller.forget()
        self._begins = leads
        if leads:
            self._clock.begin(newest_moment(snapshot.pairs))
        log.info("This controller %s.", "leads now" if leads else "does not lead any more")

    def _tend(self, snapshot: Snapshot, session: str) -> None:
        """Trim old records, about once a minute."""
        now = self._monotonic()
        if self._tended_at is not None and now - self._tended_at < HOUSEKEEPING_S:
            return
        self._tended_at = now
        policy = self._controller.learn_policy(snapshot)
        keep = policy.dispatch.keep_history if policy else DEFAULT_KEEP
        sinks = frozenset(sink.name for sink in policy.notifications) if policy else None
        with contextlib.suppress(Unknown, Refused):
            trim_finished(self._port, session, keep, sinks)
