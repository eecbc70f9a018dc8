"""What else breaks in some trials: the leader or the worker in the middle of a failover, or every broker before it."""

from __future__ import annotations

from typing import Any

from deploy.machines.lab import Lab
from deploy.trials.timeline import kv_of
from deploy.trials.trial import WITNESS, fleet_status, wait_until

BROKERS = ("messaging-server", "frontend-server", "database-server")
SOON_S = 20.0


def stop_every_broker(lab: Lab) -> None:
    """Stop RabbitMQ on each VM of its cluster."""
    for vm in BROKERS:
        lab.fault("stop", vm, "messaging")


class LeaderDies:
    """The leading controller is killed once its decision is in KV and before it has pointed the traffic: only another
    leader can end the failover. It cannot start again until mended."""

    def __init__(self, service: str) -> None:
        self._service = service
        self._leader = ""

    def before(self, lab: Lab) -> None:
        """Find out who leads."""
        self._leader = str(fleet_status(lab)["leader"])

    def meanwhile(self, lab: Lab, fault_at: float) -> None:
        """Kill it when the assignment has moved."""
        key = f"orch/services/{self._service}/assignment"
        wait_until("the decision is written", lambda: kv_of(lab, WITNESS)[key]["since"] >= fault_at, SOON_S, 0.0)
        lab.fault("kill", self._leader, "orch-controller")


class WorkerDies:
    """The worker that runs the play is killed in the middle of it, and cannot start again until mended."""

    def __init__(self, service: str) -> None:
        self._service = service

    def meanwhile(self, lab: Lab, fault_at: float) -> None:
        """Kill it when the command is running."""
        found: list[dict[str, Any]] = []

        def runs() -> bool:
            found.extend(
                value
                for key, value in kv_of(lab, WITNESS).items()
                if key.startswith("orch/commands/")
                and (value["service"], value["state"]) == (self._service, "running")
                and value["created"] >= fault_at
            )
            return bool(found)

        wait_until("a worker runs the play", runs, SOON_S, 0.0)
        lab.fault("kill", str(found[0]["worker"]), "orch-worker")
