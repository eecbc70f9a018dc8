"""One trial: traffic on, harm done, service back, measured; then mended and settled again."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.machines.lab import Lab
from deploy.machines.places import LabError
from deploy.trials.client import Client, Traffic
from deploy.trials.outage import Outage, is_served_again
from deploy.trials.status import fleet_status, settle, wait_until, witness_of
from deploy.trials.timeline import Step, command_of, first_task_after_s, kv_of, rendered_at, request_since, steps_of

FRONT_DOOR = "http://10.0.0.100"
BACKEND_URL = f"{FRONT_DOOR}/api/listings"
FRONTEND_URL = f"{FRONT_DOOR}/"
SERVED_AGAIN_WITHIN_S = 60.0
# These are done to a service's unit, the others to a whole VM.
UNIT_FAULTS = frozenset({"kill", "crash", "stop"})

Noted = dict[str, Any]
# What else goes wrong: prepared on the settled fleet, then called with the time of the fault; returns what it did.
Strike = Callable[[float], Noted]
Accident = Callable[[Lab], Strike]
# The traffic that a trial is measured by, from lab, URL, file for its notes and requests per second.
ClientMaker = Callable[[Lab, str, Path, float], Client]


def asking(lab: Lab, url: str, notes: Path, rate: float) -> Client:
    """Measure when requests are answered."""
    return Traffic(lab, url, notes, rate=rate)


def no_accident(lab: Lab) -> Strike:
    """Nothing else goes wrong."""
    return lambda _: {}


def nothing_to_check(kv: Mapping[str, Any], fault_at: float, noted: Noted) -> list[str]:
    """The numbers say it all."""
    return []


@dataclass(frozen=True)
class Trial:
    """What to do and where to look from."""

    name: str
    kind: str
    vm: str
    service: str
    url: str
    moves: bool = True
    """The service is expected to move; its steps are collected. Otherwise it must not move."""
    accident: Accident = no_accident
    check: Callable[[Mapping[str, Any], float, Noted], list[str]] = nothing_to_check
    """Reads the records (key -> value), the time of the fault and what the accident noted; returns what is wrong."""
    client: ClientMaker = asking
    returns: bool = False
    """The fault is mended after the measurement, and how long the fleet then takes to be as before is measured too."""


@dataclass(frozen=True)
class Result:
    """What came of it."""

    trial: str
    outage: Outage
    steps: list[Step] = field(default_factory=list)
    decision_to_first_task_s: float | None = None
    at: float = 0.0
    leader: str | None = None
    """The VM whose controller led before the fault."""
    load: float = 0.0
    """Load average of the host over the last minute, before the fault."""
    noted: Noted = field(default_factory=dict)
    troubles: tuple[str, ...] = ()
    """What was not as asked, however quick it was."""
    returned_s: float | None = None
    """From mending the fault until the fleet was as before; None where that was not measured."""
    all_back: Outage | None = None
    """Until every service was back; None where the fault was not mended, or the client does not tell."""


def run_trial(lab: Lab, trial: Trial, say: Callable[[str], None], *, rate: float = 50.0) -> Result:
    """Do one trial on a settled fleet and leave the fault in force (unless it is one that returns); the caller mends
    and settles."""
    before, load = fleet_status(lab), os.getloadavg()[0]
    strike = trial.accident(lab)
    with tempfile.TemporaryDirectory(prefix="orch-trial-") as folder:
        with trial.client(lab, trial.url, Path(folder) / "notes.jsonl", rate) as client:
            began = time.time()
            _wait_served(client, began)
            fault_at = lab.fault(trial.kind, trial.vm, trial.service if trial.kind in UNIT_FAULTS else None).at
            noted = strike(fault_at)
            say(f"{trial.kind} of {trial.service} on {trial.vm}")
            if trial.moves:
                wait_until(
                    "a request moves it", lambda: _request(lab, trial, fault_at) is not None, SERVED_AGAIN_WITHIN_S
                )
                wait_until("its request is done", lambda: _is_done(lab, trial, fault_at), SERVED_AGAIN_WITHIN_S, 0.3)
            _wait_served(client, time.time())
            outage = client.outage(fault_at)
            kv = kv_of(lab, witness_of(lab))
            request = request_since(kv, trial.service, fault_at)
            command = command_of(kv, request["id"]) if request is not None else {}
            steps = _steps(lab, trial, request, command, kv, outage, fault_at) if request is not None else []
            returned_s = _return(lab) if trial.returns else None
            all_back = client.all_back(fault_at) if trial.returns else None
        lost = client.troubles()
    troubles = [*trial.check(kv, fault_at, noted), *lost]
    if request is not None and not trial.moves:
        troubles = [*troubles, f"{trial.service} was moved: {request.get('reason')}"]
    return Result(
        trial.name,
        outage,
        steps,
        first_task_after_s(request or {}, command),
        fault_at,
        before.get("leader"),
        round(load, 2),
        noted,
        tuple(troubles),
        returned_s,
        all_back,
    )


def _return(lab: Lab) -> float:
    """Mend, and return the seconds until the fleet is as before."""
    began = time.monotonic()
    lab.mend()
    settle(lab)
    return time.monotonic() - began


def _wait_served(client: Client, since: float) -> None:
    wait_until("the client is served", lambda: is_served_again(client.samples(), since), SERVED_AGAIN_WITHIN_S)


def _request(lab: Lab, trial: Trial, fault_at: float) -> dict[str, Any] | None:
    try:
        return request_since(kv_of(lab, witness_of(lab)), trial.service, fault_at)
    except (LabError, ValueError):
        # Consul has no leader for a moment: not known yet.
        return None


def _is_done(lab: Lab, trial: Trial, fault_at: float) -> bool:
    request = _request(lab, trial, fault_at)
    return request is not None and request["state"] not in ("pending", "running")


def _steps(
    lab: Lab,
    trial: Trial,
    request: Mapping[str, Any],
    command: Mapping[str, Any],
    kv: Mapping[str, Any],
    outage: Outage,
    fault_at: float,
) -> list[Step]:
    front = kv["orch/services/frontend/assignment"]["active"]
    rendered = rendered_at(lab, front, trial.service)
    return steps_of(request, command, rendered, outage.served_at, fault_at)
