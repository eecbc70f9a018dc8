"""Journals and sinks for the tests of notices."""

from __future__ import annotations

from typing import Any

from orchestrator.domain.records import HistoryEntry, Told
from orchestrator.domain.sinks import SinkPolicy
from orchestrator.domain.view import Kept

NOW = 1_700_000_000.0


def sink_of(**fields: Any) -> SinkPolicy:
    """Return a sink, a webhook unless the fields say otherwise."""
    default = {"name": "ops", "kind": "webhook", "url": "https://chat.example.org/hook"}
    return SinkPolicy.model_validate(fields if "kind" in fields else default | fields)


def entry_of(number: int, kind: str = "failover", **fields: Any) -> HistoryEntry:
    """Return an entry of the journal; higher numbers have later ids."""
    known = {"id": f"{number:013d}-backend-{kind}", "at": NOW, "kind": kind, "service": "backend", "reason": "It fell."}
    return HistoryEntry(**(known | fields))


def journal_of(*entries: HistoryEntry, first: int = 10) -> tuple[Kept[HistoryEntry], ...]:
    """Return the journal as Consul has it, each entry ten indexes after the one before."""
    return tuple(Kept(entry, first + 10 * number) for number, entry in enumerate(entries))


def told(upto: int, entry: str = "", index: int = 1_000_000) -> Kept[Told]:
    """Return the cursor of a sink that has been told up to this index."""
    return Kept(Told(sink="ops", upto=upto, entry=entry, at=NOW), index)
