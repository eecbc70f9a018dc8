"""Planned moves under load: not one request may fail."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from deploy.machines.lab import Lab
from deploy.machines.places import LabError
from deploy.trials.books import confirmed, stored_in_turn
from deploy.trials.status import settle, wait_until, witness_of
from deploy.trials.trial import BACKEND_URL, FRONTEND_URL, ClientMaker, asking

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
    client: ClientMaker = asking
    pause_s: float | None = None
    """The longest pause that is asked for, in which nothing is answered and nothing fails. With it the move is made as
    often as a fault; None where a pause is not what is asked."""


PLANNED = (
    Planned("orch failover of a healthy backend", BACKEND_URL, ("failover", "backend"), ("failback", "backend")),
    Planned("orch failover of a healthy frontend", FRONTEND_URL, ("failover", "frontend"), ("failback", "frontend")),
    Planned(
        "orch failover of a healthy database",
        BACKEND_URL,
        ("failover", "database"),
        ("failback", "database"),
        client=stored_in_turn,
        pause_s=1.0,
    ),
    Planned(
        "orch failover of a healthy messaging",
        BACKEND_URL,
        ("failover", "messaging"),
        ("failback", "messaging"),
        client=confirmed,
    ),
    Planned("rotation of backend", BACKEND_URL, ("rotate", "backend"), ("failback", "backend")),
    Planned("rotation of frontend", FRONTEND_URL, ("rotate", "frontend"), ("failback", "frontend")),
    Planned(
        "rotation of database", BACKEND_URL, ("rotate", "database"), ("failback", "database"), client=stored_in_turn
    ),
    Planned("rotation of messaging", BACKEND_URL, ("rotate", "messaging"), ("failback", "messaging"), client=confirmed),
)


@dataclass(frozen=True)
class Counted:
    """What the client counted."""

    name: str
    failed: int
    total: int
    slowest_s: float
    pause_s: float = 0.0
    """The longest time without an answer, of both moves."""
    troubles: tuple[str, ...] = ()
    """What is not as the client was told."""


def run_planned(lab: Lab, planned: Planned, requests: int = REQUESTS) -> Counted:
    """Move the service there and back while at least `requests` requests are sent at 50/s."""
    settle(lab)
    with tempfile.TemporaryDirectory(prefix="orch-trial-") as folder:
        with planned.client(lab, planned.url, Path(folder) / "notes.jsonl", RATE) as client:
            wait_until("the client is served", lambda: any(one.ok for one in client.samples()), 30)
            began = time.time()
            for words in (planned.there, planned.back):
                done = lab.run(
                    witness_of(lab), ["orch", *words, "--wait", "--timeout", "60"], check=False, timeout_s=90
                )
                if done.returncode != 0:
                    raise LabError(f"orch {' '.join(words)} exited {done.returncode}: {done.stdout}{done.stderr}")
            settle(lab)
            wait_until("all requests are sent", lambda: client.requests() >= requests, requests / RATE + LONGEST_S)
        samples = client.samples()
        pause_s, troubles = client.outage(began).seconds, tuple(client.troubles())
    slowest = max(sample.end - sample.at for sample in samples)
    failed = sum(not sample.ok for sample in samples)
    return Counted(planned.name, failed, len(samples), round(slowest, 3), round(pause_s, 3), troubles)
