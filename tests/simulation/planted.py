"""Planted bugs: the simulation must fail when it should. Each is a part with one rule left out."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

from orchestrator.controller import Controller
from orchestrator.domain import keys
from orchestrator.domain.decision import Decision, Delete, Put
from orchestrator.domain.records import Assignment, Endpoint, Endpoints, Request
from orchestrator.domain.view import Kept
from orchestrator.execute.choice import Situation
from orchestrator.node import duties as do
from orchestrator.store.port import CasDelete, CasPut, LockPut, Unknown
from orchestrator.store.records import encoded
from orchestrator.worker_steps import Worker
from tests.simulation.checker import STEADY_S
from tests.simulation.daemons import WatchedHand
from tests.simulation.machines import Door, keep_last_good
from tests.simulation.planted_data import DATA_BUGS
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


class HollowController(Controller):
    """Takes out of the traffic whoever failed, and so everybody."""

    def _write(self, decisions: tuple[Decision, ...], leader_session: str) -> Any:
        return super()._write(tuple(self._hollow(each) for each in decisions), leader_session)

    @staticmethod
    def _hollow(decision: Decision) -> Decision:
        changes = tuple(
            replace(c, record=c.record.with_(endpoints=()))
            if isinstance(c, Put) and isinstance(c.record, Endpoints)
            else c
            for c in decision.changes
        )
        return replace(decision, changes=changes)


class WithdrawingController(Controller):
    """Deletes the endpoints for as long as a service moves."""

    def _write(self, decisions: tuple[Decision, ...], leader_session: str) -> Any:
        return super()._write(tuple(self._withdrawing(each) for each in decisions), leader_session)

    def _withdrawing(self, decision: Decision) -> Decision:
        key = keys.endpoints(decision.service or "")
        _, pair = self._port.kv_get(key)
        if decision.code != "failover" or pair is None or any(change.key == key for change in decision.changes):
            return decision
        return replace(decision, changes=(*decision.changes, Delete(key, pair.modify_index)))


class BackwardsController(Controller):
    """Counts epochs down."""

    def _write(self, decisions: tuple[Decision, ...], leader_session: str) -> Any:
        return super()._write(tuple(self._backwards(each) for each in decisions), leader_session)

    @staticmethod
    def _backwards(decision: Decision) -> Decision:
        changes = tuple(
            replace(c, record=c.record.with_(epoch=c.record.epoch - 2))
            if isinstance(c, Put) and isinstance(c.record, Assignment) and c.record.epoch > 2
            else c
            for c in decision.changes
        )
        return replace(decision, changes=changes)


class MeddlingController(Controller):
    """Thinks better of how a request ended."""

    def _write(self, decisions: tuple[Decision, ...], leader_session: str) -> Any:
        written = super()._write(decisions, leader_session)
        for change in (change for decision in written[0] for change in decision.changes):
            if isinstance(change, Put) and isinstance(change.record, Request) and change.record.is_final:
                with suppress(Unknown):
                    _, pair = self._port.kv_get(change.key)
                    assert pair is not None
                    other = change.record.with_(outcome="It was not so.")
                    self._port.txn((CasPut(change.key, encoded(other), pair.modify_index),))
        return written


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


class DoggedWorker(Worker):
    """Ends no play that was superseded or cancelled."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._desk.stop = lambda stop: None  # type: ignore[method-assign]


class CarelessWorker(Worker):
    """Runs a command with whichever playbooks it has."""

    def _playbooks_for(self, commands: Any) -> frozenset[str]:
        return frozenset(kept.value.playbooks for kept in commands.values() if isinstance(kept, Kept))


class ImpatientDoor(Door):
    """Takes it for an answer of another VM's that nobody answers."""

    def is_contested(self) -> bool:
        """Say yes when Consul has been away for a while."""
        return super().is_contested() or self._vm.world.blind_for(self._vm) > STEADY_S


class StubbornDoor(Door):
    """An address that was taken is never given up."""

    def drop(self) -> None:
        """Leave it."""

    def hand_over(self) -> None:
        """Leave it."""


class RoughHand(WatchedHand):
    """Takes the lock whatever the assignment says by now, and under a wrong epoch."""

    def _acquire(self, duty: do.AcquireLock) -> None:
        ready = str(duty.ready).lower()
        value = f'{{"vm": "{self._vm}", "epoch": {duty.epoch - 1}, "ready": {ready}}}'.encode()
        self._port.txn((LockPut(f"orch/services/{duty.service}/lock", value, duty.session),))


class FreeHand(WatchedHand):
    """Stops a unit as soon as it looks at it, whatever the assignment says."""

    def carry_out(self, duty: do.Duty, at: Any, doors: Any) -> None:
        """Confuse two duties."""
        if isinstance(duty, do.Retag) and at is not None:
            self._stop_unit(at.policy.unit)
        super().carry_out(duty, at, doors)


class FearfulHand(WatchedHand):
    """Stops a unit that it looks after while Consul cannot be reached."""

    def carry_out(self, duty: do.Duty, at: Any, doors: Any) -> None:
        """Confuse not knowing with having lost."""
        if at is not None and self._machine.world.blind_for(self._machine) > 0:
            self._stop_unit(at.policy.unit)
        super().carry_out(duty, at, doors)


def render_whatever_is_there(value: bytes | None) -> tuple[Endpoint, ...]:
    """Render an empty upstream of an empty lookup."""
    return keep_last_good(value) or ()


BUGS: dict[str, tuple[Parts, str, int]] = {
    **DATA_BUGS,
    "traffic before the lock": (Parts(controller=HastyController), "never held the role lock", 1),
    "endpoints without anybody in them": (Parts(controller=HollowController), "that cannot be rendered", 1),
    "endpoints that go while a service moves": (Parts(controller=WithdrawingController), "nowhere to go", 1),
    "an upstream rendered from nothing": (Parts(renderer=render_whatever_is_there), "is empty", 3),
    "epochs that go back": (Parts(controller=BackwardsController), "went back from", 1),
    "an end of a request that is not the last": (Parts(controller=MeddlingController), "and was changed to", 1),
    "writes without the leader lock": (Parts(controller=UnfencedController), "without the leader lock", 49),
    "hot standbys that nobody starts": (Parts(controller=IdleController), "no hot standby", 35),
    "requests without an end": (Parts(controller=ForgetfulController), "request", 1),
    "refusals without a reason": (Parts(controller=SilentController), "without a reason", 11),
    "a worker that ignores epochs": (Parts(worker=EpochBlindWorker), "epoch", 141),
    "a worker that ignores its lease": (Parts(worker=LeaselessWorker), "at the same time", 168),
    "a worker that stops no play": (Parts(worker=DoggedWorker), "went on with", 250),
    "a worker that minds no playbooks": (Parts(worker=CarelessWorker), "with other playbooks", 1),
    "a worker that trusts the broker": (Parts(worker=DeafWorker), "after everything was healed", 250),
    "an address that is never given up": (Parts(door=StubbornDoor), "address", 1),
    "an address that is given up for want of Consul": (Parts(door=ImpatientDoor), "could not know that it lost", 7),
    "a guard that stops what it cannot ask about": (Parts(hand=FearfulHand), "while it could not reach Consul", 1),
    "a lock under the wrong epoch": (Parts(hand=RoughHand), "role lock", 1),
    "a guard that stops what may run": (Parts(hand=FreeHand), "which may run there", 1),
}
"""What is wrong -> the parts, words of the sentence that must come of it, and a seed near which it is found.

The search begins at that seed; any change of the code may move it.
"""
