"""What is known about one running lab, in one small file that is replaced whole."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Fault:
    """A fault in force on a VM, with what mending it needs."""

    kind: str
    vm: str
    at: float
    unit: str | None = None
    detail: dict[str, Any] = field(default_factory=dict)

    def describe(self) -> str:
        return f"{self.kind} {self.unit}" if self.unit else self.kind


@dataclass
class LabState:
    """What one running lab is.

    `phase`: starting (machines are made), settling (they run, the fleet is not healthy yet), up. `mode`: bare
    (machines only) or deployed. `lower`: image layers of each VM, the topmost first.
    """

    phase: str = "starting"
    mode: str = "deployed"
    lower: dict[str, list[str]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    ui_port: int | None = None
    deployed_from: str | None = None

    @classmethod
    def load(cls, path: Path) -> LabState | None:
        """Return the state on disk, or None where there is no lab."""
        try:
            raw = json.loads(path.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        faults = [Fault(**fault) for fault in raw.pop("faults", [])]
        return cls(**raw, faults=faults)

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps(asdict(self), indent=1))
        os.replace(fresh, path)

    def faults_of(self, vm: str) -> list[Fault]:
        return [fault for fault in self.faults if fault.vm == vm]
