"""Planned moves under load: not one request may fail."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from deploy.machines.lab import Lab
from deploy.machines.places import LabError
from deploy.trials.client import Traffic
from deploy.trials.trial import BACKEND_URL, FRONTEND_URL, WITNESS, settle, wait_until

REQUESTS = 1000
RATE = 50.0
# Beyond what the requests take: the traffic ends with the move, not before it.
LONGEST_S = 300.0


@dataclass(frozen=True)
class Planned:
    """Operator's commands that move a healthy service there and back."""

    name: str
    url: str
    there: tuple[str, ...]
    back: tuple[str, ...]


PLANNED = (
    Planned("orch failover of a healthy backend", BACKEND_URL, ("failover", "backend"), ("failback", "backend")),
    Planned("orch failover of a healthy frontend", FRONTEND_URL, ("failover", "frontend"), ("failback", "frontend")),
    Planned("rotation of backend", BACKEND_URL, ("rotate", "backend"), ("failback", "backend")),
    Planned("rotation of frontend", FRONTEND_URL, ("rotate", "frontend"), ("failback", "frontend")),
)


@dataclass(frozen=True)
class Counted:
    """What the client counted."""

    name: str
    failed: int
    total: int
    slowest_s: float


def run_planned(lab: Lab, planned: Planned, requests: int = REQUESTS) -> Counted:
    """Move the service there and back while `requests` requests or more are sent at 50/s."""
    settle(lab)
    with tempfile.TemporaryDirectory(prefix="orch-trial-") as folder:
        notes = Path(folder) / "notes.jsonl"
        with Traffic(lab, planned.url, notes, rate=RATE, seconds=requests / RATE + LONGEST_S) as traffic:
            for words in (planned.there, planned.back):
                done = lab.run(WITNESS, ["orch", *words, "--wait", "--timeout", "60"], check=False, timeout_s=90)
                if done.returncode != 0:
                    raise LabError(f"orch {' '.join(words)} exited {done.returncode}: {done.stdout}{done.stderr}")
            settle(lab)
            sent_within_s = requests / RATE + LONGEST_S
            wait_until("all requests are sent", lambda: len(traffic.samples()) >= requests, sent_within_s)
        samples = traffic.samples()
    slowest = max(sample.end - sample.at for sample in samples)
    return Counted(planned.name, sum(not sample.ok for sample in samples), len(samples), round(slowest, 3))
