"""A fleet on paper: builds a `View` in one line per fact, calls `decide()`, applies what it decided.

Three VMs (`home`, `second`, `third`) and one service (`web`, order home, second). `step()` decides once and writes the
decisions back with compare-and-set, so that the next `step()` sees what a leader would see.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from orchestrator.decide import decide
from orchestrator.domain import keys
from orchestrator.domain.decision import Decision, Delete, Memory, Outcome, Put
from orchestrator.domain.policy import Policy
from orchestrator.domain.records import (
    Assignment,
    Command,
    CommandState,
    Endpoint,
    Endpoints,
    LockValue,
    Maintenance,
    MoveKind,
    Paused,
    Play,
    Record,
    Request,
    RequestKind,
    Rotation,
    Sync,
)
from orchestrator.domain.view import (
    InstanceState,
    InstanceView,
    Kept,
    Load,
    LockView,
    Reach,
    ServiceView,
    Unreadable,
    View,
    VmView,
)

R = TypeVar("R", bound=Record)
START = 1_700_000_000.0
WEB = "web"
GRACE_S = 60.0
DAY_S = 86400.0


def policy_of(
    order: tuple[str, ...] = ("home", "second"),
    standby: str = "cold",
    replication: dict[str, Any] | None = None,
    cluster: dict[str, Any] | None = None,
    **changes: Any,
) -> Policy:
    """Return a policy with the one service; `changes` replace whole sections. A cluster has a fourth VM, `spare`."""
    vms = ("home", "second", "third", *(["spare"] if cluster else []))
    document: dict[str, Any] = {
        "vms": {vm: {"address": f"10.0.0.{n}", "roles": ["controller", "worker"]} for n, vm in enumerate(vms, start=1)},
        "services": {
            WEB: {
                "order": order,
                "unit": "web",
                "port": 80,
                "standby": standby,
                "check": {"kind": "http"},
                "activate": "activate_web.yml",
                "deactivate": "deactivate_web.yml",
                "replication": replication,
                "cluster": cluster,
            }
        },
        **changes,
    }
    return Policy.model_validate(document)


class Fleet:
    """What Consul would hold, changed by one short call per fact."""

    def __init__(self, policy: Policy | None = None) -> None:
        self.policy = policy or policy_of()
        self.now = START
        self.memory = Memory()
        self.index = 100
        self.records: dict[str, tuple[Record | str, int]] = {}
        self.instances: dict[str, InstanceView] = {}
        self.brokers: dict[str, InstanceView] = {}
        self.lock: LockView | None = None
        self.down: set[str] = set()
        self.without_guard: set[str] = set()
        self.overloaded: set[str] = set()
        self.in_maintenance: set[str] = set()
        self.paused = False
        self.quorum_since: float | None = None

    # -- facts --------------------------------------------------------------------------------------------------------

    def put(self, key: str, record: Record | str) -> Fleet:
        """Write the record; a text is one that cannot be read."""
        self.index += 1
        self.records[key] = (record, self.index)
        return self

    def get(self, key: str, record_type: type[R]) -> R:
        """Return the record at the key."""
        record = self.records[key][0]
        assert isinstance(record, record_type)
        return record

    def assign(self, active: str, *, epoch: int = 3, **fields: Any) -> Fleet:
        """Write the assignment; designated is home unless said otherwise."""
        known = {"designated": "home", "since": START, "kind": MoveKind.FAILBACK, "reason": "test", **fields}
        return self.put(keys.assignment(WEB), Assignment(service=WEB, active=active, epoch=epoch, **known))

    def runs(self, vm: str) -> Fleet:
        """The instance is registered and passes its checks."""
        return self._instance(vm, InstanceState.HEALTHY)

    def fails(self, vm: str, output: str = "HTTP 500") -> Fleet:
        """The instance fails its check, so its guard lost the lock."""
        self._instance(vm, InstanceState.FAILED, output)
        return self.unlocked() if self.lock and self.lock.holder == vm else self

    def has_its_agent_restarted(self, vm: str) -> Fleet:
        """The agent has not asked the instance since it started; the session that was bound to the probe has ended."""
        self._instance(vm, InstanceState.UNKNOWN)
        return self.unlocked() if self.lock and self.lock.holder == vm else self

    def has_broker(self, vm: str, state: InstanceState = InstanceState.HEALTHY) -> Fleet:
        """The broker on the VM is registered, and so it is with it."""
        self.brokers[vm] = InstanceView(vm, state)
        return self

    def stops(self, vm: str) -> Fleet:
        """The instance is stopped on purpose and not registered."""
        self.instances.pop(vm, None)
        return self.unlocked() if self.lock and self.lock.holder == vm else self

    def dies(self, vm: str) -> Fleet:
        """Gossip does not reach the VM any more."""
        self.down.add(vm)
        return self.unlocked() if self.lock and self.lock.holder == vm else self

    def returns(self, vm: str) -> Fleet:
        """Gossip reaches the VM again."""
        self.down.discard(vm)
        return self

    def locked(self, vm: str) -> Fleet:
        """The VM's guard took the role lock at the assignment's epoch."""
        self.index += 1
        self.lock = LockView(LockValue(vm=vm, epoch=self.assignment.epoch), f"session-{vm}", self.index)
        return self

    def promoting(self, vm: str) -> Fleet:
        """The VM's guard took the role lock; its copy of the data is not promoted yet."""
        self.index += 1
        value = LockValue(vm=vm, epoch=self.assignment.epoch, ready=False)
        self.lock = LockView(value, f"session-{vm}", self.index)
        return self

    def whole_on(self, *vms: str, **more: Any) -> Fleet:
        """Only the copies on these VMs hold every acknowledged write; the first takes the writes."""
        epoch = more.pop("epoch", self.assignment.epoch)
        record = Sync(service=WEB, primary=vms[0], epoch=epoch, complete=vms, since=START, reason="test", **more)
        return self.put(keys.sync(WEB), record)

    def unlocked(self) -> Fleet:
        """Nobody holds the role lock."""
        if self.lock is not None:
            self.lock = LockView(self.lock.value, None, self.index)
        return self

    def pointed_at(self, vm: str, epoch: int | None = None) -> Fleet:
        """Traffic is pointed at the VM."""
        row = Endpoint(vm=vm, address=self.policy.vms[vm].address, port=80)
        return self.put(
            keys.endpoints(WEB), Endpoints(service=WEB, epoch=epoch or self.assignment.epoch, endpoints=(row,))
        )

    def serving(self, vm: str = "home", **fields: Any) -> Fleet:
        """All is well: assigned, running, locked, pointed at, rotation scheduled."""
        self.assign(vm, **fields).runs(vm).locked(vm).pointed_at(vm)
        order = self.policy.services[WEB].order
        return self.put(keys.rotation(WEB), Rotation(service=WEB, order=order, next_due=START + DAY_S))

    def asks(self, kind: RequestKind, ident: str = "asked", **fields: Any) -> Fleet:
        """An operator asks for something."""
        known = {"service": WEB, "origin": "cli:op@host", "created": self.now, "updated": self.now, **fields}
        return self.put(keys.request(ident), Request(id=ident, kind=kind, **known))

    def play(self, play: Play, state: CommandState = CommandState.SUCCEEDED, **fields: Any) -> Fleet:
        """The newest open command of the play gets the state."""
        command = self.commands(play)[-1]
        changes = {"state": state, **fields}
        if state is CommandState.RUNNING:
            changes = {"worker": "second", "claimed": self.now, "attempt": 1, **changes}
        else:
            changes = {"finished": self.now, **changes}
        return self.put(keys.command(command.id), command.with_(**changes))

    def pause(self) -> Fleet:
        """An operator pauses automation."""
        self.paused = True
        return self

    def _instance(self, vm: str, state: InstanceState, output: str = "") -> Fleet:
        self.instances[vm] = InstanceView(vm, state, output)
        return self

    # -- what is there ----------------------------------------------------------------------------------------------

    @property
    def assignment(self) -> Assignment:
        """The assignment."""
        return self.get(keys.assignment(WEB), Assignment)

    @property
    def traffic(self) -> list[str]:
        """The VMs that traffic is pointed at."""
        return [row.vm for row in self.get(keys.endpoints(WEB), Endpoints).endpoints]

    def commands(self, play: Play | None = None) -> list[Command]:
        """The open commands, oldest first."""
        found = [r for r, _ in self.records.values() if isinstance(r, Command) and not r.is_final]
        return sorted((c for c in found if play in (None, c.play)), key=lambda c: (c.created, c.id))

    def request(self, ident: str | None = None) -> Request:
        """The request of the id; without one the newest."""
        found = [r for r, _ in self.records.values() if isinstance(r, Request) and ident in (None, r.id)]
        return max(found, key=lambda r: (r.created, r.id))

    def view(self) -> View:
        """Return the view."""
        vms = {
            vm: VmView(
                vm,
                Reach.DOWN if vm in self.down else Reach.UP,
                Load.HIGH if vm in self.overloaded else Load.NORMAL,
                vm not in self.without_guard and vm not in self.down,
                Maintenance(by="op", at=START) if vm in self.in_maintenance else None,
            )
            for vm in self.policy.vms
        }
        trigger = self.records.get(keys.rotate(WEB))
        seen = ServiceView(
            name=WEB,
            assignment=self._kept(keys.assignment(WEB)),
            lock=self.lock,
            endpoints=self._kept(keys.endpoints(WEB)),
            rotation=self._kept(keys.rotation(WEB)),
            sync=self._kept(keys.sync(WEB)),
            members=self._kept(keys.members(WEB)),
            trigger_index=trigger[1] if trigger else None,
            instances=_frozen(self.instances),
            brokers=_frozen(self.brokers),
        )
        requests = [k for k in self._all(Request) if not k.value.is_final]
        open_ids = {k.value.id for k in requests}
        commands = [k for k in self._all(Command) if not k.value.is_final or k.value.request_id in open_ids]
        return View(
            vms=_frozen(vms),
            services=_frozen({WEB: seen}),
            requests=tuple(sorted(requests, key=lambda k: (k.value.created, k.value.id))),
            ended_requests=frozenset(k.value.id for k in self._all(Request) if k.value.is_final),
            ended_starts=tuple(k.value for k in self._all(Request) if k.value.is_final and not k.value.is_move),
            commands=tuple(sorted(commands, key=lambda k: (k.value.created, k.value.id))),
            paused=Paused(by="op", at=START) if self.paused else None,
            quorum_since=self.quorum_since,
        )

    def _kept(self, key: str) -> Any:
        if key not in self.records:
            return None
        record, index = self.records[key]
        return Unreadable(key, index, "it is no JSON") if isinstance(record, str) else Kept(record, index)

    def _all(self, record_type: type[R]) -> list[Kept[R]]:
        return [
            Kept(record, index, f"session-{record.worker}" if isinstance(record, Command) and record.worker else None)
            for record, index in self.records.values()
            if isinstance(record, record_type)
        ]

    # -- cycles -----------------------------------------------------------------------------------------------------

    def step(self, after_s: float = 0.001) -> Outcome:
        """Let time pass, decide once, write what was decided."""
        self.now += after_s
        outcome = decide(self.view(), self.memory, self.policy, self.now)
        self.memory = outcome.memory
        for decision in outcome.decisions:
            self.apply(decision)
        return outcome

    def codes(self, after_s: float = 0.001) -> list[str]:
        """Do a step and return the codes of its decisions."""
        return [decision.code for decision in self.step(after_s).decisions]

    def apply(self, decision: Decision) -> None:
        """Write the decision as one transaction: every index must be as decide() saw it."""
        for change in decision.changes:
            assert change.index == (self.records[change.key][1] if change.key in self.records else 0), change.key
        self.index += 1
        for change in decision.changes:
            if isinstance(change, Delete):
                del self.records[change.key]
            elif isinstance(change, Put):
                self.records[change.key] = (change.record, self.index)


K = TypeVar("K")
V = TypeVar("V")


def _frozen(mapping: dict[K, V]) -> Mapping[K, V]:
    return MappingProxyType(dict(mapping))
