"""PURE: what a worker does now, given what it knows: claim, close, stop, acknowledge, or read something again.

In: a `Situation`. Out: a `Choice`: actions in the order in which they are to be carried out, each with its reason
as one sentence, and the time of the next look. No I/O, no clock. Nothing here may claim a command of another epoch
than the assignment's, nor a command that somebody's session holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from orchestrator.domain import keys
from orchestrator.domain.records import Assignment, Command, CommandState, Play
from orchestrator.domain.sentence import short_digest
from orchestrator.domain.view import Kept, Unreadable

CommandSeen = Kept[Command] | Unreadable | None
AssignmentSeen = Kept[Assignment] | Unreadable | None


@dataclass(frozen=True, slots=True)
class Rules:
    """The part of the policy that a worker goes by."""

    pickup_after_s: float = 0.3
    max_attempts: int = 3
    parallel_plays: int = 4


@dataclass(frozen=True, slots=True)
class Mine:
    """A play of this worker that has not been written off yet."""

    session: str
    """The session that claimed it."""
    ending: bool = False
    """It has ended, or is being stopped: only its result is still to be written."""
    command: Command | None = None
    """The command as it was claimed: what counts when somebody has overwritten its record."""


@dataclass(frozen=True, slots=True)
class Situation:
    """What the worker knows. A key that is missing or None is not to be seen; only reading it directly tells more."""

    now: float
    """Monotonic."""
    session: str | None
    commands: Mapping[str, CommandSeen] = field(default_factory=lambda: MappingProxyType({}))
    assignments: Mapping[str, AssignmentSeen] = field(default_factory=lambda: MappingProxyType({}))
    plays: Mapping[str, Mine] = field(default_factory=lambda: MappingProxyType({}))
    delivered: frozenset[str] = frozenset()
    """Commands whose message is held, unacknowledged."""
    asked: frozenset[str] = frozenset()
    """KV keys that were read directly in this cycle: asking again would bring nothing."""
    pending_since: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """When each pending command was first seen."""
    not_before: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """A claim that was lost is not tried again before this time."""
    rules: Rules = Rules()
    vm: str = ""
    """This worker's VM."""
    playbooks: frozenset[str] = frozenset()
    """Digests of the playbooks that this worker can run a command with."""
    obstacle: str = ""
    """Why this worker can run no play at all now; empty where it can."""
    workers: frozenset[str] = frozenset()
    """VMs of all workers, as the policy names them."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Read the key directly, then choose again: the watch may lag behind the message."""

    key: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Claim:
    """Take the command, if both records are still as seen, and run its play."""

    command: Kept[Command]
    assignment: Kept[Assignment]
    attempt: int
    sentence: str


@dataclass(frozen=True, slots=True)
class Close:
    """Give the command a final state without running it, if the record is still as seen."""

    command: Kept[Command]
    state: CommandState
    sentence: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """Leave the command to another worker, and say so in its record, if that is still as seen."""

    command: Kept[Command]
    reason: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Stop:
    """End the play. `state` is what the record becomes; None: it is not ours to write any more."""

    command_id: str
    state: CommandState | None
    sentence: str


@dataclass(frozen=True, slots=True)
class Ack:
    """Acknowledge the command's messages: it is over."""

    command_id: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Reject:
    """Send the command's messages to the dead-letter queue: there is nothing to be found that they announce."""

    command_id: str
    sentence: str


Action = Ask | Claim | Close | Refuse | Stop | Ack | Reject


@dataclass(frozen=True, slots=True)
class Choice:
    """What to do now. `sentence` is never empty, doing nothing included."""

    actions: tuple[Action, ...]
    sentence: str
    wake_at: float | None = None
    """Look again at this time at the latest, even if nothing changes."""

    @property
    def asks(self) -> tuple[Ask, ...]:
        """The keys to read before anything else."""
        return tuple(action for action in self.actions if isinstance(action, Ask))


def choose(situation: Situation) -> Choice:
    """Return what to do now."""
    actions: list[Action] = [*_stops(situation), *_acks(situation), *_asks_for_delivered(situation)]
    wakes: list[float] = []
    if situation.session is None:
        waiting = "Without a session nothing is claimed."
    else:
        waiting = ""
        taken = _busy_places(situation)
        slots = situation.rules.parallel_plays - len(situation.plays)
        for kept in _claimable(situation):
            action = _action_on(kept, situation, taken, slots)
            if isinstance(action, float):
                wakes.append(action)
            elif action is not None:
                actions.append(action)
                if isinstance(action, Claim):
                    slots -= 1
                    taken.add(_place(kept.value))
    sentence = " ".join(action.sentence for action in actions) or waiting or _idle_sentence(situation)
    return Choice(tuple(actions), sentence, min(wakes, default=None))


def _idle_sentence(situation: Situation) -> str:
    running = sorted(name for name, mine in situation.plays.items() if not mine.ending)
    return f"Running {', '.join(running)}." if running else "Nothing to run."


# -- plays of this worker ------------------------------------------------------------------------------------------


def _stops(situation: Situation) -> Iterator[Action]:
    for command_id, mine in situation.plays.items():
        if not mine.ending:
            action = _stop_or_ask(command_id, mine, situation)
            if action is not None:
                yield action


def _stop_or_ask(command_id: str, mine: Mine, situation: Situation) -> Action | None:
    """Say why the play must end, if it must."""
    seen = situation.commands.get(command_id)
    key = keys.command(command_id)
    if seen is None and key not in situation.asked and mine.session == situation.session:
        return Ask(key, f"The record of {command_id} is not to be seen.")
    why_not_ours = _why_not_ours(mine, seen, situation)
    if why_not_ours:
        return Stop(command_id, None, f"The play of {command_id} is stopped: {why_not_ours}.")
    command = seen.value if isinstance(seen, Kept) else mine.command
    if command is None:
        return None
    assignment = situation.assignments.get(command.service)
    if isinstance(assignment, Kept) and assignment.value.epoch > command.epoch:
        reason = f"epoch {command.epoch} of {command.service} is superseded by {assignment.value.epoch}"
        return Stop(command_id, CommandState.SUPERSEDED, f"The play of {command_id} is stopped: {reason}.")
    if command.cancel_requested:
        return Stop(command_id, CommandState.CANCELLED, f"The play of {command_id} is stopped: it was cancelled.")
    return None


def _why_not_ours(mine: Mine, seen: CommandSeen, situation: Situation) -> str:
    """Say why the command is not this worker's any more; empty while it is."""
    if mine.session != situation.session:
        return "the worker's session was lost, so another worker may run it"
    if seen is None:
        return "its record was deleted"
    if seen.session != mine.session:
        return "another worker may have taken it"
    if isinstance(seen, Kept) and seen.value.is_final:
        return f"its record says that it is {seen.value.state.value}"
    return ""


# -- messages ------------------------------------------------------------------------------------------------------


def _acks(situation: Situation) -> Iterator[Ack | Reject]:
    for command_id in sorted(situation.delivered - situation.plays.keys()):
        seen = situation.commands.get(command_id)
        if seen is None:
            if keys.command(command_id) in situation.asked:
                yield Reject(command_id, f"A message of {command_id} is refused: there is no such command.")
        elif isinstance(seen, Unreadable):
            why = f"its record cannot be read: {seen.problem}"
            yield Reject(command_id, f"A message of {command_id} is refused: {why}.")
        elif seen.value.is_final:
            yield Ack(command_id, f"Command {command_id} is {seen.value.state.value}.")


def _asks_for_delivered(situation: Situation) -> Iterator[Ask]:
    for command_id in sorted(situation.delivered - situation.plays.keys()):
        key = keys.command(command_id)
        if situation.commands.get(command_id) is None and key not in situation.asked:
            yield Ask(key, f"A message came for {command_id}.")


# -- commands to take ------------------------------------------------------------------------------------------------


def _claimable(situation: Situation) -> list[Kept[Command]]:
    """Return the open commands that nobody holds, in the order in which they are taken: what starts a service first."""
    found = [
        seen
        for command_id, seen in situation.commands.items()
        if isinstance(seen, Kept)
        and not seen.value.is_final
        and command_id not in situation.plays
        and seen.session in (None, situation.session)
    ]
    return sorted(found, key=lambda kept: (kept.value.play is Play.DEACTIVATE, kept.value.id))


def _place(command: Command) -> tuple[str, str]:
    return command.service, command.target


def _busy_places(situation: Situation) -> set[tuple[str, str]]:
    """Return where a play is running, here or in another worker: one at a time for a service on a VM."""
    return {
        _place(seen.value)
        for command_id, seen in situation.commands.items()
        if isinstance(seen, Kept)
        and seen.value.state is CommandState.RUNNING
        and (command_id in situation.plays or seen.session not in (None, situation.session))
    }


def _action_on(
    kept: Kept[Command], situation: Situation, taken: set[tuple[str, str]], slots: int
) -> Action | float | None:
    """Return what to do about an open command that nobody holds, or when to look again, or None."""
    command = kept.value
    assignment = situation.assignments.get(command.service)
    if not isinstance(assignment, Kept) or assignment.value.epoch < command.epoch:
        doubt = _doubt(kept, assignment, situation)
        if doubt is not None or not isinstance(assignment, Kept):
            return doubt
    if assignment.value.epoch != command.epoch:
        reason = f"its epoch is {command.epoch}, the assignment of {command.service} has {assignment.value.epoch}"
        return Close(kept, CommandState.SUPERSEDED, f"Command {command.id} is superseded: {reason}.")
    if command.cancel_requested:
        return Close(kept, CommandState.CANCELLED, f"Command {command.id} is cancelled on request.")
    if command.state is CommandState.RUNNING and command.attempt >= situation.rules.max_attempts:
        reason = f"{command.attempt} workers began it and went away"
        return Close(kept, CommandState.FAILED, f"Command {command.id} is given up: {reason}.")
    due_at = _due_at(kept, situation)
    if due_at > situation.now:
        return due_at
    if situation.obstacle:
        return _refuse(kept, situation, situation.obstacle, "make room there")
    if command.playbooks is not None and command.playbooks not in situation.playbooks:
        reason = f"it has not the playbooks {short_digest(command.playbooks)} that the command was decided for"
        return _refuse(kept, situation, reason, "see `orch playbooks status`, then run site.yml")
    if slots <= 0 or _place(command) in taken:
        return None
    return _claim(kept, assignment, situation)


def _refuse(kept: Kept[Command], situation: Situation, reason: str, advice: str) -> Action | None:
    """Leave the command to a worker that can run it; the last one that cannot ends it."""
    command = kept.value
    if situation.vm not in command.refusals:
        sentence = f"Command {command.id} is left to another worker: {situation.vm} refuses it, since {reason}."
        return Refuse(kept, reason, sentence)
    if not situation.workers or not situation.workers <= command.refusals.keys():
        return None
    refusals = "; ".join(f"{vm}: {why}" for vm, why in sorted(command.refusals.items()))
    sentence = f"Command {command.id} is given up: no worker can run it ({refusals}); {advice}."
    return Close(kept, CommandState.FAILED, sentence)


def _doubt(kept: Kept[Command], assignment: AssignmentSeen, situation: Situation) -> Action | None:
    """The assignment is missing, unreadable or older than the command: read it before concluding anything."""
    service = kept.value.service
    key = keys.assignment(service)
    if key not in situation.asked:
        return Ask(key, f"The assignment of {service} is read for {kept.value.id}.")
    if assignment is None and service in situation.assignments:
        reason = f"{service} has no assignment any more"
        return Close(kept, CommandState.SUPERSEDED, f"Command {kept.value.id} is superseded: {reason}.")
    return None


def _due_at(kept: Kept[Command], situation: Situation) -> float:
    """Return when the command may be taken: at once with a message in hand or from a worker that went away."""
    command = kept.value
    due_at = situation.not_before.get(command.id, situation.now)
    if command.state is CommandState.PENDING and command.id not in situation.delivered:
        since = situation.pending_since.get(command.id, situation.now)
        due_at = max(due_at, since + situation.rules.pickup_after_s)
    return due_at


def _claim(kept: Kept[Command], assignment: Kept[Assignment], situation: Situation) -> Claim:
    command = kept.value
    what = f"{command.play.value} {command.service} on {command.target}"
    if command.state is CommandState.RUNNING and kept.session is not None:
        # Our own claim of which we never heard the answer.
        return Claim(kept, assignment, command.attempt, f"Command {command.id} ({what}) was claimed here before.")
    attempt = command.attempt + 1
    if command.state is CommandState.RUNNING:
        origin = f"taken over from the worker on {command.worker}" if command.worker else "taken over"
    else:
        origin = "taken from its message" if command.id in situation.delivered else "picked up from KV"
    return Claim(kept, assignment, attempt, f"Command {command.id} ({what}) is {origin}, attempt {attempt}.")
