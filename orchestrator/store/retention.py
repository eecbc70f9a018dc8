"""How long finished records are kept: the newest `keep` of each kind, and nothing that is still open.

In: the pairs of `orch/history/`, `orch/requests/`, `orch/commands/`, `orch/notified/`. Out: deletions by
compare-and-set, fenced by the leader's session. An unreadable record is never deleted: somebody has to look at it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from orchestrator.domain import keys
from orchestrator.domain.decision import Decision, Delete
from orchestrator.domain.records import Command, Request
from orchestrator.domain.view import Kept
from orchestrator.store.port import KvPair, Port, TxnOutcome
from orchestrator.store.records import MAX_CHANGES, apply_decision, kept_or_unreadable


def surplus_history(pairs: Iterable[KvPair], keep: int) -> tuple[Delete, ...]:
    """Return the deletions of all but the newest `keep` history entries (ids sort by time)."""
    by_age = sorted(pairs, key=lambda pair: pair.key)
    return tuple(Delete(pair.key, pair.modify_index) for pair in by_age[: max(0, len(by_age) - keep)])


def surplus_requests(requests: Iterable[KvPair], commands: Iterable[KvPair], keep: int) -> tuple[Delete, ...]:
    """Return the deletions of all but the newest `keep` finished requests, and of their finished commands.

    A finished command goes when its request goes or is gone already; an open one stays whatever becomes of its
    request. Commands come first, so that an interruption leaves no command without its request.
    """
    all_requests = [(pair, kept_or_unreadable(pair, Request)) for pair in requests]
    finished = sorted(
        (pair.key for pair, kept in all_requests if isinstance(kept, Kept) and kept.value.is_final),
    )
    going = set(finished[: max(0, len(finished) - keep)])
    staying = {pair.key for pair, _ in all_requests} - going
    of_commands = (
        Delete(pair.key, pair.modify_index)
        for pair in sorted(commands, key=lambda pair: pair.key)
        if _is_surplus_command(pair, staying)
    )
    of_requests = (Delete(pair.key, pair.modify_index) for pair, _ in all_requests if pair.key in going)
    return (*of_commands, *of_requests)


def surplus_cursors(pairs: Iterable[KvPair], sinks: frozenset[str]) -> tuple[Delete, ...]:
    """Return the deletions of the cursors whose sinks the policy names no more: should one return, it is new."""
    named = {keys.notified(sink) for sink in sinks}
    return tuple(Delete(pair.key, pair.modify_index) for pair in pairs if pair.key not in named)


def trim_finished(port: Port, leader_session: str, keep: int, sinks: frozenset[str] | None = None) -> int:
    """Delete what is surplus now; returns how many records went. Raises `Unknown`; a lost race is left for later.

    `sinks`: the names that the policy has; None: nobody knows, and every cursor stays.
    """
    surplus = (
        *(surplus_cursors(port.kv_list(keys.NOTIFIED)[1], sinks) if sinks is not None else ()),
        *surplus_history(port.kv_list(keys.HISTORY)[1], keep),
        *surplus_requests(port.kv_list(keys.REQUESTS)[1], port.kv_list(keys.COMMANDS)[1], keep),
    )
    gone = 0
    for some in _in_transactions(surplus):
        decision = Decision("trim", None, f"{len(some)} records are older than the newest {keep}", some)
        if apply_decision(port, decision, leader_session) is TxnOutcome.LOST:
            break
        gone += len(some)
    return gone


def _is_surplus_command(pair: KvPair, staying_requests: set[str]) -> bool:
    kept = kept_or_unreadable(pair, Command)
    if not isinstance(kept, Kept) or not kept.value.is_final:
        return False
    return keys.request(kept.value.request_id) not in staying_requests


def _in_transactions(deletes: tuple[Delete, ...]) -> Iterator[tuple[Delete, ...]]:
    for start in range(0, len(deletes), MAX_CHANGES):
        yield deletes[start : start + MAX_CHANGES]
