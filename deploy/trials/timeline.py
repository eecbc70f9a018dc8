"""Which step of a failover took how long: from the records in KV, the rendered file and the client's notes."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deploy.machines.lab import Lab

STEPS = (
    "detected",
    "decided",
    "dispatched",
    "play started",
    "play done",
    "lock held",
    "endpoints",
    "rendered",
    "served",
)


@dataclass(frozen=True)
class Step:
    """One step: seconds after the fault, and seconds after the step that came before it in time."""

    name: str
    after_fault_s: float
    share_s: float


def kv_of(lab: Lab, vm: str) -> dict[str, Any]:
    """Return every readable JSON value under `orch/`, read on the VM."""
    exported = json.loads(lab.run(vm, ["consul", "kv", "export", "orch/"], timeout_s=20).stdout)
    values = {}
    for row in exported:
        try:
            values[row["key"]] = json.loads(base64.b64decode(row["value"]))
        except ValueError:
            continue
    return values


def request_since(kv: Mapping[str, Any], service: str, fault_at: float) -> dict[str, Any] | None:
    """Return the first request for the service that was made after the fault and moved it."""
    made = [
        value
        for key, value in kv.items()
        if key.startswith("orch/requests/")
        and value.get("service") == service
        and value.get("created", 0) >= fault_at - 0.05
        and value.get("epoch")
        and value.get("kind") != "standby"
    ]
    return min(made, key=lambda value: float(value["created"]), default=None)


def command_of(kv: Mapping[str, Any], request_id: str) -> dict[str, Any]:
    """Return the activate command of the request, or an empty mapping."""
    for key, value in kv.items():
        if key.startswith("orch/commands/") and value.get("request_id") == request_id and value["play"] == "activate":
            return dict(value)
    return {}


def rendered_at(lab: Lab, vm: str, service: str) -> float | None:
    """Return when the VM's upstream of the service was last replaced."""
    path = f"/etc/nginx/orch/{service}-upstream.conf"
    found = lab.run(vm, ["stat", "--format=%.9Y", path], check=False, timeout_s=10)
    return float(found.stdout) if found.returncode == 0 else None


def steps_of(
    request: Mapping[str, Any],
    command: Mapping[str, Any],
    rendered: float | None,
    served: float | None,
    fault_at: float,
) -> list[Step]:
    """Return the steps in the order in which they happened."""
    times = request.get("times", {})
    moments = {
        "detected": times.get("detected"),
        "decided": times.get("decided"),
        "dispatched": command.get("claimed"),
        "play started": command.get("first_task"),
        "play done": command.get("finished"),
        "lock held": times.get("locked"),
        "endpoints": times.get("endpoints"),
        "rendered": rendered,
        "served": served,
    }
    known = sorted((at, STEPS.index(name), name) for name, at in moments.items() if at is not None and at >= fault_at)
    steps, before = [], fault_at
    for at, _, name in known:
        steps.append(Step(name, at - fault_at, at - before))
        before = at
    return steps
