"""What people have to know although nothing is decided about it: the journal says it once, whenever it begins.

In: the case, what was the matter, the memory's `announced`. Out: entries for the journal, and what is to be remembered.
A new leader remembers nothing and says again what is still so, rather than that nobody ever says it.
"""

from __future__ import annotations

from collections.abc import Collection

from orchestrator.decide.case import Case
from orchestrator.decide.writing import of_case
from orchestrator.domain.decision import Decision, Diagnosis, Outcome
from orchestrator.domain.view import Kept

News = tuple[tuple[Decision, ...], frozenset[str]]

TOPICS = {"stranded": "stranded", "sync_lost": "sync", "sync_regained": "sync", "grace": "grace"}
"""Code of a decision that announces something -> what the memory's note of it begins with, before the service."""


def announced_after(before: frozenset[str], outcome: Outcome, written: Collection[Decision]) -> frozenset[str]:
    """Return what counts as said once the decisions in `written` are; `before`: what did when they were made.

    What was not written is said again, and nothing else is: it would be on each cycle for as long as any decision,
    of whatever service, is overtaken.
    """
    unsaid = {
        f"{TOPICS[made.code]}:{made.service}"
        for made in (*outcome.decisions, *outcome.news)
        if made.code in TOPICS and made not in written
    }
    said = {note for note in outcome.memory.announced if _topic(note) not in unsaid}
    return frozenset(said | {note for note in before if _topic(note) in unsaid})


def _topic(note: str) -> str:
    return ":".join(note.split(":")[:2])


def news(case: Case, found: Diagnosis, announced: frozenset[str]) -> News:
    """Return the entries on what has begun, and everything that counts as said from now on."""
    stranded, kept = _stranded(case, found, announced)
    synced, kept_sync = _of_sync(case, announced)
    return (*stranded, *synced), kept | kept_sync


def _stranded(case: Case, found: Diagnosis, announced: frozenset[str]) -> News:
    """The active failed and no VM can take the service: once, until it is served again."""
    key = f"stranded:{case.name}:{case.now_assigned.epoch}"
    if key in announced:
        return (), frozenset() if case.is_serving else frozenset({key})
    if found.code != "no_candidate" or found.action is not None:
        return (), frozenset()
    return (of_case(case, "stranded", found.sentence, vm=case.active),), frozenset({key})


def _of_sync(case: Case, announced: frozenset[str]) -> News:
    """A copy of the data is struck off the record of the whole ones, or is back on it."""
    sync = case.seen.sync
    before = frozenset(said for said in announced if said.startswith(f"sync:{case.name}:"))
    if not case.is_replicated or not isinstance(sync, Kept):
        return (), before
    whole = tuple(vm for vm in case.service.order if vm in sync.value.complete)
    now = frozenset({f"sync:{case.name}:{'+'.join(whole)}"})
    if now == before or (not before and len(whole) == len(case.service.order)):
        return (), now
    is_lost = len(whole) < len(case.service.order)
    copies = f"Only the copy of {case.name} on {' and '.join(whole)} is whole" if is_lost else "All copies are whole"
    sentence = f"{copies}: {sync.value.reason.rstrip('.')}."
    return (of_case(case, "sync_lost" if is_lost else "sync_regained", sentence),), now
