"""One trial: traffic on, harm done, service back, measured; then mended and settled again."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.machines.lab import Lab
from deploy.machines.places import LabError
from deploy.trials.client import Traffic
from deploy.trials.outage import Outage, is_served_again, outage_from
from deploy.trials.timeline import Step, command_of, kv_of, rendered_at, request_since, steps_of

FRONT_DOOR = "http://10.0.0.100"
BACKEND_URL = f"{FRONT_DOOR}/api/listings"
FRONTEND_URL = f"{FRONT_DOOR}/"
# Home of no service under test, and no controller: what is asked here is answered during every fault of the trials.
WITNESS = "database-server"
SERVED_AGAIN_WITHIN_S = 60.0
SETTLED_WITHIN_S = 120.0
# These are done to a service's unit, the others to a whole VM.
UNIT_FAULTS = frozenset({"kill", "crash", "stop"})


@dataclass(frozen=True)
class Trial:
    """What to do and where to look from."""

    name: str
    kind: str
    vm: str
    service: str
    url: str
    moves: bool = True
    """The service is expected to move; its steps are collected."""
    before: Callable[[Lab], None] | None = None
    """What else is broken first, on the settled fleet."""
    meanwhile: Callable[[Lab, float], None] | None = None
    """What else is broken in the middle of the failover; it is given the time of the fault."""


@dataclass(frozen=True)
class Result:
    """What came of it."""

    trial: str
    outage: Outage
    steps: list[Step] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)
    """What helps to judge the run: who led, how loaded the machine was, who ran the play and at which attempt."""


def wait_until(what: str, is_true: Callable[[], bool], within_s: float, every_s: float = 0.1) -> None:
    """Ask until it is true; raises LabError that says what did not happen."""
    deadline = time.monotonic() + within_s
    while not is_true():
        if time.monotonic() > deadline:
            raise LabError(f"after {within_s:g} s it is still not so that {what}")
        time.sleep(every_s)


def fleet_status(lab: Lab, vm: str = WITNESS) -> dict[str, Any]:
    """Return `orch status --json` as the VM tells it; an empty mapping while it cannot."""
    told = lab.run(vm, ["orch", "status", "--json"], check=False, timeout_s=20)
    try:
        return dict(json.loads(told.stdout))
    except ValueError:
        return {}


def is_settled(lab: Lab) -> bool:
    """Say whether every service is served where it is designated, beside the standbys that its policy wants and no
    others, and nothing is under way."""
    status = fleet_status(lab)
    if not status or status.get("healthy") is not True or status.get("moves") or status.get("commands"):
        return False
    return not any(_has_leftovers(service) for service in status["services"].values())


def _has_leftovers(service: dict[str, Any]) -> bool:
    """Say whether a cold service still runs beside its active, as it does for seconds after it was hot."""
    beside = (state for vm, state in service["instances"].items() if vm != service["active"])
    return service["standby"] == "cold" and "healthy" in beside


def settle(lab: Lab) -> None:
    """Wait until the fleet is as it should be."""
    wait_until("every service is served where it is designated", lambda: is_settled(lab), SETTLED_WITHIN_S, 0.5)


def run_trial(lab: Lab, trial: Trial, say: Callable[[str], None], *, rate: float = 50.0) -> Result:
    """Do one trial on a settled fleet and leave the fault in force; the caller mends and settles."""
    notes: dict[str, Any] = {"leader": fleet_status(lab).get("leader"), "load": round(os.getloadavg()[0], 2)}
    if trial.before is not None:
        trial.before(lab)
    outage, fault_at = _suffered(lab, trial, say, rate)
    kv = kv_of(lab, WITNESS)
    request = request_since(kv, trial.service, fault_at)
    if not trial.moves:
        if request is not None:
            raise LabError(f"{trial.service} was moved although it had only to be restarted: {request['reason']}")
        return Result(trial.name, outage, [], notes)
    return _explained(lab, trial, outage, fault_at, kv, request or {}, notes)


def _suffered(lab: Lab, trial: Trial, say: Callable[[str], None], rate: float) -> tuple[Outage, float]:
    """Return the outage that the client saw, and when the harm was done."""
    with tempfile.TemporaryDirectory(prefix="orch-trial-") as folder:
        with Traffic(lab, trial.url, Path(folder) / "notes.jsonl", rate=rate) as traffic:
            began = time.time()
            wait_until("the client is served", lambda: is_served_again(traffic.samples(), began), SERVED_AGAIN_WITHIN_S)
            fault_at = lab.fault(trial.kind, trial.vm, trial.service if trial.kind in UNIT_FAULTS else None).at
            say(f"{trial.kind} of {trial.service} on {trial.vm}")
            if trial.meanwhile is not None:
                trial.meanwhile(lab, fault_at)
            if trial.moves:
                wait_until(
                    "a request moves it", lambda: _request(lab, trial, fault_at) is not None, SERVED_AGAIN_WITHIN_S
                )
                wait_until("its request is done", lambda: _is_done(lab, trial, fault_at), SERVED_AGAIN_WITHIN_S, 0.3)
            settled_at = time.time()
            wait_until(
                "the client is served again",
                lambda: is_served_again(traffic.samples(), settled_at),
                SERVED_AGAIN_WITHIN_S,
            )
        return outage_from(traffic.samples(), fault_at), fault_at


def _explained(
    lab: Lab,
    trial: Trial,
    outage: Outage,
    fault_at: float,
    kv: dict[str, Any],
    request: dict[str, Any],
    notes: dict[str, Any],
) -> Result:
    """Return the result with each step's share, and who did it."""
    command = command_of(kv, str(request.get("id")))
    notes |= {name: command.get(name) for name in ("worker", "attempt", "state")}
    notes["to_first_task_s"] = _between(request.get("times", {}).get("decided"), command.get("first_task"))
    rendered = rendered_at(lab, kv["orch/services/frontend/assignment"]["active"], trial.service)
    return Result(trial.name, outage, steps_of(request, command, rendered, outage.served_at, fault_at), notes)


def _request(lab: Lab, trial: Trial, fault_at: float) -> dict[str, Any] | None:
    try:
        return request_since(kv_of(lab, WITNESS), trial.service, fault_at)
    except (LabError, ValueError):
        # Consul has no leader for a moment: not known yet.
        return None


def _is_done(lab: Lab, trial: Trial, fault_at: float) -> bool:
    request = _request(lab, trial, fault_at)
    return request is not None and request["state"] not in ("pending", "running")


def _between(earlier: float | None, later: float | None) -> float | None:
    return None if earlier is None or later is None else round(later - earlier, 3)
