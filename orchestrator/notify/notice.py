"""A notice: one entry of the journal for one sink, as text. In: the entry, templates/notify. Out: strings, or
`Undelivered`.

The templates are jinja2 in its sandbox: they see the fields of `fields_of` and nothing else, and a field that is not
there is a fault and no blank. `*.html.j2` is escaped; `*.json.j2` must come out as JSON (`tojson` makes it so).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from jinja2 import FileSystemLoader, StrictUndefined, TemplateNotFound
from jinja2.sandbox import ImmutableSandboxedEnvironment

from orchestrator.domain.records import HistoryEntry

FOLDER = "notify"


class Undelivered(Exception):
    """The sink does not have it; the message says why. `is_final`: another try would not help."""

    def __init__(self, why: str, *, is_final: bool = False) -> None:
        super().__init__(why)
        self.is_final = is_final


@dataclass(frozen=True, slots=True)
class Notice:
    """What is to be told."""

    entry: HistoryEntry
    sink: str
    is_sample: bool = False
    """Nothing happened: an operator tries the sink."""


def fields_of(notice: Notice) -> dict[str, Any]:
    """Return what templates see. What an entry does not say is None."""
    entry = notice.entry
    return {
        "id": entry.id,
        "at": datetime.fromtimestamp(entry.at, tz=timezone.utc).isoformat(timespec="milliseconds"),
        "kind": entry.kind,
        "service": entry.service,
        "vm": entry.vm,
        "epoch": entry.epoch,
        "request": entry.request_id,
        "reason": " ".join(entry.reason.split()),
        "sink": notice.sink,
        "is_sample": notice.is_sample,
    }


class Templates:
    """The templates below the folder; read anew when a file changes."""

    def __init__(self, directory: Path) -> None:
        """`directory` has the folder `notify`."""
        self._folder = directory / FOLDER
        self._environment = ImmutableSandboxedEnvironment(
            loader=FileSystemLoader(self._folder),
            undefined=StrictUndefined,
            autoescape=lambda name: name is not None and name.endswith(".html.j2"),
            trim_blocks=True,
            lstrip_blocks=True,
        )

    def has(self, name: str) -> bool:
        """Say whether there is such a template."""
        return (self._folder / name).is_file()

    def text(self, name: str, notice: Notice) -> str:
        """Return the notice as the template writes it; raises `Undelivered`, final where the template is there."""
        try:
            return self._environment.get_template(name).render(fields_of(notice)).strip() + "\n"
        except TemplateNotFound as missing:
            raise Undelivered(f"there is no template {self._folder / str(missing.name)}") from None
        except Exception as fault:
            # What stands in an operator's template may raise anything.
            raise Undelivered(f"the template {name} cannot be rendered: {fault}", is_final=True) from None

    def line(self, name: str, notice: Notice) -> str:
        """Return the notice as one line."""
        return " ".join(self.text(name, notice).split())

    def json(self, name: str, notice: Notice) -> str:
        """Return the notice as JSON."""
        text = self.text(name, notice)
        try:
            json.loads(text)
        except ValueError as fault:
            raise Undelivered(f"the template {name} does not make JSON: {fault}", is_final=True) from None
        return text
