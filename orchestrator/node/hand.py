"""Carries duties out: the only place where a guard changes anything.

In: a `Duty` and the situation it was made for. Out: done, or an exception that says why not: `Unknown`, `Refused`,
`AddressTrouble`, `SystemdAway`, `NotDone`. Each is to be tried again by the loop, after a new look.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Protocol

from orchestrator.domain import keys
from orchestrator.domain.records import LockValue
from orchestrator.node import duties as do
from orchestrator.node import systemd
from orchestrator.node.address import AddressTrouble, Door
from orchestrator.node.instance import agent_service, lock_view, probe_spec, pushed_spec, session_name
from orchestrator.node.replication.server import Server
from orchestrator.node.situation import Situation
from orchestrator.store.port import CasPut, CheckIndex, CheckSession, LockPut, Port, Refused, TxnOutcome, Unknown


class NotDone(Exception):
    """The world was no longer as the duty supposed; nothing was changed."""


TROUBLES = (Unknown, Refused, AddressTrouble, systemd.SystemdAway, NotDone)


CLOSE_WITHIN_S = 1.0
PROMOTE_WITHIN_S = 10.0
"""What was received is applied within this, or the server is told again."""
ACKNOWLEDGE_WITHIN_S = 1.0
JOIN_WITHIN_S = 1.0
"""Commits may wait this long for a standby that does not join after all."""


Action = Callable[[Server], None]


class Attending(Protocol):
    """Has one database server do one thing at a time, in a thread of its own."""

    def do(self, name: str, action: Action) -> bool:
        """Begin; False where it is busy."""

    def arm(self, session: str, epoch: int, confirmed_at: float) -> None:
        """From now on close writes by itself, unless the quorum goes on confirming the role lock.

        `confirmed_at`: monotonic time before the question by which the lock was last seen to be the session's.
        """

    def open_writes(self, server: Server, session: str) -> None:
        """Open writes if the lease for the session is not over; raises `NotInTime` when it is."""

    def close_writes(self, server: Server) -> None:
        """Close writes, or else end the server's processes; raises `NotInTime` when neither worked."""

    def disarm(self) -> None:
        """Writes are closed: nothing is left to guard."""


class Hand:
    """The guard's access to its VM. Used by the loop's thread only."""

    def __init__(
        self,
        vm: str,
        port: Port,
        probe: Callable[[Situation], None],
        stop_unit: Callable[[str], None] = systemd.stop_and_disable,
        reload_unit: Callable[[str], None] = systemd.reload,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`probe` starts a probe of the instance and returns at once. `clock` is monotonic."""
        self._clock = clock
        self._vm = vm
        self._port = port
        self._probe = probe
        self._stop_unit = stop_unit
        self._reload_unit = reload_unit
        self.servers: Mapping[str, Attending] = MappingProxyType({})
        """Service -> its database server on this VM."""

    def carry_out(self, duty: do.Duty, at: Situation | None, doors: Mapping[str, Door]) -> None:
        """Do it; raises one of `TROUBLES`. `at` is None only for a service that left the policy."""
        if isinstance(duty, do.Deregister):
            self._port.agent_deregister(keys.instance_service_id(duty.service))
        elif isinstance(duty, do.TakeAddress):
            self._confirm_lock(duty.service)
            doors[duty.service].take(duty.forwarding)
        elif isinstance(duty, do.HandOverAddress):
            doors[duty.service].hand_over()
        elif isinstance(duty, do.DropAddress):
            doors[duty.service].drop()
        elif isinstance(duty, do.AcquireLock):
            self._acquire(duty)
        elif isinstance(duty, do.ReleaseLock):
            value = LockValue(vm=self._vm, epoch=duty.epoch, position=duty.position).to_json().encode()
            self._port.lock_release(keys.lock(duty.service), value, duty.session)
        elif isinstance(duty, do.DestroySession):
            self._port.session_destroy(duty.session)
        elif isinstance(duty, do.PushUnit):
            self._port.agent_push(keys.unit_check_id(duty.service), duty.status, duty.output)
        elif duty.changes is do.Medium.DATA:
            self._tell_server(duty)
        elif isinstance(duty, do.WriteSync):
            self._write_sync(duty)
        elif at is not None:
            self._carry_out_for(duty, at)

    def _carry_out_for(self, duty: do.Duty, at: Situation) -> None:
        """Do what needs the policy of the service."""
        if isinstance(duty, do.Register):
            service_id = keys.instance_service_id(at.service)
            self._port.agent_register(agent_service(at, self._vm, duty.tag))
            self._port.agent_register_pushed(service_id, pushed_spec(at, duty.unit_status))
            self._port.agent_register_probe(service_id, probe_spec(at, duty.probe_status))
        elif isinstance(duty, do.Retag):
            self._port.agent_register(agent_service(at, self._vm, duty.tag))
        elif isinstance(duty, do.CreateSession):
            checks = (keys.probe_check_id(at.service), keys.unit_check_id(at.service))
            delay_s = at.policy.replication.lock_delay_s if at.policy.replication else 0.0
            self._port.session_create(session_name(at.service, self._vm), checks, lock_delay_s=delay_s)
        elif isinstance(duty, do.StopUnit):
            self._stop(duty, at)
        elif isinstance(duty, do.CloseConnections):
            self._reload_unit(at.policy.unit)
        elif isinstance(duty, do.ProbeNow):
            self._probe(at)
        else:
            raise TypeError(f"no hand for {duty!r}")

    def _acquire(self, duty: do.AcquireLock) -> None:
        """Take the lock only if the assignment is unchanged: a lock of a past epoch is never taken."""
        value = LockValue(vm=self._vm, epoch=duty.epoch, ready=duty.ready, position=duty.position)
        outcome = self._port.txn(
            (
                CheckIndex(keys.assignment(duty.service), duty.assignment_index),
                LockPut(keys.lock(duty.service), value.to_json().encode(), duty.session),
            )
        )
        if outcome is TxnOutcome.LOST:
            raise NotDone("the assignment changed, or another session holds the lock")

    def _write_sync(self, duty: do.WriteSync) -> None:
        """Write it only while the role lock is ours and the assignment is the one that the duty was made for."""
        outcome = self._port.txn(
            (
                CheckSession(keys.lock(duty.service), duty.session),
                CheckIndex(keys.assignment(duty.service), duty.assignment_index),
                CasPut(keys.sync(duty.service), duty.record.to_json().encode(), duty.index),
            )
        )
        if outcome is TxnOutcome.LOST:
            raise NotDone("the role lock, the assignment or the record changed")

    def _tell_server(self, duty: do.Duty) -> None:
        """Have the server begin; what came of it is told by its next reading."""
        server = self.servers.get(duty.service)
        if server is None:
            raise NotDone(f"there is no server of {duty.service} on this VM")
        if isinstance(duty, do.OpenWrites):
            action = self._opening(duty, server)
        elif isinstance(duty, do.CloseWrites) and duty.at_any_cost:
            action = server.close_writes
        else:
            action = action_of(duty)
        if not server.do(type(duty).__name__, action):
            raise NotDone("the server is busy")

    def _opening(self, duty: do.OpenWrites, attending: Attending) -> Action:
        """Return what opens writes, under a lease that counts from before the lock was confirmed."""
        asked_at = self._clock()
        self._confirm_lock(duty.service)
        attending.arm(duty.session, duty.epoch, asked_at)
        return lambda server: attending.open_writes(server, duty.session)

    def _confirm_lock(self, service: str) -> None:
        """What must be ours alone is taken on the Raft leader's word: the copy of an agent that was away may be old."""
        _, pair = self._port.kv_get(keys.lock(service))
        held = lock_view(pair) if pair else None
        if held is None or held.holder != self._vm:
            raise NotDone("the role lock is not ours")

    def _stop(self, duty: do.StopUnit, at: Situation) -> None:
        """Stop only on what Consul says now, not on a view from before it could not be reached."""
        _, pair = self._port.kv_get(keys.assignment(duty.service))
        if pair is None or pair.modify_index != duty.assignment_index:
            raise NotDone("the assignment changed")
        self._stop_unit(at.policy.unit)


def action_of(duty: do.Duty) -> Action:
    """Return what the duty has a database server do."""
    if isinstance(duty, do.CloseWrites):
        return lambda server: server.close_writes(CLOSE_WITHIN_S)
    if isinstance(duty, do.Promote):
        return lambda server: server.promote(duty.position, PROMOTE_WITHIN_S)
    if isinstance(duty, do.Follow):
        return lambda server: server.follow(duty.address)
    if isinstance(duty, do.Acknowledge):
        return lambda server: server.acknowledge(duty.address, ACKNOWLEDGE_WITHIN_S)
    if isinstance(duty, do.WaitForReplica):
        return lambda server: server.wait_for_replica(duty.on)
    if isinstance(duty, do.JoinReplica):
        return lambda server: server.join_replica(duty.address, JOIN_WITHIN_S)
    raise TypeError(f"no action for {duty!r}")
