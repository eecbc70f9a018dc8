"""A command's way through its states in KV: claim, progress, finish, release. Each is one transaction.

In: the record as seen and this worker's session. Out: the record as written, or None when it was LOST: changed by
others, held by another session, or still under lock-delay. `Unknown` means that the write may have happened; read
before concluding anything. Nothing here makes a transition that `COMMAND_TRANSITIONS` does not have.
"""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.domain import keys
from orchestrator.domain.records import COMMAND_TRANSITIONS, Assignment, Command, CommandState
from orchestrator.domain.view import Kept
from orchestrator.store.port import CasPut, CheckIndex, LockPut, Port, TxnOutcome, Unknown, UnlockPut
from orchestrator.store.records import (
    UPDATE_ATTEMPTS,
    NoSuchRecord,
    UnreadableRecord,
    encoded,
    read_record,
    retry_lost,
    update_record,
)


class ForbiddenTransition(Exception):
    """The state machine of commands has no such step: a bug in the caller."""


def stepped(command: Command, state: CommandState, **changes: object) -> Command:
    """Return the record in its next state; raises ForbiddenTransition where there is no such step."""
    if state not in COMMAND_TRANSITIONS[command.state]:
        raise ForbiddenTransition(f"{command.id} cannot go from {command.state.value} to {state.value}")
    return command.with_(state=state, **changes)


def claim_command(
    port: Port, command: Kept[Command], assignment: Kept[Assignment], *, session: str, vm: str, attempt: int, now: float
) -> Command | None:
    """Take the command for this worker if it and the assignment are still as seen. `now` is wall clock."""
    claimed = stepped(
        command.value,
        CommandState.RUNNING,
        worker=vm,
        attempt=attempt,
        claimed=now,
        first_task=None,
        task="",
        tail=(),
        rc=None,
    )
    key = keys.command(command.value.id)
    ops = (
        CheckIndex(key, command.index),
        CheckIndex(keys.assignment(command.value.service), assignment.index),
        LockPut(key, encoded(claimed), session),
    )
    return claimed if port.txn(ops) is TxnOutcome.WON else None


def close_command(port: Port, command: Kept[Command], state: CommandState, reason: str, now: float) -> Command | None:
    """Give a command that nobody runs its final state."""
    closed = stepped(command.value, state, reason=reason, finished=now, task="")
    outcome = port.txn((CasPut(keys.command(closed.id), encoded(closed), command.index),))
    return closed if outcome is TxnOutcome.WON else None


def refuse_command(port: Port, command: Kept[Command], vm: str, reason: str) -> Command | None:
    """Say in the record of a command that nobody runs why the VM's worker does not take it."""
    refused = command.value.with_(refusals={**command.value.refusals, vm: reason})
    outcome = port.txn((CasPut(keys.command(refused.id), encoded(refused), command.index),))
    return refused if outcome is TxnOutcome.WON else None


def note_progress(port: Port, command_id: str, session: str, task: str, first_task: float) -> bool:
    """Write which task is running. False: the command is not ours any more (or is over)."""

    def change(command: Command) -> Command | None:
        if command.state is not CommandState.RUNNING:
            return None
        return command.with_(task=task, first_task=command.first_task or first_task)

    try:
        written = update_record(port, keys.command(command_id), Command, change, held_by=session)
    except (NoSuchRecord, UnreadableRecord):
        return False
    return written is not None


def finish_command(
    port: Port,
    command_id: str,
    session: str,
    state: CommandState,
    *,
    reason: str,
    rc: int | None,
    tail: tuple[str, ...],
    first_task: float | None,
    now: float,
) -> Kept[Command] | None:
    """Write the result and free the key. None: it is not ours any more, somebody else decides what becomes of it.

    A LOST write (the record was changed in between, e.g. a cancellation was asked for) is tried on the new record;
    raises `Unknown` when others changed it again and again.
    """

    def finish(command: Command) -> Command:
        return stepped(
            command,
            state,
            reason=reason,
            rc=rc,
            tail=tail,
            finished=now,
            task="",
            first_task=command.first_task or first_task,
        )

    return _let_go(port, command_id, session, finish)


def release_command(port: Port, command_id: str, session: str) -> Kept[Command] | None:
    """Leave the command, running, to another worker. None: it was not ours. Raises as `finish_command`."""
    return _let_go(
        port, command_id, session, lambda command: stepped(command, CommandState.RUNNING, worker=None, task="")
    )


def written(command: Command, after_index: int, session: str | None = None) -> Kept[Command]:
    """Return the record as we wrote it. A transaction does not tell its index; it is higher than the one before."""
    return Kept(command, after_index + 1, session)


def _let_go(port: Port, command_id: str, session: str, change: Callable[[Command], Command]) -> Kept[Command] | None:
    """Write the changed record and free its key; again, on the new record, when another writer was faster."""
    left: list[Kept[Command]] = []

    def attempt() -> TxnOutcome:
        kept = _ours(port, command_id, session)
        if kept is None:
            return TxnOutcome.WON
        changed = change(kept.value)
        outcome = _unlock(port, kept, changed, session)
        if outcome is TxnOutcome.WON:
            left.append(written(changed, kept.index))
        return outcome

    if retry_lost(UPDATE_ATTEMPTS)(attempt) is TxnOutcome.LOST:
        raise Unknown(f"the command {command_id} was changed by others {UPDATE_ATTEMPTS} times in a row")
    return left[0] if left else None


def _ours(port: Port, command_id: str, session: str) -> Kept[Command] | None:
    """Read the record; None unless it is running under our session."""
    kept = read_record(port, keys.command(command_id), Command)
    if not isinstance(kept, Kept) or kept.session != session or kept.value.state is not CommandState.RUNNING:
        return None
    return kept


def _unlock(port: Port, kept: Kept[Command], record: Command, session: str) -> TxnOutcome:
    key = keys.command(record.id)
    return port.txn((CheckIndex(key, kept.index), UnlockPut(key, encoded(record), session)))
