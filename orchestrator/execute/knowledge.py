"""What a worker knows of commands and assignments: the watch's answers, overlaid by what it read or wrote itself.

In: KV pairs from the watch, records read directly, its own claims. Out: mappings for `choice.Situation`. The watch
may lag behind a message or behind the worker's own write by some milliseconds, so of two values the one with the
higher ModifyIndex counts. No I/O.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TypeVar

from orchestrator.domain import keys
from orchestrator.domain.records import Assignment, Command, CommandState, Record
from orchestrator.domain.view import Kept, Unreadable
from orchestrator.execute.choice import AssignmentSeen, CommandSeen
from orchestrator.store.port import KvPair
from orchestrator.store.records import kept_or_unreadable

R = TypeVar("R", bound=Record)

OVERLAY_S = 2.0
"""How long a value read directly is kept when the watch does not show the key: far longer than a watch lags."""
_ASSIGNMENT = "/assignment"


@dataclass(frozen=True, slots=True)
class _Direct:
    seen: Kept[Command] | Kept[Assignment] | Unreadable | None
    at: float


class Knowledge:
    """One worker's knowledge. `learn` after each change of the watch, then read the mappings."""

    def __init__(self) -> None:
        self._watched: dict[str, Kept[Command] | Kept[Assignment] | Unreadable] = {}
        self._direct: dict[str, _Direct] = {}
        self._pending_since: dict[str, float] = {}

    def learn(self, pairs: Iterable[KvPair], now: float) -> None:
        """Take everything that the watch shows under `orch/commands/` and `orch/services/`."""
        fresh: dict[str, Kept[Command] | Kept[Assignment] | Unreadable] = {}
        for pair in pairs:
            known = self._watched.get(pair.key)
            if known is not None and known.index == pair.modify_index and known.session == pair.session:
                fresh[pair.key] = known
            elif pair.key.startswith(keys.COMMANDS) and pair.key != keys.COMMANDS:
                fresh[pair.key] = kept_or_unreadable(pair, Command)
            elif pair.key.startswith(keys.SERVICES) and pair.key.endswith(_ASSIGNMENT):
                fresh[pair.key] = kept_or_unreadable(pair, Assignment)
        self._watched = fresh
        self._direct = {key: direct for key, direct in self._direct.items() if self._counts(key, direct, now)}
        self._note_pending(now)

    def learn_direct(self, key: str, seen: Kept[Command] | Kept[Assignment] | Unreadable | None, now: float) -> None:
        """Take what a direct read of the key gave, or what we wrote there ourselves."""
        self._direct[key] = _Direct(seen, now)
        self._note_pending(now)

    def commands(self, wanted: Collection[str]) -> dict[str, CommandSeen]:
        """Return every command known; those of `wanted` that are not there are None."""
        found: dict[str, CommandSeen] = {keys.command(command_id): None for command_id in wanted}
        found.update(self._under(keys.COMMANDS))  # type: ignore[arg-type]
        return {key.removeprefix(keys.COMMANDS): seen for key, seen in found.items()}

    def assignments(self) -> dict[str, AssignmentSeen]:
        """Return every assignment known, by service."""
        found = self._under(keys.SERVICES)
        return {
            key.removeprefix(keys.SERVICES).removesuffix(_ASSIGNMENT): seen  # type: ignore[misc]
            for key, seen in found.items()
        }

    @property
    def pending_since(self) -> dict[str, float]:
        """Since when each pending command has been known here (monotonic)."""
        return self._pending_since

    def _under(self, prefix: str) -> dict[str, Kept[Command] | Kept[Assignment] | Unreadable | None]:
        found: dict[str, Kept[Command] | Kept[Assignment] | Unreadable | None] = {
            key: seen for key, seen in self._watched.items() if key.startswith(prefix)
        }
        for key, direct in self._direct.items():
            watched = self._watched.get(key)
            if key.startswith(prefix) and (watched is None or _index(direct.seen) > watched.index):
                found[key] = direct.seen
        return found

    def _counts(self, key: str, direct: _Direct, now: float) -> bool:
        """Say whether the direct value is still newer than what the watch shows."""
        watched = self._watched.get(key)
        if watched is None:
            return now - direct.at < OVERLAY_S
        return _index(direct.seen) > watched.index

    def _note_pending(self, now: float) -> None:
        pending = {
            command_id
            for command_id, seen in self.commands(()).items()
            if isinstance(seen, Kept) and seen.value.state is CommandState.PENDING
        }
        self._pending_since = {command_id: self._pending_since.get(command_id, now) for command_id in pending}


def _index(seen: Kept[Command] | Kept[Assignment] | Unreadable | None) -> int:
    return seen.index if seen is not None else -1
