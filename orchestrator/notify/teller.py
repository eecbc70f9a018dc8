"""One sink's teller: reads the journal, has what the sink is told of delivered, and writes down how far it is.

In: a `Port`, the leader's session, the sink. Out: deliveries, the cursor `orch/notified/SINK`, journal entries of kind
`untold`. Delivery before cursor, each cursor fenced by the leader's session: a leader that dies in between leaves one
notice that the next one delivers again, and a former leader writes nothing. It may take its time: nothing waits for it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable

from tenacity import RetryCallState
from tenacity.wait import wait_base

from orchestrator.backoff import error_of, pause_s, pauses, retry_until_stopped
from orchestrator.domain import keys
from orchestrator.domain.decision import Decision, Unchanged
from orchestrator.domain.records import HistoryEntry, Told
from orchestrator.domain.sinks import SinkPolicy
from orchestrator.domain.view import Kept, Unreadable
from orchestrator.notify.choice import (
    Advance,
    Journal,
    Mark,
    given_up,
    in_order,
    is_too_old,
    mark_of,
    next_step,
    written,
)
from orchestrator.notify.notice import Notice, Undelivered
from orchestrator.store.port import KvPair, Port, Refused, TxnOutcome, Unknown
from orchestrator.store.records import apply_decision, kept_or_unreadable, read_record

log = logging.getLogger(__name__)

PAUSES = pauses(1.0, 2.0, 5.0, 15.0, 60.0)
"""Between tries of one notice; the last one goes on until the notice is given up."""
WAIT_S = 5.0
"""How long one look at the journal waits for news: so late a teller whose time is over ends at the latest."""
AFTER_UNKNOWN_S = 1.0


class Overtaken(Exception):
    """The cursor or the lead is another's by now: read anew."""


class Teller:
    """Tells one sink while this controller leads. Knows no thread; `over` ends it, also in the midst of a pause."""

    def __init__(
        self,
        port: Port,
        session: str,
        sink: SinkPolicy,
        deliver: Callable[[SinkPolicy, Notice], str],
        over: threading.Event,
        now: Callable[[], float] = time.time,
        wait: wait_base = PAUSES,
    ) -> None:
        """`session` is the one that holds the leader's lock. `now` and `wait` are others in tests only."""
        self._port = port
        self._session = session
        self._sink = sink
        self._deliver = deliver
        self._over = over
        self._now = now
        self._wait = wait
        self._done: Mark = (0, "")
        self._index = 0

    def run(self) -> None:
        """Go round until `over` is set, whatever happens."""
        bugs = 0
        while not self._over.is_set():
            try:
                self.round()
                bugs = 0
            except (Unknown, Refused, Overtaken) as problem:
                log.debug("%s is told later: %s", self._sink.name, problem)
                self._over.wait(AFTER_UNKNOWN_S)
            except Exception:
                bugs += 1
                log.exception("%s could not be told; it is tried again", self._sink.name)
                self._over.wait(pause_s(self._wait, bugs))

    def round(self) -> None:
        """Wait for news of the journal and tell what there is to tell. Raises `Unknown`, `Refused`, `Overtaken`."""
        index, pairs = self._port.kv_list(keys.HISTORY, index=self._index, wait_s=WAIT_S)
        if index == self._index:
            return
        journal = self._journal(pairs)
        while not self._over.is_set():
            cursor = read_record(self._port, keys.notified(self._sink.name), Told)
            step = next_step(self._sink, cursor, journal, self._done, self._now())
            if isinstance(step, Advance):
                self._write(step)
            elif step is not None and isinstance(cursor, Kept):
                self._tell(step.entry, cursor, journal)
            else:
                # Only now: a round that was broken off is begun anew at once.
                self._index = index
                return

    def _journal(self, pairs: Iterable[KvPair]) -> Journal:
        """Return what can be read of the journal; what cannot is nothing that anybody could be told."""
        found = [kept_or_unreadable(pair, HistoryEntry) for pair in pairs]
        for bad in found:
            if isinstance(bad, Unreadable) and bad.index > self._index:
                log.warning("%s cannot be read, so %s is not told of it: %s", bad.key, self._sink.name, bad.problem)
        return in_order(kept for kept in found if isinstance(kept, Kept))

    def _tell(self, kept: Kept[HistoryEntry], cursor: Kept[Told], journal: Journal) -> None:
        """Deliver the entry, again and again until the sink has it, it is given up, or this teller's time is over."""

        def attempt() -> Advance | Mark:
            self._check_lead(cursor)
            try:
                said = self._deliver(self._sink, Notice(kept.value, self._sink.name))
            except Undelivered as problem:
                if problem.is_final or is_too_old(self._sink, kept.value, self._now()):
                    log.warning("%s is not told of %s, which is given up: %s", self._sink.name, kept.value.id, problem)
                    return given_up(self._sink, cursor, journal, kept, str(problem), self._now())
                raise
            log.info("%s was told of %s: %s", self._sink.name, kept.value.id, said)
            return mark_of(kept)

        ended = retry_until_stopped(attempt, self._over, on=Undelivered, wait=self._wait, failed=self._note_failure)
        if isinstance(ended, Advance):
            self._write(ended)
        elif ended is not None:
            self._done = ended

    def _check_lead(self, cursor: Kept[Told]) -> None:
        """See that it is still ours to tell: a leader that was deposed without knowing it would repeat each entry."""
        unchanged = Unchanged(keys.notified(self._sink.name), cursor.index)
        self._apply(Decision("notify", None, f"{self._sink.name} is about to be told.", (unchanged,)))

    def _note_failure(self, state: RetryCallState) -> None:
        log.warning(
            "%s could not be told (try %d): %s; tried again in %g s",
            self._sink.name,
            state.attempt_number,
            error_of(state),
            state.upcoming_sleep,
        )

    def _write(self, step: Advance) -> None:
        self._apply(written(step, self._now()))
        if step.lost:
            log.warning(step.lost)

    def _apply(self, decision: Decision) -> None:
        if apply_decision(self._port, decision, self._session) is not TxnOutcome.WON:
            raise Overtaken(f"{keys.notified(self._sink.name)} is not as it was, or another controller leads")
