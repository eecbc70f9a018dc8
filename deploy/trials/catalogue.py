"""What `make bench` does, with what is asked of each: the issue's table in the form that the bench runs."""

from __future__ import annotations

from dataclasses import dataclass

from deploy.trials.accidents import (
    brokers_stopped,
    leader_killed_after_deciding,
    leader_killed_with_the_fault,
    trouble_with_the_play,
    worker_killed_in_its_play,
)
from deploy.trials.books import confirmed, stored_by_one, stored_in_turn, straight_from_messaging
from deploy.trials.report import Asked
from deploy.trials.timeline import kv_below
from deploy.trials.trial import BACKEND_URL, FRONTEND_URL, Trial

BACKEND, FRONTEND = "backend-server", "frontend-server"
DATABASE, MESSAGING = "database-server", "messaging-server"
PLAIN = "backend killed, cold"
DATABASE_KILLED = "database killed: written again"


@dataclass(frozen=True)
class Entry:
    """One fault of the table."""

    standby: str
    asked: Asked
    trial: Trial
    about_s: float
    """What one run takes on a machine with two cores until the fleet has settled again, for the estimate."""
    all_back: Asked | None = None
    """What is asked of the time until every service is back, where its own service's is not that."""


def _backend(name: str, kind: str, **others: object) -> Trial:
    return Trial(name, kind, BACKEND, "backend", BACKEND_URL, **others)  # type: ignore[arg-type]


def _frontend(name: str, kind: str) -> Trial:
    return Trial(name, kind, FRONTEND, "frontend", FRONTEND_URL)


def _written(name: str, kind: str, vm: str, service: str, **others: object) -> Trial:
    """Return a trial measured by listings that are written; where nothing else is said, once they are confirmed, which
    needs all four services."""
    return Trial(name, kind, vm, service, BACKEND_URL, **{"client": confirmed, **others})  # type: ignore[arg-type]


ENTRIES: tuple[Entry, ...] = (
    Entry("cold", Asked(3.5, 3.4), _backend(PLAIN, "kill"), 12),
    Entry("cold", Asked(5.0, 3.8), _backend("backend's VM cut, cold", "cut"), 25),
    Entry("cold", Asked(5.0, 2.8), _backend("backend's VM powered off, cold", "poweroff"), 30),
    Entry("cold", Asked(3.5, 3.4), _frontend("frontend killed, cold", "kill"), 12),
    Entry("cold", Asked(5.0, 3.8), _frontend("frontend's VM cut, cold", "cut"), 25),
    Entry("cold", Asked(1.0, 1.1), _backend("backend crashes (local restart, no failover)", "crash", moves=False), 8),
    Entry(
        "cold",
        Asked(3.0, 19.9, over=PLAIN),
        _backend("leader killed with the backend", "kill", accident=leader_killed_with_the_fault),
        25,
    ),
    Entry(
        "cold",
        Asked(3.0, 19.9, over=PLAIN),
        _backend("leader killed after its decision", "kill", accident=leader_killed_after_deciding),
        25,
    ),
    Entry(
        "cold",
        Asked(),
        _backend(
            "worker killed in its play: the other one ends it, one run at a time",
            "kill",
            accident=worker_killed_in_its_play,
            check=lambda kv, fault_at, noted: trouble_with_the_play(kv_below(kv, "orch/commands/"), fault_at, noted),
        ),
        25,
    ),
    Entry(
        "cold",
        Asked(2.0, over=PLAIN),
        _backend("RabbitMQ stopped everywhere, then backend killed", "kill", accident=brokers_stopped),
        45,
    ),
    # Patroni with Consul, tuned, in the same kind of lab: 9.1 s.
    Entry("cold", Asked(6.0, 9.1), _written(DATABASE_KILLED, "kill", DATABASE, "database", client=stored_by_one), 30),
    Entry(
        "cold",
        Asked(6.0, 9.1),
        _written("database's VM cut: written again", "cut", DATABASE, "database", client=stored_by_one),
        40,
    ),
    Entry(
        "cold",
        Asked(6.0, 9.1),
        _written(
            "database's VM powered off: written again",
            "poweroff",
            DATABASE,
            "database",
            client=stored_in_turn,
            returns=True,
        ),
        60,
        all_back=Asked(10.0),
    ),
    Entry(
        "cold", Asked(8.0), _written("messaging's broker stopped: published again", "stop", MESSAGING, "messaging"), 30
    ),
    Entry(
        "cold",
        Asked(8.0),
        _written(
            "messaging's VM powered off: published again, all services back",
            "poweroff",
            MESSAGING,
            "messaging",
            returns=True,
        ),
        60,
    ),
    *(
        Entry(
            "cold",
            Asked(10.0),
            _written(f"{home}'s VM powered off: all services back", "poweroff", vm, home, returns=True),
            60,
        )
        for home, vm in (("backend", BACKEND), ("frontend", FRONTEND))
    ),
    Entry(
        "cold",
        Asked(2.0, over=DATABASE_KILLED),
        _written(
            "RabbitMQ stopped everywhere, then database killed",
            "kill",
            DATABASE,
            "database",
            accident=brokers_stopped,
            client=straight_from_messaging,
        ),
        60,
    ),
    Entry("hot", Asked(0.2, 0.01), _backend("backend killed, hot", "kill"), 12),
    Entry("hot", Asked(0.5, 0.11), _backend("backend's VM cut, hot", "cut"), 25),
    Entry("hot", Asked(1.5, 0.73), _frontend("frontend killed, hot", "kill"), 12),
    Entry("hot", Asked(2.0, 0.66), _frontend("frontend's VM cut, hot", "cut"), 25),
)
