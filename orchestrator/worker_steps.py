"""The worker's steps: take commands, claim them, have their plays run, record what they came to.

In: what `observe.watch` shows, messages (`dispatch.consumer`), events of plays (`execute.play`). Out: commands'
records, acknowledgements. Knows no thread, socket or clock: `worker` has those, and the simulation its own.

The record in KV is the truth and the lock on its key says whose it is; a worker that cannot tell any more whether
the lock is still its own stops its plays before another may begin them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tenacity import wait_fixed

from orchestrator.backoff import pause_s
from orchestrator.dispatch.consumer import Delivery, Mailbox
from orchestrator.domain import keys
from orchestrator.domain.policy import DispatchPolicy, Policy
from orchestrator.domain.records import Assignment, Command, Installed, Request
from orchestrator.domain.view import Kept, Unreadable
from orchestrator.domain.wire import Message, Senders, contradiction, parse_message
from orchestrator.execute.choice import (
    Ack,
    Choice,
    Claim,
    Close,
    CommandSeen,
    Refuse,
    Reject,
    Rules,
    Situation,
    Stop,
    choose,
)
from orchestrator.execute.claim import claim_command, close_command, refuse_command, written
from orchestrator.execute.desk import Desk, fields_of
from orchestrator.execute.knowledge import Knowledge
from orchestrator.execute.messages import Placed, hand_request, place_request
from orchestrator.execute.noted import ClaimTried, MessageTaken, Noted, ignore
from orchestrator.execute.play import PlayEvent, Plays
from orchestrator.execute.refusals import Refusals
from orchestrator.execute.releases import Found
from orchestrator.observe.parse import parse_policy
from orchestrator.store.port import KvPair, Port, Refused, Session, Unknown
from orchestrator.store.records import create_record, encoded, kept_or_unreadable, read_record
from orchestrator.store.sessions import end_own_sessions, own_session, worker_session

log = logging.getLogger(__name__)

ALIVE_CHECK = keys.daemon_check_id("worker")
PARALLEL_PLAYS = 4
# None of them grows: a failover waits for what was refused, lost or not answered, and a try is one call to the agent.
SESSION_PAUSES = wait_fixed(0.5)
CLAIM_PAUSES = wait_fixed(0.3)
UNANSWERED_PAUSES = wait_fixed(0.3)
PLAYBOOKS_LOOKED_AT_EVERY_S = 10.0
NO_PLAYBOOKS = Found(None, {})
# Reading what a message or a new epoch names, then choosing again: the record, its assignment, and once to spare.
MAX_ROUNDS = 4

# A worker that has not been sure of Consul for LEASE_S stops its plays. Another worker can claim them only after
# gossip has declared this VM dead (1 s or more) or its check has failed, plus the lock-delay. An agent that is cut
# off says within 2 s that it knows no leader: 2 + LEASE_S < 1 + LOCK_DELAY_S, so two never run one command.
# The lease must outlast a cycle in which one call to Consul ran into its time-out.
LEASE_S = 2.5
LOCK_DELAY_S = 4.5


@dataclass(frozen=True, slots=True)
class Seen:
    """What the watch shows at one moment."""

    pairs: tuple[KvPair, ...]
    """Keys under `orch/commands/` and `orch/services/`, `orch/config`, and what this VM has of playbooks."""
    sessions: tuple[Session, ...] | None
    """Sessions of this VM; None while not known."""
    known: bool
    """All of it is known to be the present state: Consul answers and has a leader."""


@dataclass(frozen=True, slots=True)
class Cycle:
    """What one cycle came to. `sentence` is never empty."""

    sentence: str
    wake_at: float | None
    """Monotonic: come round again by then, even if nothing changes."""


class Worker:
    """One worker's steps. All calls come from one thread; `now` is monotonic, `wall` gives the time for records."""

    def __init__(
        self,
        port: Port,
        plays: Plays,
        mailbox: Mailbox,
        vm: str,
        senders: Senders,
        wall: Callable[[], float],
        note: Callable[[Noted], None] = ignore,
        look_at_playbooks: Callable[[], Found] = lambda: NO_PLAYBOOKS,
        look_for_obstacle: Callable[[], str] = str,
    ) -> None:
        """`note` is told what may be counted. `look_at_playbooks` reads what this VM has; it may take some 10 ms.
        `look_for_obstacle` says why no play can be run here, nothing where one can; it must not wait."""
        self._port = port
        self._mailbox = mailbox
        self._vm = vm
        self._senders = senders
        self._wall = wall
        self._note = note
        self._desk = Desk(port, plays, wall, note)
        self._knowledge = Knowledge()
        self._policy: Policy | None = None
        self._session: str | None = None
        self._next_session_try = float("-inf")
        self._confirmed_at: float | None = None
        self._held: dict[str, list[tuple[Message, Delivery]]] = {}
        self._by_hand: list[tuple[Request, Delivery]] = []
        self._refusals = Refusals(vm)
        self._not_before: dict[str, float] = {}
        self._retiring = False
        self._look_at_playbooks = look_at_playbooks
        self._look_for_obstacle = look_for_obstacle
        self._playbooks = NO_PLAYBOOKS
        self._next_look = float("-inf")
        self._left: frozenset[str] = frozenset()
        self._said = ""
        self._trouble = ""

    # -- what happens outside ----------------------------------------------------------------------------------------

    @property
    def session(self) -> str | None:
        """This worker's session."""
        return self._session

    @property
    def plays_in_hand(self) -> int:
        """How many plays run, or have ended and are not written yet. For any thread."""
        return self._desk.size

    @property
    def is_idle(self) -> bool:
        """Say whether nothing is in hand."""
        return self._desk.is_empty

    @property
    def dispatch(self) -> DispatchPolicy:
        """The part of the policy in force that workers go by."""
        return self._policy.dispatch if self._policy is not None else DispatchPolicy()

    def take_message(self, delivery: Delivery) -> None:
        """Take a message: hold it for its command, make it a request, or send it to the dead-letter queue."""
        if delivery.unreadable:
            self._refuse(delivery, f"A message is refused: its properties cannot be read ({delivery.unreadable}).")
            return
        try:
            message = parse_message(delivery.body)
        except ValueError as problem:
            self._refuse(delivery, f"A message is refused: {problem}.")
            return
        objection = self._senders.objection_to(message, delivery.sender)
        if objection:
            self._refuse(delivery, f"A {message.command_type} message is refused: {objection}.")
        elif message.id is None:
            request = hand_request(message, delivery.body, self._wall(), self._policy)
            self._by_hand.append((request, delivery))
            self._note(MessageTaken("request"))
        else:
            self._note(MessageTaken("command"))
            self._held.setdefault(message.id, []).append((message, delivery))

    def _refuse(self, delivery: Delivery, sentence: str) -> None:
        """Send the message to the dead-letter queue, and have the journal say why."""
        log.warning("%s It goes to the dead-letter queue.", sentence)
        self._mailbox.reject(delivery)
        self._refusals.note(sentence)
        self._note(MessageTaken("rejected"))

    def forget_connection(self, connection: int) -> None:
        """The connection to the broker is gone: what it delivered comes again."""
        for command_id, deliveries in list(self._held.items()):
            left = [each for each in deliveries if each[1].connection != connection]
            if left:
                self._held[command_id] = left
            else:
                del self._held[command_id]

    def take_play_event(self, event: PlayEvent) -> None:
        """Take what a play reports."""
        self._desk.take_event(event)

    def retire(self) -> None:
        """Take nothing more; what runs may finish."""
        self._retiring = True

    def release_plays(self) -> None:
        """End what still runs and leave it to another worker, in the cycles that follow."""
        self._desk.release_all()

    # -- the cycle ----------------------------------------------------------------------------------------------------

    def cycle(self, seen: Seen, now: float) -> Cycle:
        """Look at everything once and do what is to be done. Raises nothing that Consul may answer."""
        self._knowledge.learn(seen.pairs, now)
        self._learn_policy(seen)
        self._keep_lease(seen, now)
        # After one call that Consul did not answer, no other is made in this cycle: each may take its full time-out.
        answered = self._keep_session(seen, now) and self._place_requests() and self._write_refusals(now)
        wakes: list[float | None] = [self._refusals.due_at()]
        if answered:
            wake_at, answered = self._desk.write_due(now)
            wakes.append(wake_at)
        if answered:
            answered = self._tell_playbooks(seen, now)
        self._tell_unreadable()
        for kept in self._desk.take_written():
            self._knowledge.learn_direct(keys.command(kept.value.id), kept, now)
        choice, answered = self._choose_and_act(now, answered)
        wakes.append(choice.wake_at)
        if self._session is None and not self._retiring:
            wakes.append(self._next_session_try)
        if not answered:
            wakes.append(now + pause_s(UNANSWERED_PAUSES))
        self._say(choice.sentence)
        return Cycle(choice.sentence, min((wake for wake in wakes if wake is not None), default=None))

    def _learn_policy(self, seen: Seen) -> None:
        """Take the newest valid policy; the last good one stays while the newest is invalid."""
        found = parse_policy(next((pair for pair in seen.pairs if pair.key == keys.CONFIG), None))
        if isinstance(found, Kept):
            self._policy = found.value

    def _keep_lease(self, seen: Seen, now: float) -> None:
        """Stop everything when it is too long ago that our locks were known to be ours (also after a freeze)."""
        if self._confirmed_at is not None and now - self._confirmed_at > LEASE_S:
            reason = f"Consul has not been sure for {LEASE_S:g} s, so another worker may take over"
            for command_id in self._desk.stop_all(f"The play is stopped: {reason}."):
                log.warning("The play of %s is stopped: %s.", command_id, reason, extra={"command": command_id})
        if seen.known or self._confirmed_at is None:
            self._confirmed_at = now

    def _keep_session(self, seen: Seen, now: float) -> bool:
        """Notice that our session is gone, and make a new one. False: Consul did not answer."""
        try:
            if self._session is not None and self._is_session_gone(seen):
                log.warning("This worker's session was lost; its plays are stopped.")
                self._session = None
            if any(each.name == worker_session(self._vm) and each.id != self._session for each in seen.sessions or ()):
                end_own_sessions(self._port, worker_session(self._vm), but=self._session)
            if self._session is None and now >= self._next_session_try and not self._retiring:
                self._next_session_try = now + pause_s(SESSION_PAUSES)
                self._session = own_session(
                    self._port, worker_session(self._vm), (ALIVE_CHECK,), lock_delay_s=LOCK_DELAY_S
                )
                self._trouble = ""
                log.info("This worker has a session and takes commands.")
        except Refused as problem:
            self._tell(f"This worker has no session yet, so it takes no commands: {problem}")
        except Unknown as problem:
            self._tell(f"Consul does not say what became of this worker's session: {problem}")
            return False
        return True

    def _is_session_gone(self, seen: Seen) -> bool:
        """Believe the watch when it shows the session; ask when it does not, since it may lag behind."""
        if seen.sessions is None or any(each.id == self._session for each in seen.sessions):
            return False
        _, sessions = self._port.session_list(self._port.node_name())
        return all(each.id != self._session for each in sessions)

    def _place_requests(self) -> bool:
        """Turn messages that were published by hand into requests. False: Consul did not answer."""
        for request, delivery in list(self._by_hand):
            try:
                placed = place_request(self._port, request, delivery.body, redelivered=delivery.redelivered)
            except (Unknown, Refused) as problem:
                log.warning("A message published by hand waits to become a request: %s", problem)
                return False
            self._by_hand.remove((request, delivery))
            if placed is Placed.REPLAYED:
                self._refuse(delivery, f"A {request.kind.value} message is refused: {placed.value}.")
                continue
            self._mailbox.ack(delivery)
            if placed is Placed.NEW:
                fields = {"service": request.service, "request": request.id}
                log.info("A message published by hand became the request %s.", request.id, extra=fields)
        return True

    def _write_refusals(self, now: float) -> bool:
        """Leave what was refused to the leader, for the journal. False: Consul did not answer."""
        due_at = self._refusals.due_at()
        if due_at is None or due_at > now:
            return True
        entry = self._refusals.entry(self._wall())
        try:
            create_record(self._port, keys.refused(entry.id), entry)
        except Refused as problem:
            # Never: what was refused is in this log, and commands must not wait for the journal.
            log.warning("The journal is not told of refused messages: %s", problem)
        except Unknown as problem:
            log.warning("The journal cannot be told of refused messages yet: %s", problem)
            return False
        self._refusals.note_written(now)
        return True

    def _tell_playbooks(self, seen: Seen, now: float) -> bool:
        """Keep in KV which playbooks this VM has. False: Consul did not answer."""
        if now < self._next_look or not seen.known or self._retiring:
            return True
        self._next_look = now + PLAYBOOKS_LOOKED_AT_EVERY_S
        self._playbooks = self._look_at_playbooks()
        kept = tuple(sorted(self._playbooks.kept))
        pair = next((pair for pair in seen.pairs if pair.key == keys.installed(self._vm)), None)
        told = kept_or_unreadable(pair, Installed) if pair is not None else None
        if not kept and told is None:
            return True
        if isinstance(told, Kept) and (told.value.current, told.value.kept) == (self._playbooks.current, kept):
            return True
        installed = Installed(vm=self._vm, current=self._playbooks.current, kept=kept, at=self._wall())
        try:
            self._port.kv_put(keys.installed(self._vm), encoded(installed))
        except (Unknown, Refused) as problem:
            self._tell(f"It cannot be written now which playbooks are here: {problem}")
            return False
        return True

    def _tell_unreadable(self) -> None:
        """Say once of each command that is left alone because this worker cannot read it."""
        found = self._knowledge.commands(())
        left = frozenset(command_id for command_id, kept in found.items() if isinstance(kept, Unreadable))
        for command_id in sorted(left - self._left):
            kept = found[command_id]
            assert isinstance(kept, Unreadable)
            log.warning(
                "Command %s is left to another worker: its record cannot be read here: %s.",
                command_id,
                kept.problem,
                extra={"command": command_id},
            )
        self._left = left

    def _choose_and_act(self, now: float, answered: bool) -> tuple[Choice, bool]:
        """Choose, reading directly what the watch does not show yet, then act. Without answers from Consul only plays
        are stopped and messages acknowledged."""
        asked: frozenset[str] = frozenset()
        choice = choose(self._situation(now, asked))
        for _ in range(MAX_ROUNDS):
            if not choice.asks or not answered:
                break
            answered = all(self._read_directly(ask.key, now) for ask in choice.asks)
            asked |= {ask.key for ask in choice.asks}
            if answered:
                choice = choose(self._situation(now, asked))
        for action in choice.actions:
            if isinstance(action, Stop):
                log.warning(action.sentence, extra={"command": action.command_id})
                self._desk.stop(action)
            elif isinstance(action, Ack):
                for _, delivery in self._held.pop(action.command_id, []):
                    self._mailbox.ack(delivery)
            elif isinstance(action, Reject):
                for _, delivery in self._held.pop(action.command_id, []):
                    self._refuse(delivery, action.sentence)
            elif isinstance(action, Claim | Close | Refuse) and answered:
                answered = self._write(action, now)
        return choice, answered

    def _situation(self, now: float, asked: frozenset[str]) -> Situation:
        mine = self._desk.mine
        commands = self._knowledge.commands({*mine, *self._held})
        self._refuse_forged(commands)
        self._not_before = {name: at for name, at in self._not_before.items() if at > now}
        return Situation(
            now=now,
            session=self._session,
            commands=commands,
            assignments=self._knowledge.assignments(),
            plays=mine,
            delivered=frozenset(self._held),
            asked=asked,
            pending_since=self._knowledge.pending_since,
            not_before=self._not_before,
            rules=Rules(
                self.dispatch.pickup_after_s,
                self.dispatch.max_attempts,
                0 if self._retiring else PARALLEL_PLAYS,
            ),
            vm=self._vm,
            playbooks=self._playbooks_for(commands),
            obstacle=self._look_for_obstacle(),
            workers=self._workers,
        )

    def _refuse_forged(self, commands: Mapping[str, CommandSeen]) -> None:
        """Refuse what says otherwise than the record that it names."""
        for command_id, held in list(self._held.items()):
            seen = commands.get(command_id)
            if not isinstance(seen, Kept):
                continue
            wrong = {delivery: contradiction(message, seen.value) for message, delivery in held}
            for delivery in filter(wrong.get, wrong):
                self._refuse(delivery, f"A message of {command_id} is refused: {wrong[delivery]}.")
            self._held[command_id] = [each for each in held if not wrong[each[1]]]
            if not self._held[command_id]:
                del self._held[command_id]

    def _playbooks_for(self, commands: Mapping[str, CommandSeen]) -> frozenset[str]:
        """Return which playbooks this worker can run a command with: looked at anew while one waits that asks for some,
        since somebody may have changed them a moment ago."""
        if any(
            isinstance(kept, Kept)
            and not kept.value.is_final
            and kept.value.playbooks is not None
            and kept.session in (None, self._session)
            for kept in commands.values()
        ):
            self._playbooks = self._look_at_playbooks()
        return frozenset(self._playbooks.kept)

    @property
    def _workers(self) -> frozenset[str]:
        vms = self._policy.vms if self._policy is not None else {}
        return frozenset(name for name, vm in vms.items() if "worker" in vm.roles)

    def _read_directly(self, key: str, now: float) -> bool:
        try:
            if key.startswith(keys.COMMANDS):
                self._knowledge.learn_direct(key, read_record(self._port, key, Command), now)
            else:
                self._knowledge.learn_direct(key, read_record(self._port, key, Assignment), now)
        except (Unknown, Refused) as problem:
            self._tell(f"{key} cannot be read now: {problem}")
            return False
        return True

    def _write(self, action: Claim | Close | Refuse, now: float) -> bool:
        """Claim, close or refuse a command. False: Consul did not say what came of it; the watch or a read will."""
        try:
            if isinstance(action, Claim):
                self._claim(action, now)
            elif isinstance(action, Refuse):
                refused = refuse_command(self._port, action.command, self._vm, action.reason)
                self._after_write(action.command, refused, None, action.sentence, now)
            else:
                closed = close_command(self._port, action.command, action.state, action.sentence, self._wall())
                self._after_write(action.command, closed, None, action.sentence, now)
        except (Unknown, Refused) as problem:
            fields = fields_of(action.command.value)
            log.warning("It is not known what became of this: %s (%s)", action.sentence, problem, extra=fields)
            if isinstance(action, Claim):
                self._note(ClaimTried("unknown"))
            self._not_before[action.command.value.id] = now + pause_s(CLAIM_PAUSES)
            return False
        return True

    def _claim(self, claim: Claim, now: float) -> None:
        assert self._session is not None
        claimed = claim_command(
            self._port,
            claim.command,
            claim.assignment,
            session=self._session,
            vm=self._vm,
            attempt=claim.attempt,
            now=self._wall(),
        )
        self._note(ClaimTried("lost" if claimed is None else "won"))
        self._after_write(claim.command, claimed, self._session, claim.sentence, now)
        if claimed is not None:
            self._desk.begin(claimed, self._session, self.dispatch.play_timeout_s)

    def _after_write(
        self, before: Kept[Command], changed: Command | None, session: str | None, sentence: str, now: float
    ) -> None:
        """Remember what we wrote; after a loss read anew, and wait a moment before the next try."""
        command = before.value
        if changed is not None:
            log.info(sentence, extra=fields_of(command))
            key = keys.command(command.id)
            self._knowledge.learn_direct(key, written(changed, before.index, session), now)
            return
        self._not_before[command.id] = now + pause_s(CLAIM_PAUSES)
        self._read_directly(keys.command(command.id), now)
        self._read_directly(keys.assignment(command.service), now)

    def _say(self, sentence: str) -> None:
        """Log what a cycle came to, for debugging, unless it is what was said last: actions log themselves."""
        if sentence != self._said:
            self._said = sentence
            log.debug(sentence)

    def _tell(self, trouble: str) -> None:
        """Log what is in the way, once until it is something else."""
        if trouble != self._trouble:
            self._trouble = trouble
            log.info(trouble)
