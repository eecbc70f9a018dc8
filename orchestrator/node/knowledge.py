"""What the guard has seen so far, put together into one `LocalView`.

In: readings of KV, sessions, the agent, systemd, probes, addresses. Out: `LocalView`. No I/O but the two files in
which the last good policy and assignments outlive the guard (and a key that nobody can read any more).
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from orchestrator.domain import keys
from orchestrator.domain.document import json_document_in
from orchestrator.domain.policy import Policy
from orchestrator.domain.records import Assignment, Endpoints, Sync
from orchestrator.domain.view import Unreadable
from orchestrator.node.duties import Follow
from orchestrator.node.feed import Newest
from orchestrator.node.instance import KEPT_BY, lock_view, session_name
from orchestrator.node.replication.facts import ServerFacts
from orchestrator.node.situation import (
    AddressState,
    DataState,
    LocalView,
    ProbeResult,
    Registration,
    Situation,
    UnitState,
    UnitStatus,
)
from orchestrator.store.port import AgentCheck, AgentService, KvPair, Session, is_unasked
from orchestrator.store.records import kept_policy, problem_in

log = logging.getLogger(__name__)

POLICY_FILE = "policy.json"
ASSIGNMENTS_FILE = "guard-assignments.json"
FEEDS_OF_FRESHNESS = ("services", "sessions", "pulse")
"""The questions to the agent that must have been answered last for KV to count as known."""
DOUBT = "doubt"
"""What is left when the agent answers again: a server that was cut off or frozen answers from an old copy, so that
only an answer of the Raft leader's own counts."""
_NOT_ASKED = UnitStatus(UnitState.UNKNOWN)


def registrations(services: Iterable[AgentService], checks: Iterable[AgentCheck]) -> dict[str, Registration]:
    """Return service -> registration, for those that a guard keeps."""
    by_id = {check.check_id: check for check in checks}
    found = {}
    for service in services:
        meta = dict(service.meta)
        if meta.get("kept_by") != KEPT_BY or "service" not in meta:
            continue
        unit = by_id.get(keys.unit_check_id(meta["service"]))
        probe = by_id.get(keys.probe_check_id(meta["service"]))
        found[meta["service"]] = Registration(
            tags=service.tags,
            meta=tuple(sorted(service.meta)),
            address=service.address,
            port=service.port,
            by_own_token=service.by_own_token,
            unit_status=unit.status if unit else "",
            unit_output=unit.output if unit else "",
            probe_status=probe.status if probe else "",
            probe_output=probe.output if probe else "",
            probe_unasked=probe is not None and is_unasked(probe),
        )
    return found


class Knowledge:
    """The newest of everything. Used by the loop's thread only."""

    def __init__(self, vm: str, state_dir: Path, wall: Callable[[], float] = time.time) -> None:
        """`wall` gives the time for records."""
        self.vm = vm
        self._wall = wall
        self.kv: Newest[tuple[KvPair, ...]] = Newest()
        self.sessions: Newest[tuple[Session, ...]] = Newest()
        self.troubled: dict[str, str] = dict.fromkeys((*FEEDS_OF_FRESHNESS, DOUBT), "not read yet")
        """Feed -> what is the matter with it; empty while KV and sessions are fresh."""
        self.units: dict[str, UnitStatus] = {}
        self.probes: dict[str, ProbeResult] = {}
        self.registered: dict[str, Registration] | None = None
        self.addresses: dict[str, AddressState] = {}
        self.contested: set[str] = set()
        self.door_troubles: dict[str, str] = {}
        self.unsynced: set[str] = set()
        self.data: dict[str, DataState] = {}
        """Service -> what its database server says; what KV says is added when it is looked at."""
        self._state_dir = state_dir
        self.policy = self._kept_policy()
        self._assignments = self._kept_assignments()
        self._read_from: dict[str, KvPair] = {}
        """Service -> what its assignment was read from: it is looked at far more often than it changes."""
        self._complained: dict[str, int] = {}

    def take_policy(self, pair: KvPair | None) -> bool:
        """Take a new policy if it is valid; say whether it is another than before."""
        if pair is None:
            self._complain(keys.CONFIG, -1, "orch/config is absent: the last good policy stays in force")
            return False
        found = kept_policy(pair)
        if isinstance(found, Unreadable):
            self._complain(keys.CONFIG, pair.modify_index, f"orch/config is not valid and is ignored: {found.problem}")
            return False
        if found.value == self.policy:
            return False
        self.policy = found.value
        self._keep(POLICY_FILE, found.value.model_dump_json())
        return True

    def take_unit(self, unit: str, status: UnitStatus) -> None:
        """Take what systemd says; what was probed before the change does not count any more."""
        before = self.units.get(unit, _NOT_ASKED)
        self.units[unit] = status
        if self.policy is not None and (before.state, before.pid) != (status.state, status.pid):
            for name, service in self.policy.services.items():
                if service.unit == unit:
                    self.probes.pop(name, None)

    def take_facts(self, service: str, facts: ServerFacts) -> None:
        """Take a reading of the service's database server."""
        self.data[service] = replace(self.data.get(service, DataState()), facts=facts)

    def tell_server(self, service: str, what: str) -> None:
        """Take note that the server is being told to do something; one thing at a time."""
        self.data[service] = replace(self.data.get(service, DataState()), busy=what)

    def server_did(self, service: str, what: str, failed_at: float | None) -> None:
        """Take note that the server has done what it was told, or when it was known that it did not."""
        state = self.data.get(service, DataState())
        failed = {name: at for name, at in state.failed_at.items() if name != what}
        if failed_at is not None:
            failed[what] = failed_at
        followed_at = state.followed_at
        if what == Follow.__name__ and state.facts is not None:
            followed_at = state.facts.at
        self.data[service] = replace(state, busy="", failed_at=MappingProxyType(failed), followed_at=followed_at)

    def lease(self, service: str, leased: bool) -> None:
        """Take note that writes are under a lease, or that it is over."""
        self.data[service] = replace(self.data.get(service, DataState()), leased=leased)

    def lose(self, feed: str, why: str) -> None:
        """Take note that the agent did not answer, or that what it answered may be old."""
        if not self.troubled:
            log.warning("Consul cannot be read, so everything stays as it is: %s", why)
        self.troubled[feed] = self.troubled[DOUBT] = why

    def view(self) -> LocalView:
        """Put it all together."""
        if self.policy is None or self.vm not in self.policy.vms:
            return LocalView(self.vm, 0.0, 0.0)
        registered = self.registered or {}
        return LocalView(
            vm=self.vm,
            drain_s=self.policy.drain_s,
            give_up_s=self.policy.dispatch.activation_timeout_s,
            vm_addresses=MappingProxyType({name: vm.address for name, vm in self.policy.vms.items()}),
            situations=self._situations(self.policy, registered),
            strays=tuple(sorted(name for name in registered if name not in self.policy.services)),
            kv_fresh=not self.troubled,
            agent_known=self.registered is not None,
            wall=self._wall(),
        )

    def _situations(self, policy: Policy, registered: dict[str, Registration]) -> tuple[Situation, ...]:
        pairs = {pair.key: pair for pair in self.kv.value or ()}
        found = []
        for name, service in policy.services.items():
            index = self._read_assignment(name, pairs.get(keys.assignment(name)))
            assignment = self._assignments.get(name)
            concerned = self.vm in service.order or name in registered
            if not concerned and not (assignment and assignment.may_run_on(self.vm)):
                continue
            lock = pairs.get(keys.lock(name))
            own = session_name(name, self.vm)
            found.append(
                Situation(
                    service=name,
                    policy=service,
                    vm_address=policy.vms[self.vm].address,
                    assignment=assignment,
                    assignment_index=index,
                    lock=lock_view(lock) if lock else None,
                    sessions=tuple(s.id for s in self.sessions.value or () if s.name == own),
                    unit=self.units.get(service.unit, _NOT_ASKED),
                    probe=self.probes.get(name, ProbeResult()),
                    registration=registered.get(name),
                    address=self.addresses.get(name, AddressState.NONE),
                    contested=name in self.contested,
                    door_trouble=self.door_troubles.get(name, ""),
                    unsynced=name in self.unsynced,
                    data=self._data(name, pairs) if service.replication else DataState(),
                )
            )
        return tuple(found)

    def _read_assignment(self, service: str, pair: KvPair | None) -> int:
        """Remember the assignment if it can be read; return its ModifyIndex, 0 when it cannot."""
        if pair is None:
            if self.kv.value is not None:
                self._assignments.pop(service, None)
                self._read_from.pop(service, None)
            return 0
        if self._read_from.get(service) is pair:
            return pair.modify_index
        try:
            assignment = Assignment.from_json(pair.value)
        except ValueError as error:
            self._complain(
                pair.key, pair.modify_index, f"{pair.key} cannot be read, the last good one stays: {problem_in(error)}"
            )
            return 0
        if self._assignments.get(service) != assignment:
            self._assignments[service] = assignment
            kept = {name: each.model_dump(mode="json") for name, each in self._assignments.items()}
            self._keep(ASSIGNMENTS_FILE, json.dumps(kept))
        self._read_from[service] = pair
        return pair.modify_index

    def _data(self, service: str, pairs: Mapping[str, KvPair]) -> DataState:
        """Return the state of the service's data. A record that cannot be read is not an absent one."""
        state, pair = self.data.get(service, DataState()), pairs.get(keys.sync(service))
        if pair is None:
            return replace(state, had_traffic=self._had_traffic(service, pairs.get(keys.endpoints(service))))
        try:
            record = Sync.from_json(pair.value)
        except ValueError as error:
            problem = problem_in(error)
            self._complain(pair.key, pair.modify_index, f"{pair.key} cannot be read, nothing is promoted: {problem}")
            return replace(state, sync_index=pair.modify_index, sync_problem=problem)
        return replace(state, sync=record, sync_index=pair.modify_index)

    def _had_traffic(self, service: str, pair: KvPair | None) -> bool:
        """Say whether traffic was pointed here at the present epoch: only then this VM is sure to have been ready."""
        assignment = self._assignments.get(service)
        try:
            endpoints = Endpoints.from_json(pair.value) if pair is not None else None
        except ValueError:
            return False
        if endpoints is None or assignment is None or endpoints.epoch != assignment.epoch:
            return False
        return self.vm == assignment.active == endpoints.endpoints[0].vm

    def _complain(self, key: str, index: int, sentence: str) -> None:
        """Log once per version of the key."""
        if self._complained.get(key) != index:
            self._complained[key] = index
            log.error("%s", sentence)

    def _kept_policy(self) -> Policy | None:
        try:
            return Policy.model_validate_json((self._state_dir / POLICY_FILE).read_bytes())
        except (OSError, ValueError):
            return None

    def _kept_assignments(self) -> dict[str, Assignment]:
        try:
            kept = json_document_in((self._state_dir / ASSIGNMENTS_FILE).read_bytes())
            return {str(name): Assignment.model_validate(each) for name, each in kept.items()}
        except (OSError, ValueError, AttributeError):
            return {}

    def _keep(self, name: str, text: str) -> None:
        """Write the file whole or not at all; a disk that is full must not stop the guard."""
        path = self._state_dir / name
        candidate = path.with_suffix(f".{os.getpid()}")
        try:
            candidate.write_text(text)
            candidate.replace(path)
        except OSError as error:
            log.warning("%s cannot be written: %s", path, error)
