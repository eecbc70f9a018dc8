"""Each daemon's registry after it has seen everything once that it can tell of."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from orchestrator.controller import Cycle
from orchestrator.decide import decide
from orchestrator.domain.policy import ReplicationPolicy
from orchestrator.domain.records import Play, Sync
from orchestrator.execute.noted import ClaimTried, MessageTaken, PlayOver
from orchestrator.metrics.controller import ControllerMetrics
from orchestrator.metrics.guard import GuardMetrics
from orchestrator.metrics.page import Metrics
from orchestrator.metrics.worker import WorkerMetrics
from orchestrator.node import duties as do
from orchestrator.node.replication.facts import Replica, ServerFacts
from orchestrator.node.replication.lease import Confirmation
from orchestrator.node.situation import DataState, LocalView
from orchestrator.store.port import Refused
from tests.unit.decide.fleet import Fleet
from tests.unit.node.build import HERE, policy, situation, view

FACTS = ServerFacts(at=1.0, answers=True, replica=Replica("10.0.0.22", True, True, True, True, behind_s=2.5))
SYNC = Sync(service="database", primary="backend-server", epoch=7, complete=(HERE,), since=1.0, reason="test")


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    """Return the sample's value; None where there is none."""
    return metrics.registry.get_sample_value(name, labels)


class Leader:
    """A controller that leads the fleet on paper, cycle by cycle."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.leads = True
        self.metrics = ControllerMetrics(lambda: self.leads)
        self._decide = self.metrics.timed(decide)

    def cycle(self, after_s: float = 0.001, *, applies: bool = True) -> None:
        """Let time pass, decide, write (unless others were faster), and note it."""
        fleet = self.fleet
        fleet.now += after_s
        seen = fleet.view()
        outcome = self._decide(seen, fleet.memory, fleet.policy, fleet.now)
        for decision in outcome.decisions if applies else ():
            fleet.apply(decision)
        fleet.memory = outcome.memory
        self.metrics.note(Cycle(None, outcome, outcome.decisions if applies else (), seen))

    def fail_over(self, takes_s: float) -> None:
        """Home fails; the traffic is at `second` after so long."""
        self.fleet.fails("home")
        self.cycle()
        self.fleet.play(Play.ACTIVATE).runs("second").locked("second")
        self.cycle(takes_s)
        self.cycle()


def replicated(**changes: Any) -> LocalView:
    """Return a guard's view with the front door's service, and the standby of a database."""
    database = policy(standby="hot", door=False).model_copy(
        update={"replication": ReplicationPolicy(kind="mariadb"), "unit": "mariadb", "port": 3306}
    )
    copy = situation(service="database", policy=database, lock=None, sessions=())
    state = DataState(facts=FACTS, sync=SYNC)
    return view(situation(), replace(copy, data=replace(state, **changes)))


def controller_that_saw_everything() -> Metrics:
    """Return the registry of a leader after a failover."""
    leader = Leader(Fleet().serving())
    leader.cycle()
    leader.fail_over(1.5)
    return leader.metrics


def worker_that_saw_everything() -> Metrics:
    """Return the registry of a worker after a play."""
    metrics = WorkerMetrics(lambda: True, lambda: 1)
    for noted in (
        MessageTaken("command"),
        ClaimTried("won"),
        PlayOver("activate_backend.yml", "succeeded", 1.5),
    ):
        metrics.note(noted)
    return metrics


def guard_that_saw_everything() -> Metrics:
    """Return the registry of a guard with an address, a copy of a database, and a lease."""
    seen = replicated()
    metrics = GuardMetrics(lambda: seen)
    metrics.note_duty(do.DropAddress("frontend", "test"), situation(lock=None), True)
    metrics.note_confirmation("database", Confirmation.CONFIRMED)
    metrics.note_consul_failure(Refused("no"))
    return metrics


def every_daemon() -> dict[str, Metrics]:
    """Return them all."""
    return {
        "controller": controller_that_saw_everything(),
        "worker": worker_that_saw_everything(),
        "guard": guard_that_saw_everything(),
    }
