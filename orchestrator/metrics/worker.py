"""What a worker tells: its session, what it claimed, and what its plays came to.

In: each `Noted` that the steps hand over. Out: counters and histograms.
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import Counter, Gauge, Histogram

from orchestrator.execute.noted import ClaimTried, MessageTaken, Noted, PlayOver
from orchestrator.metrics.page import Metrics

PLAY_BUCKETS = (0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0)


class WorkerMetrics(Metrics):
    """The registry of a worker."""

    def __init__(self, has_session: Callable[[], bool], plays_in_hand: Callable[[], int]) -> None:
        """Both are asked by the thread that makes the page: they must not block."""
        super().__init__("worker")
        registry = self.registry
        Gauge(
            "orch_worker_session",
            "1 while the worker has the session in Consul without which it takes no commands, else 0.",
            registry=registry,
        ).set_function(lambda: float(has_session()))
        Gauge(
            "orch_worker_plays_in_hand", "Plays that run, or have ended and are not written yet.", registry=registry
        ).set_function(lambda: float(plays_in_hand()))
        self._plays = Counter(
            "orch_worker_plays",
            "Plays that ended here: what their command came to, released to another worker, or dropped because the "
            "command was not this worker's any more.",
            ["playbook", "outcome"],
            registry=registry,
        )
        self._durations = Histogram(
            "orch_worker_play_duration_seconds",
            "From the claim of a command to its play's end as written.",
            ["playbook"],
            buckets=PLAY_BUCKETS,
            registry=registry,
        )
        self._claims = Counter(
            "orch_worker_claims",
            "Tries to claim a command: won, lost (another worker or another write was faster), or without an answer.",
            ["outcome"],
            registry=registry,
        )
        self._messages = Counter(
            "orch_worker_messages",
            "Messages taken from the broker: of a command, a request by hand, or rejected to the dead-letter queue.",
            ["outcome"],
            registry=registry,
        )

        for outcome in ("won", "lost", "unknown"):
            self._claims.labels(outcome)
        for outcome in ("command", "request", "rejected"):
            self._messages.labels(outcome)

    def note(self, noted: Noted) -> None:
        """Take what the steps note."""
        if isinstance(noted, PlayOver):
            self._plays.labels(noted.playbook, noted.outcome).inc()
            self._durations.labels(noted.playbook).observe(max(0.0, noted.took_s))
        elif isinstance(noted, ClaimTried):
            self._claims.labels(noted.outcome).inc()
        elif isinstance(noted, MessageTaken):
            self._messages.labels(noted.outcome).inc()
