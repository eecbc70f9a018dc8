"""Records in KV: read them three-valued, write them by compare-and-set only.

In: a `Port`, keys and records. Out: `Kept`, `Unreadable` or None (absent) on reading; `TxnOutcome` on writing.
Never writes unconditionally, never takes an unreadable value for an absent one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

from pydantic import ValidationError
from tenacity import Retrying, retry_if_result, stop_after_attempt, wait_incrementing

from orchestrator.domain import keys
from orchestrator.domain.decision import Change, Decision, Put, Unchanged
from orchestrator.domain.document import document_in
from orchestrator.domain.policy import Policy
from orchestrator.domain.records import Record
from orchestrator.domain.sentence import one_line
from orchestrator.domain.view import Kept, Unreadable
from orchestrator.store.port import (
    CasDelete,
    CasPut,
    CheckIndex,
    CheckSession,
    KvPair,
    Port,
    TxnOp,
    TxnOutcome,
    Unknown,
)

R = TypeVar("R", bound=Record)

MAX_CHANGES = 60
"""Of one decision: a transaction has at most 64 operations on any supported Consul, one is the leader's."""

UPDATE_ATTEMPTS = 10


class NoSuchRecord(Exception):
    """The key does not exist."""


class UnreadableRecord(Exception):
    """The key holds something that is not such a record; it is left as it is."""


def problem_in(error: ValueError) -> str:
    """Say in one sentence why a value could not be read."""
    if not isinstance(error, ValidationError):
        return one_line(str(error))[:300] or type(error).__name__
    first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] == "value_error":
        # A sentence of ours, which names what it is about.
        return one_line(first["msg"].removeprefix("Value error, "))[:300]
    where = ".".join(str(part) for part in first["loc"])
    return one_line(f"{where}: {first['msg']}" if where else first["msg"])[:300]


def kept_or_unreadable(pair: KvPair, record_type: type[R]) -> Kept[R] | Unreadable:
    """Read the pair's value as a record of the type."""
    try:
        return Kept(record_type.from_json(pair.value), pair.modify_index, pair.session)
    except ValueError as error:
        return Unreadable(pair.key, pair.modify_index, problem_in(error), pair.session)


def kept_policy(pair: KvPair) -> Kept[Policy] | Unreadable:
    """Read the pair's value as the policy: JSON, as `orch config apply` writes it, or YAML, as a person may put it."""
    parsed = _policy_in(pair.value)
    if isinstance(parsed, str):
        return Unreadable(pair.key, pair.modify_index, parsed)
    return Kept(parsed, pair.modify_index)


@lru_cache(maxsize=8)
def _policy_in(value: bytes) -> Policy | str:
    try:
        return Policy.model_validate(document_in(value))
    except ValueError as error:
        return problem_in(error)


def read_record(port: Port, key: str, record_type: type[R]) -> Kept[R] | Unreadable | None:
    """Read one record; None when the key is absent. Raises `Unknown`."""
    _, pair = port.kv_get(key)
    return None if pair is None else kept_or_unreadable(pair, record_type)


def create_record(port: Port, key: str, record: Record) -> TxnOutcome:
    """Write a new record. LOST: the key exists already. Raises `Unknown`: it may have been written, read it."""
    return port.txn((CasPut(key, encoded(record), 0),))


def encoded(record: Record) -> bytes:
    """Return the bytes that go into KV."""
    return record.to_json().encode()


def transaction_of(decision: Decision, leader_session: str) -> tuple[TxnOp, ...]:
    """Return the decision as one transaction, fenced by the leader's session. More than 60 changes: ValueError."""
    if len(decision.changes) > MAX_CHANGES:
        raise ValueError(
            f"decision {decision.code} has {len(decision.changes)} changes; one transaction takes {MAX_CHANGES}"
        )
    fence = CheckSession(keys.LEADER, leader_session)
    return (fence, *(_op_of(change) for change in decision.changes))


def apply_decision(port: Port, decision: Decision, leader_session: str) -> TxnOutcome:
    """Write all changes of the decision, or none.

    LOST: something was not as the view showed it, or we do not lead any more; read anew and decide anew.
    Raises `Unknown`: it may have been applied, which the next view shows; publish nothing yet.
    A decision without changes is WON without asking Consul.
    """
    if not decision.changes:
        return TxnOutcome.WON
    return port.txn(transaction_of(decision, leader_session))


def update_record(
    port: Port,
    key: str,
    record_type: type[R],
    change: Callable[[R], R | None],
    *,
    held_by: str | None = None,
    attempts: int = UPDATE_ATTEMPTS,
) -> R | None:
    """Read the record, change it, write it by compare-and-set; again when another writer was faster.

    `change` returns the new record, or None to leave it alone; it may be called several times. With `held_by` the
    write happens only while that session holds the key. Returns what was written, or None when `change` said None
    or the session does not hold the key any more. Raises `NoSuchRecord`, `UnreadableRecord`, and `Unknown` also
    when `attempts` compare-and-sets were lost.
    """
    written: list[R] = []

    def attempt() -> TxnOutcome:
        _, pair = port.kv_get(key)
        if pair is None:
            raise NoSuchRecord(key)
        kept = kept_or_unreadable(pair, record_type)
        if isinstance(kept, Unreadable):
            raise UnreadableRecord(f"{key}: {kept.problem}")
        changed = None if held_by is not None and pair.session != held_by else change(kept.value)
        if changed is None:
            return TxnOutcome.WON
        fence = () if held_by is None else (CheckSession(key, held_by),)
        outcome = port.txn((*fence, CasPut(key, encoded(changed), pair.modify_index)))
        if outcome is TxnOutcome.WON:
            written.append(changed)
        return outcome

    last = retry_lost(attempts)(attempt)
    if last is TxnOutcome.LOST:
        raise Unknown(f"{key} was changed by others {attempts} times in a row")
    return written[0] if written else None


def retry_lost(attempts: int) -> Retrying:
    """Return the retries of a compare-and-set: at once, then 10 ms later each time; gives the last outcome."""
    return Retrying(
        retry=retry_if_result(lambda outcome: outcome is TxnOutcome.LOST),
        stop=stop_after_attempt(attempts),
        wait=wait_incrementing(start=0, increment=0.01),
        retry_error_callback=lambda state: state.outcome.result() if state.outcome else TxnOutcome.LOST,
    )


def _op_of(change: Change) -> CasPut | CasDelete | CheckIndex:
    if isinstance(change, Put):
        return CasPut(change.key, encoded(change.record), change.index)
    if isinstance(change, Unchanged):
        return CheckIndex(change.key, change.index)
    return CasDelete(change.key, change.index)
