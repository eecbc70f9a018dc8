"""The table of the bench: which faults, what is asked of each, and the best that another tool (Pacemaker, keepalived,
Patroni, plain nginx) reached in a lab like ours."""

from __future__ import annotations

from dataclasses import dataclass

from deploy.trials.harm import LeaderDies, WorkerDies, stop_every_broker
from deploy.trials.trial import BACKEND_URL, FRONTEND_URL, Trial

BACKEND, FRONTEND = "backend-server", "frontend-server"


@dataclass(frozen=True)
class Asked:
    """One row: the trial, and what is asked of its median."""

    trial: Trial
    standby: str
    must_s: float | None
    """Seconds that must be reached; None: nothing but that it ends well."""
    beat_s: float | None = None
    """Seconds that the best other tool needs."""
    on_top_of: str | None = None
    """`must_s` is in addition to the median of this trial."""


def _trial(name: str, kind: str, vm: str, service: str, url: str, *, moves: bool = True) -> Trial:
    return Trial(name, kind, vm, service, url, moves)


BACKEND_KILLED = "backend killed, cold"
_LEADER_DIES, _WORKER_DIES = LeaderDies("backend"), WorkerDies("backend")

ASKED = (
    Asked(_trial(BACKEND_KILLED, "kill", BACKEND, "backend", BACKEND_URL), "cold", 3.5, 3.4),
    Asked(_trial("backend's VM cut, cold", "cut", BACKEND, "backend", BACKEND_URL), "cold", 5.0, 3.8),
    Asked(_trial("backend's VM powered off, cold", "poweroff", BACKEND, "backend", BACKEND_URL), "cold", 5.0, 2.8),
    Asked(_trial("frontend killed, cold", "kill", FRONTEND, "frontend", FRONTEND_URL), "cold", 3.5, 3.4),
    Asked(_trial("frontend's VM cut, cold", "cut", FRONTEND, "frontend", FRONTEND_URL), "cold", 5.0, 3.8),
    Asked(
        _trial("backend crashes (local restart)", "crash", BACKEND, "backend", BACKEND_URL, moves=False),
        "cold",
        1.0,
        1.1,
    ),
    Asked(
        Trial(
            "leader killed in the middle of a failover",
            *("kill", BACKEND, "backend", BACKEND_URL),
            before=_LEADER_DIES.before,
            meanwhile=_LEADER_DIES.meanwhile,
        ),
        *("cold", 3.0, 19.9, BACKEND_KILLED),
    ),
    Asked(
        Trial(
            "worker killed in the middle of a play",
            *("kill", BACKEND, "backend", BACKEND_URL),
            meanwhile=_WORKER_DIES.meanwhile,
        ),
        *("cold", None),
    ),
    Asked(
        Trial(
            "backend killed, every broker down",
            *("kill", BACKEND, "backend", BACKEND_URL),
            before=stop_every_broker,
        ),
        *("cold", 2.0, None, BACKEND_KILLED),
    ),
    Asked(_trial("backend killed, hot", "kill", BACKEND, "backend", BACKEND_URL), "hot", 0.2, 0.01),
    Asked(_trial("backend's VM cut, hot", "cut", BACKEND, "backend", BACKEND_URL), "hot", 0.5, 0.11),
    Asked(_trial("frontend killed, hot", "kill", FRONTEND, "frontend", FRONTEND_URL), "hot", 1.5, 0.73),
    Asked(_trial("frontend's VM cut, hot", "cut", FRONTEND, "frontend", FRONTEND_URL), "hot", 2.0, 0.66),
)
FIRST_TASK_S = 0.7
"""From the decision to the worker's first task."""
RESIDENT_MB, CPU_PERCENT = 100.0, 1.0
"""Of each daemon, while nothing happens."""
DECIDE_MS, DECIDE_VMS = 100.0, 1000
"""decide() for so many VMs with ten times as many instances."""
