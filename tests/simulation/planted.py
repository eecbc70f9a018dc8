"""Planted bugs: the simulation must fail when it should. Each is a part with one rule left out."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

from orchestrator.controller import Controller
from orchestrator.domain.decision import Decision, Put
from orchestrator.domain.records import Assignment, Endpoint, Endpoints
from orchestrator.domain.view import Kept
from orchestrator.execute.choice import Situation
from orchestrator.node import duties as do
from orchestrator.store.port import CasDelete, CasPut, LockPut, Unknown
from orchestrator.store.records import encoded
from orchestrator.worker_steps import Worker
from tests.simulation.daemons import WatchedHand
from tests.simulation.machines import Door
from tests.simulation.world import Parts


class HastyController(Controller):
    """Points the traffic at the target together with the assignment, before the lock is held."""

    def _write(self, decisions: tuple[Decision, ...], leader_session: str) -> Any:
        return super()._write(tuple(self._hasty(each) for each in decisions), leader_session)

    def _hasty(self, decision: Decision) -> Decision:
        if decision.code != "failover" or self._policy is None or decision.service is None:
            return decision
        moved = next(c.record for c in decision.changes if isinstance(c, Put) and isinstance(c.record, Assignment))
        assert isinstance(moved, Assignment)
        key = f"orch/services/{decision.service}/endpoints"
        _, pair = self._port.kv_get(key)
        row = Endpoint(vm=moved.active, address=self._policy.vms[moved.active].address, port=80)
        endpoints = Endpoints(service=decision.service, epoch=moved.epoch, endpoints=(row,))
        return replace(decision, changes=(*decision.changes, Put(key, endpoints, pair.modify_index if pair else 0)))


class UnfencedController(Controller):
    """Writes without checking in the same transaction that it still leads."""

    def _write(self, decisions: tuple[Decision, ...], leader_session: str) -> Any:
        for decision in decisions:
            with suppress(Unknown):
                self._port.txn(
                    tuple(
                        CasPut(c.key, encoded(c.record), c.index) if isinstance(c, Put) else CasDelete(c.key, c.index)
                        for c in decision.changes
                    )
                )
        return decisions, False


class IdleController(Controller):
    """Never has a hot standby started."""

    def _write(self, decisions: tuple[Decision, ...], leader_session: str) -> Any:
        return super()._write(tuple(each for each in decisions if each.code != "standby"), leader_session)


class ForgetfulController(Controller):
    """Never writes how a request ended."""

    def _write(self, decisions: tuple[Decision, ...], leader_session: str) -> Any:
        kept = tuple(each for each in decisions if each.code not in ("succeeded", "failed"))
        return super()._write(kept, leader_session)


class SilentController(Controller):
    """Refuses without saying why."""

    def _write(self, decisions: tuple[Decision, ...], leader_session: str) -> Any:
        return super()._write(tuple(self._silent(each) for each in decisions), leader_session)

    @staticmethod
    def _silent(decision: Decision) -> Decision:
        if decision.code != "refused":
            return decision
        changes = tuple(
            replace(c, record=c.record.with_(outcome="")) if isinstance(c, Put) and "requests" in c.key else c
            for c in decision.changes
        )
        return replace(decision, changes=changes)


class EpochBlindWorker(Worker):
    """Takes every command for one of the present epoch that nobody cancelled."""

    def _situation(self, now: float, asked: frozenset[str]) -> Situation:
        situation = super()._situation(now, asked)
        epochs: dict[str, int] = {}
        for seen in situation.commands.values():
            if isinstance(seen, Kept) and not seen.value.is_final:
                service, epoch = seen.value.service, seen.value.epoch
                epochs[service] = min(epoch, epochs.get(service, epoch))
        blind = {
            service: Kept(seen.value.with_(epoch=epochs[service]), seen.index)
            if isinstance(seen, Kept) and service in epochs
            else seen
            for service, seen in situation.assignments.items()
        }
        commands = {
            name: replace(seen, value=seen.value.with_(cancel_requested=False)) if isinstance(seen, Kept) else seen
            for name, seen in situation.commands.items()
        }
        return replace(situation, assignments=blind, commands=commands)


class LeaselessWorker(Worker):
    """Does not stop its plays when it lost its session or cannot reach Consul."""

    def _keep_lease(self, seen: Any, now: float) -> None:
        return

    def _is_session_gone(self, seen: Any) -> bool:
        return False


class DeafWorker(Worker):
    """Acknowledges a message when it comes, and looks into KV for nothing else."""

    def _situation(self, now: float, asked: frozenset[str]) -> Situation:
        situation = super()._situation(now, asked)
        heard = {name: seen for name, seen in situation.commands.items() if name in situation.delivered | asked}
        return replace(situation, commands=heard)


class StubbornDoor(Door):
    """An address that was taken is never given up."""

    def drop(self) -> None:
        """Leave it."""

    def hand_over(self) -> None:
        """Leave it."""


class RoughHand(WatchedHand):
    """Takes the lock whatever the assignment says by now, and under a wrong epoch."""

    def _acquire(self, duty: do.AcquireLock) -> None:
        value = f'{{"vm": "{self._vm}", "epoch": {duty.epoch - 1}}}'.encode()
        self._port.txn((LockPut(f"orch/services/{duty.service}/lock", value, duty.session),))


class FreeHand(WatchedHand):
    """Stops a unit as soon as it looks at it, whatever the assignment says."""

    def carry_out(self, duty: do.Duty, at: Any, doors: Any) -> None:
        """Confuse two duties."""
        if isinstance(duty, do.Retag) and at is not None:
            self._stop_unit(at.policy.unit)
        super().carry_out(duty, at, doors)


BUGS: dict[str, tuple[Parts, str, int]] = {
    "traffic before the lock": (Parts(controller=HastyController), "never held the role lock", 1),
    "writes without the leader lock": (Parts(controller=UnfencedController), "without the leader lock", 155),
    "hot standbys that nobody starts": (Parts(controller=IdleController), "no hot standby", 80),
    "requests without an end": (Parts(controller=ForgetfulController), "request", 1),
    "refusals without a reason": (Parts(controller=SilentController), "without a reason", 15),
    "a worker that ignores epochs": (Parts(worker=EpochBlindWorker), "epoch", 13),
    "a worker that ignores its lease": (Parts(worker=LeaselessWorker), "at the same time", 321),
    "a worker that trusts the broker": (Parts(worker=DeafWorker), "after everything was healed", 58),
    "an address that is never given up": (Parts(door=StubbornDoor), "address", 1),
    "a lock under the wrong epoch": (Parts(hand=RoughHand), "role lock", 1),
    "a guard that stops what may run": (Parts(hand=FreeHand), "which may run there", 1),
}
"""What is wrong -> the parts, words of the sentence that must come of it, and a seed near which it is found.

The search begins at that seed; any change of the code may move it.
"""
