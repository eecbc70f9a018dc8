"""The recorder: a ring on disk of everything that `decide()` was given, with its time.

`orch replay FILE` and the scenario tests feed the same lines to the same `decide()`: an incident becomes a
regression test by copying the file. One JSON object per line; a cycle that was given what the one before was given
(but for the time) and came to nothing is left out.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from orchestrator.decide import decide
from orchestrator.domain.decision import Memory, Outcome, Reached
from orchestrator.domain.policy import Policy
from orchestrator.domain.records import Assignment, Moment
from orchestrator.domain.view import View
from orchestrator.observe.parse import parse_view, telling
from orchestrator.store.port import Check, KvPair
from orchestrator.store.records import problem_in

# One segment; the ring has two, so that the disk never holds more than twice this (about an hour of a busy fleet).
SEGMENT_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Inputs:
    """What one call of `decide()` was given."""

    now: float
    pairs: tuple[KvPair, ...]
    checks: tuple[Check, ...]
    policy: Policy
    memory: Memory
    observed_at: float = 0.0
    quorum_since: float | None = None

    def view(self) -> View:
        """Return the view that they show."""
        view = parse_view(self.pairs, self.checks, self.policy)
        return replace(view, observed_at=self.observed_at, quorum_since=self.quorum_since)

    def decided(self) -> Outcome:
        """Return what `decide()` makes of them."""
        return decide(self.view(), self.memory, self.policy, self.now)


def encoded_memory(memory: Memory) -> dict[str, Any]:
    """Return the memory as JSON can hold it."""
    return {
        "healthy_since": _rows(memory.healthy_since),
        "lacking_since": _rows(memory.lacking_since),
        "away_since": _rows(memory.away_since),
        "back_since": _rows(memory.back_since),
        "unready_since": dict(memory.unready_since),
        "last_good": {name: json.loads(good.to_json()) for name, good in sorted(memory.last_good.items())},
        "announced": sorted(memory.announced),
        "down_since": dict(memory.reached.down_since),
        "returned_at": dict(memory.reached.returned_at),
    }


def decoded_memory(fields: dict[str, Any]) -> Memory:
    """Return the memory that the fields hold; raises ValueError, KeyError or TypeError when they hold none."""
    return Memory(
        healthy_since=_by_place(fields["healthy_since"]),
        lacking_since=_by_place(fields.get("lacking_since", ())),
        away_since=_by_place(fields.get("away_since", ())),
        back_since=_by_place(fields.get("back_since", ())),
        unready_since=_times(fields.get("unready_since", {})),
        last_good=MappingProxyType({k: Assignment.model_validate(v) for k, v in fields["last_good"].items()}),
        announced=frozenset(fields["announced"]),
        reached=Reached(_times(fields.get("down_since", {})), _times(fields.get("returned_at", {}))),
    )


def _rows(times: Mapping[tuple[str, str], float]) -> list[list[Any]]:
    return [[service, vm, since] for (service, vm), since in sorted(times.items())]


def _by_place(rows: Iterable[Sequence[Any]]) -> Mapping[tuple[str, str], float]:
    return MappingProxyType({(row[0], row[1]): float(row[2]) for row in rows})


def _times(fields: dict[str, Any]) -> Mapping[str, float]:
    return MappingProxyType({name: float(at) for name, at in fields.items()})


def encoded_outcome(outcome: Outcome) -> dict[str, Any]:
    """Return what a reader and the replay compare: codes and sentences."""
    return {
        "sentence": outcome.sentence,
        "decisions": [[d.code, d.service, d.sentence] for d in outcome.decisions],
        "diagnoses": [[d.code, d.service, d.sentence] for d in outcome.diagnoses],
        "wake_at": outcome.wake_at,
    }


def _text(value: bytes) -> Any:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


def _bytes(value: Any) -> bytes:
    return base64.b64decode(value["base64"]) if isinstance(value, dict) else str(value).encode()


class _Line(BaseModel):
    """What a line holds, in the order in which `line_of` writes it."""

    now: Moment
    observed_at: Moment = 0.0
    quorum_since: Moment | None = None
    kv: tuple[tuple[str, int, str | None, str | dict[Literal["base64"], str]], ...]
    checks: tuple[tuple[str, str, str, str, str], ...]
    policy: Policy
    memory: dict[str, Any]
    outcome: dict[str, Any]


def line_of(inputs: Inputs, outcome: Outcome) -> str:
    """Return the recorder's line for one cycle."""
    return json.dumps(
        {
            "now": inputs.now,
            "observed_at": inputs.observed_at,
            "quorum_since": inputs.quorum_since,
            "kv": [[p.key, p.modify_index, p.session, _text(p.value)] for p in inputs.pairs],
            "checks": [[c.node, c.check_id, c.status, c.service_id, c.output] for c in inputs.checks],
            "policy": inputs.policy.model_dump(mode="json"),
            "memory": encoded_memory(inputs.memory),
            "outcome": encoded_outcome(outcome),
        },
        separators=(",", ":"),
    )


def inputs_of(line: str | bytes) -> tuple[Inputs, dict[str, Any]]:
    """Return what a recorder's line holds: the inputs and the recorded outcome.

    Raises ValueError with one sentence when the line is none of the recorder's.
    """
    try:
        fields = _Line.model_validate_json(line)
        inputs = Inputs(
            now=fields.now,
            pairs=tuple(KvPair(key, _bytes(value), index, session) for key, index, session, value in fields.kv),
            checks=tuple(Check(node, check, status, output, id_) for node, check, status, id_, output in fields.checks),
            policy=fields.policy,
            memory=decoded_memory(fields.memory),
            observed_at=fields.observed_at,
            quorum_since=fields.quorum_since,
        )
    except ValidationError as error:
        raise ValueError(f"this is not a line of the recorder: {_problem_in(error)}") from error
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError("this is not a line of the recorder: a value in it is none that it writes") from error
    return inputs, fields.outcome


def _problem_in(error: ValidationError) -> str:
    if error.errors(include_url=False)[0]["type"] == "json_invalid":
        return "it is not JSON"
    return problem_in(error).replace("Input should", "should")


@dataclass(frozen=True, slots=True)
class Replayed:
    """One recorded cycle beside what `decide()` says of it today."""

    line: int
    now: float
    recorded: dict[str, Any]
    replayed: dict[str, Any]

    @property
    def agrees(self) -> bool:
        """Say whether today's outcome is the recorded one."""
        return self.recorded == self.replayed


def replay(path: Path) -> Iterator[Replayed]:
    """Feed every line of the file to `decide()`. Raises ValueError (naming the line) on a line that is none."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                inputs, recorded = inputs_of(line)
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from error
            yield Replayed(number, inputs.now, recorded, encoded_outcome(inputs.decided()))


class Recorder:
    """Appends lines to `decisions.jsonl` in the folder, and keeps one older segment, `decisions.1.jsonl`.

    A full or broken disk never stops a decision: the recorder then counts what it dropped and tries the next line.
    """

    def __init__(self, folder: Path, segment_bytes: int = SEGMENT_BYTES) -> None:
        self.path = folder / "decisions.jsonl"
        self.dropped = 0
        self._older = folder / "decisions.1.jsonl"
        self._segment_bytes = segment_bytes
        self._last: tuple[object, ...] | None = None

    def write(self, inputs: Inputs, outcome: Outcome) -> None:
        """Record the cycle, unless it shows what the one before showed and came to nothing."""
        same = (inputs.pairs, telling(inputs.checks), inputs.policy)
        if same == self._last and not outcome.decisions:
            return
        self._last = same
        try:
            self._append(line_of(inputs, outcome))
        except OSError:
            self.dropped += 1

    def _append(self, line: str) -> None:
        if self.path.exists() and self.path.stat().st_size + len(line) > self._segment_bytes:
            os.replace(self.path, self._older)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(line + "\n")
