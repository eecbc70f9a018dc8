"""What all three daemons tell, and the page itself.

In: the daemon's name. Out: `/metrics`. The metrics of one daemon alone stand in the module of its name.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import TYPE_CHECKING

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Info,
    Metric,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily

from orchestrator import __version__
from orchestrator.store.port import Refused

if TYPE_CHECKING:
    from orchestrator.liveness import Liveness

# Prometheus knows of a restart by process_start_time_seconds, and needs no second series for each counter.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """One daemon's registry; keeps `liveness.Page`. Everything may be noted and read by any thread."""

    def __init__(self, daemon: str) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        build = Info("orch_build", "Which orch this daemon is, and on which Python.", registry=self.registry)
        build.info({"daemon": daemon, "version": __version__, "python": platform.python_version()})
        self._alive = Gauge(
            "orch_daemon_alive", "1 while the daemon's loop goes round, 0 when it hangs.", registry=self.registry
        )
        failed = Counter(
            "orch_consul_calls_failed",
            "Calls to the local Consul agent that were refused, or of which it is unknown what became of them.",
            ["outcome"],
            registry=self.registry,
        )
        self._consul_failed = {outcome: failed.labels(outcome) for outcome in ("refused", "unknown")}

    def watch(self, liveness: Liveness) -> None:
        """Tell from now on whether the loop goes round."""
        self._alive.set_function(lambda: float(liveness.report()[0]))

    def note_consul_failure(self, problem: Exception) -> None:
        """Count a call that ended in `Refused` or `Unknown`."""
        self._consul_failed["refused" if isinstance(problem, Refused) else "unknown"].inc()

    def page(self) -> tuple[str, bytes]:
        """Return the page's content type and text."""
        return CONTENT_TYPE_LATEST, generate_latest(self.registry)


def gauge(name: str, help_text: str, labels: tuple[str, ...], rows: Mapping[tuple[str, ...], float]) -> Metric:
    """Return a gauge with these values of its labels, as a collector gives it."""
    family = GaugeMetricFamily(name, help_text, labels=labels)
    for row, value in rows.items():
        family.add_metric(row, value)
    return family
