"""Which step of a failover took how long: from the records in KV, the rendered file and the client's notes."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deploy.machines.lab import Lab

# Each of these waits for the one before it. With a hot standby the play waits for the traffic instead.
CHAIN = ("detected", "decided", "dispatched", "play started", "lock held", "endpoints", "rendered", "served")
# The play goes on while the guard takes the lock and traffic moves: nobody waits for its end.
PLAY_DONE = "play done"
STEPS = (*CHAIN, PLAY_DONE)


@dataclass(frozen=True)
class Step:
    """One step of a failover."""

    name: str
    after_fault_s: float
    share_s: float | None
    """Seconds since the step that it waited for; these add up to the time until served. None: it happened beside
    or after what the client waited for, and has no share in it."""


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


def kv_below(kv: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return the part of the values whose keys begin with the prefix."""
    return {key: value for key, value in kv.items() if key.startswith(prefix)}


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
    """Return the steps in the order in which they happened; what was before the fault is left out."""
    times = request.get("times", {})
    moments = {
        "detected": times.get("detected"),
        "decided": times.get("decided"),
        "dispatched": command.get("claimed"),
        "play started": command.get("first_task"),
        "lock held": times.get("locked"),
        "endpoints": times.get("endpoints"),
        "rendered": rendered,
        "served": served,
        PLAY_DONE: command.get("finished"),
    }
    known = {name: at for name, at in moments.items() if at is not None and at >= fault_at}
    shares, before = {}, fault_at
    for name in waited_for(known):
        shares[name], before = known[name] - before, known[name]
    in_time = sorted(known, key=lambda name: (known[name], STEPS.index(name)))
    return [Step(name, known[name] - fault_at, shares.get(name)) for name in in_time]


def waited_for(known: Mapping[str, float]) -> list[str]:
    """Return the steps that the client waited for: each no later than the next of them, up to served."""
    chain: list[str] = []
    latest = known.get("served", float("inf"))
    for name in reversed(CHAIN):
        if name in known and known[name] <= latest:
            chain.insert(0, name)
            latest = known[name]
    return chain


def first_task_after_s(request: Mapping[str, Any], command: Mapping[str, Any]) -> float | None:
    """Return the seconds from the decision to the first task of its play; None where either is not known."""
    decided, first_task = request.get("times", {}).get("decided"), command.get("first_task")
    return None if decided is None or first_task is None else float(first_task - decided)
