"""The plays that this worker has in hand, from claim to written result.

In: claimed commands, events of plays, orders to stop. Out: progress and results in KV, through `claim`. A result
that could not be written stays in hand and is tried again. No threads; time comes from the caller.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from tenacity import wait_fixed

from orchestrator.backoff import pause_s
from orchestrator.domain.records import Command
from orchestrator.domain.view import Kept
from orchestrator.execute.choice import Mine, Stop
from orchestrator.execute.claim import finish_command, note_progress, release_command
from orchestrator.execute.noted import Noted, PlayOver, ignore
from orchestrator.execute.play import Ended, Order, PlayEnded, PlayEvent, Plays, TaskStarted
from orchestrator.execute.playbook_client import SERVER_LOST
from orchestrator.execute.results import PROGRESS_EVERY_S, Progress, result_of
from orchestrator.store.port import Port, Refused, Unknown

log = logging.getLogger(__name__)

# A move waits for the result, which is to be written as soon as Consul answers again: so the pause does not grow.
PAUSES = wait_fixed(0.5)
# Exit statuses of a play that was killed from outside, as a shell says them.
KILLED, TERMINATED = 128 + 9, 128 + 15


@dataclass(slots=True)
class _InHand:
    command: Command
    session: str
    timeout_s: float
    progress: Progress = field(default_factory=Progress)
    stop: Stop | None = None
    released: bool = False
    ended: PlayEnded | None = None
    next_write: float = float("-inf")


def order_of(command: Command, timeout_s: float) -> Order:
    """Return the order for the command's play; what the command does not name is an empty string."""
    variables = {
        "kind": command.kind.value,
        "target": command.target,
        "failed_instance": command.failed_instance or "",
        "source": command.source or "",
        "clone": command.clone or "",
        "leaves": command.leaves or "",
        "recovered_instance": command.recovered_instance or "",
        "epoch": command.epoch,
        "service": command.service,
        "unit": command.unit,
        "enable_at_boot": command.enable_at_boot,
        "command_id": command.id,
    }
    return Order(command.id, command.attempt, command.playbook, variables, timeout_s, command.playbooks)


def fields_of(command: Command) -> dict[str, object]:
    """Return the journal's fields for what is logged about the command."""
    return {"service": command.service, "epoch": command.epoch, "command": command.id, "request": command.request_id}


def is_interrupted(ended: PlayEnded, *, released: bool) -> bool:
    """Say whether the play was cut short by what happened to this worker, so that it says nothing of the command."""
    if ended.how is Ended.CANCELLED:
        return released
    return ended.how is Ended.EXITED and ended.rc in (SERVER_LOST, KILLED, TERMINATED)


class Desk:
    """Plays in hand. `wall` gives the time for records."""

    def __init__(
        self, port: Port, plays: Plays, wall: Callable[[], float], note: Callable[[Noted], None] = ignore
    ) -> None:
        self._port = port
        self._plays = plays
        self._wall = wall
        self._note = note
        self._in_hand: dict[str, _InHand] = {}
        self._written: list[Kept[Command]] = []

    @property
    def mine(self) -> dict[str, Mine]:
        """What `choose` has to know of the plays in hand."""
        return {
            command_id: Mine(
                each.session,
                ending=each.ended is not None or each.stop is not None or each.released,
                command=each.command,
            )
            for command_id, each in self._in_hand.items()
        }

    @property
    def running(self) -> tuple[str, ...]:
        """Commands whose play has not ended yet."""
        return tuple(command_id for command_id, each in self._in_hand.items() if each.ended is None)

    @property
    def size(self) -> int:
        """How many plays are in hand. For any thread."""
        return len(self._in_hand)

    @property
    def is_empty(self) -> bool:
        """Say whether nothing is in hand."""
        return not self._in_hand

    def begin(self, command: Command, session: str, timeout_s: float) -> None:
        """Run the play of a command that has just been claimed."""
        self._in_hand[command.id] = _InHand(command, session, timeout_s)
        self._plays.start(order_of(command, timeout_s))

    def stop(self, stop: Stop) -> None:
        """End a play for good; its record becomes what `stop` says."""
        each = self._in_hand.get(stop.command_id)
        if each is not None and each.stop is None:
            each.stop = stop
            self._plays.cancel(stop.command_id)

    def stop_all(self, sentence: str) -> tuple[str, ...]:
        """End every play without writing their records: they may be another's by now. Returns those not ending yet."""
        stopped = tuple(command_id for command_id in self.running if self._in_hand[command_id].stop is None)
        for command_id in stopped:
            self.stop(Stop(command_id, None, sentence))
        return stopped

    def release_all(self) -> None:
        """End every play and leave its command to another worker: this one is going away."""
        for command_id in self.running:
            each = self._in_hand[command_id]
            if each.stop is None:
                each.released = True
                self._plays.cancel(command_id)

    def take_event(self, event: PlayEvent) -> None:
        """Take what a play reports. Events of an attempt that is not in hand any more are void."""
        each = self._in_hand.get(event.command_id)
        if each is None:
            return
        if isinstance(event, TaskStarted):
            each.progress.note(event.task, event.at)
        elif event.attempt == each.command.attempt:
            each.ended = event

    def take_written(self) -> list[Kept[Command]]:
        """Return the records that were written off since the last call: the watch may not show them yet."""
        taken, self._written = self._written, []
        return taken

    def write_due(self, now: float) -> tuple[float | None, bool]:
        """Write the results and the progress that are due.

        Returns when something is due next, and whether Consul answered: after one call without an answer the rest
        waits, since each may take its full time-out.
        """
        wakes: list[float] = []
        answered = True
        for command_id, each in list(self._in_hand.items()):
            if each.next_write > now or not answered:
                wakes.append(max(each.next_write, now + pause_s(PAUSES) / 2))
                continue
            try:
                if each.ended is not None:
                    self._write_result(each, each.ended)
                    del self._in_hand[command_id]
                elif each.stop is None and each.progress.is_due(now):
                    note_progress(
                        self._port, command_id, each.session, each.progress.task, each.progress.first_task or 0.0
                    )
                    each.progress.note_written(now)
            except (Unknown, Refused) as problem:
                log.warning(
                    "What became of %s could not be written yet: %s", command_id, problem, extra=fields_of(each.command)
                )
                answered = False
                each.next_write = now + pause_s(PAUSES)
                wakes.append(each.next_write)
            if each.ended is None and each.progress.task != each.progress.written:
                wakes.append(max(now + PROGRESS_EVERY_S / 4, each.progress.next_write))
        return min(wakes, default=None), answered

    def _write_result(self, each: _InHand, ended: PlayEnded) -> None:
        command = each.command
        extra = fields_of(command)
        if each.stop is None and is_interrupted(ended, released=each.released):
            left = release_command(self._port, command.id, each.session)
            self._written.extend([left] if left else [])
            self._note_over(command, "released" if left else "dropped")
            log.info("Command %s is left to whoever takes it over.", command.id, extra=extra)
            return
        result = result_of(ended, each.stop, each.timeout_s)
        if result is None:
            self._note_over(command, "dropped")
            return
        done = finish_command(
            self._port,
            command.id,
            each.session,
            result.state,
            reason=result.reason,
            rc=ended.rc,
            tail=ended.tail,
            first_task=each.progress.first_task,
            now=self._wall(),
        )
        self._written.extend([done] if done else [])
        self._note_over(command, result.state.value if done else "dropped")
        if done:
            log.info("Command %s is %s. %s", command.id, result.state.value, result.reason, extra=extra)
        else:
            log.warning("Command %s is not this worker's any more; its result is dropped.", command.id, extra=extra)

    def _note_over(self, command: Command, outcome: str) -> None:
        now = self._wall()
        self._note(PlayOver(command.playbook, outcome, now - (command.claimed or now)))
