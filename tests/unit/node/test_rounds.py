"""Two guards against a Consul in memory, virtual time, whatever happens: one holder, and in the end the right one."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from orchestrator.domain import keys
from orchestrator.domain.policy import Policy
from orchestrator.domain.records import Assignment, LockValue, MoveKind
from orchestrator.node.duties import Duty, Forwarding
from orchestrator.node.hand import Hand
from orchestrator.node.knowledge import FEEDS_OF_FRESHNESS, Knowledge
from orchestrator.node.rounds import Rounds
from orchestrator.node.situation import AddressState, ProbeResult, ProbeState, Situation, UnitState, UnitStatus
from orchestrator.store.port import KvPair, Unknown
from tests.fakes.fake_consul import FakeConsul

HOME, SECOND = "frontend-server", "backend-server"
POLICY = {
    "vms": {HOME: {"address": "10.0.8.49", "roles": ["controller", "worker"]}, SECOND: {"address": "10.0.0.22"}},
    "services": {
        "frontend": {
            "order": [HOME, SECOND],
            "unit": "nginx",
            "port": 80,
            "check": {"kind": "http"},
            "activate": "a.yml",
            "deactivate": "d.yml",
            "front_door": {"kind": "vip", "address": "10.0.0.100"},
        }
    },
}

_SCRATCH = tempfile.TemporaryDirectory()
STATE_DIR = Path(_SCRATCH.name)


class FakeDoor:
    """An address that is where it was put; other VMs answer for it when they can be reached."""

    def __init__(self, fleet: Fleet, vm: str) -> None:
        self._fleet = fleet
        self._vm = vm
        self.at = AddressState.NONE
        self.forwarding: Forwarding | None = None
        self.fails = False

    def state(self) -> AddressState:
        return self.at

    def take(self, forwarding: Forwarding | None = None) -> None:
        self.at = AddressState.UP
        self.forwarding = forwarding

    def hand_over(self) -> None:
        self.at = AddressState.HANDED_OVER

    def drop(self) -> None:
        self.at = AddressState.NONE

    def is_contested(self) -> bool:
        reachable = [vm for vm in self._fleet.vms.values() if vm.name != self._vm and not vm.cut]
        return not self._fleet.vms[self._vm].cut and any(vm.door.at is AddressState.UP for vm in reachable)

    def tidy(self, after_s: float) -> None:
        pass

    def trouble(self) -> str:
        return "the front door's command has failed" if self.fails else ""


class FakeVm:
    """One VM: its unit, its address, and a guard that can be restarted."""

    def __init__(self, fleet: Fleet, name: str) -> None:
        self.name = name
        self.cut = False
        self.door = FakeDoor(fleet, name)
        self.unit = UnitStatus(UnitState.STOPPED, "inactive (dead)")
        self.hangs = False
        self._fleet = fleet
        self._state_dir = STATE_DIR / name
        shutil.rmtree(self._state_dir, ignore_errors=True)
        self._state_dir.mkdir()
        self._asked: list[Situation] = []
        self.reloaded: list[str] = []
        self.noted: list[tuple[str, bool]] = []
        self.restart_guard()

    def restart_guard(self) -> None:
        port = self._fleet.consul.port(self.name)
        self._port = port
        self.knowledge = Knowledge(self.name, self._state_dir)
        self.knowledge.policy = Policy.model_validate(POLICY)
        hand = Hand(self.name, port, self._asked.append, self._stop_unit, self.reloaded.append)
        self.rounds = Rounds(self.knowledge, port, hand, lambda: self._fleet.consul.now, self._note)
        self.rounds.doors = {"frontend": self.door}

    def _note(self, duty: Duty, at: Situation | None, done: bool) -> None:
        self.noted.append((type(duty).__name__, done))

    def becomes(self, state: UnitState) -> None:
        self.unit = UnitStatus(state, state.value, self._fleet.consul.now, int(self._fleet.consul.now * 1000) + 1)

    def run(self) -> None:
        """Give the guard what its threads would have posted, and let it work."""
        self._read_feeds()
        self.knowledge.take_unit("nginx", self.unit)
        self.rounds.run(self._read_feeds)
        while self._asked:
            asked = self._asked.pop()
            state = ProbeState.OK if self.unit.state is UnitState.ACTIVE else ProbeState.FAILED
            self.rounds.take_probe(asked.service, ProbeResult(state, "", self._fleet.consul.now))
            self.rounds.run(self._read_feeds)

    def run_agent(self) -> None:
        """Let the agent's own probe notice what the unit does."""
        check = keys.probe_check_id("frontend")
        if any(each.check_id == check for each in self._fleet.consul.port(self.name).agent_checks()):
            answers = self.unit.state is UnitState.ACTIVE and not self.hangs
            status, said = ("passing", "HTTP 200") if answers else ("critical", "no answer")
            self._fleet.consul.set_check(
                self.name, check, status, said, service_id=keys.instance_service_id("frontend")
            )

    def restart_agent(self) -> None:
        """Restart the Consul agent: its own probe counts as critical, without a word, until it is made."""
        check = keys.probe_check_id("frontend")
        self._fleet.consul.set_check(self.name, check, "critical", service_id=keys.instance_service_id("frontend"))

    def _read_feeds(self) -> None:
        try:
            index, sessions = self._port.session_list(self.name)
            self.knowledge.sessions.offer(index, sessions)
            index, pairs = self._port.kv_list(keys.SERVICES)
            self.knowledge.kv.offer(index, pairs)
        except Unknown as error:
            for feed in FEEDS_OF_FRESHNESS:
                self.knowledge.lose(feed, str(error))
        else:
            for feed in FEEDS_OF_FRESHNESS:
                self.knowledge.troubled.pop(feed, None)

    def _stop_unit(self, unit: str) -> None:
        assert unit == "nginx"
        self.becomes(UnitState.STOPPED)


class Fleet:
    """Two VMs, and a leader that writes what the test says."""

    def __init__(self) -> None:
        self.consul = FakeConsul([HOME, SECOND, "messaging-server"], now=100.0)
        self.leader = self.consul.port("messaging-server")
        self.vms = {name: FakeVm(self, name) for name in (HOME, SECOND)}
        self.epoch = 0
        self.assigned_to: str | None = None

    def assign(self, active: str, *, keep_previous: bool = True) -> None:
        self.epoch += 1
        previous = SECOND if active == HOME else HOME
        assignment = Assignment(
            service="frontend",
            active=active,
            designated=HOME,
            standbys=(previous,) if keep_previous else (),
            epoch=self.epoch,
            since=self.consul.now,
            kind=MoveKind.SWITCHOVER,
            reason="test",
        )
        self.leader.kv_put(keys.assignment("frontend"), assignment.to_json().encode())
        self.assigned_to = active

    def lock(self) -> KvPair | None:
        pair = self.consul.peek(keys.lock("frontend"))
        return pair if pair and pair.session else None

    def assignment(self) -> Assignment | None:
        pair = self.consul.peek(keys.assignment("frontend"))
        return Assignment.from_json(pair.value) if pair else None

    def status_of(self, check: str) -> str:
        """Return the status of the home instance's `unit` or `probe` as the catalog has it."""
        wanted = (HOME, f"orch-frontend:{check}")
        return next(each.status for each in self.leader.checks()[1] if (each.node, each.check_id) == wanted)

    def holders(self) -> list[str]:
        return [vm.name for vm in self.vms.values() if vm.door.at is AddressState.UP]

    def settle(self, for_s: float) -> None:
        end = self.consul.now + for_s
        while self.consul.now < end:
            for vm in self.vms.values():
                vm.run_agent()
                vm.run()
            self.consul.now += 0.4


def started() -> Fleet:
    fleet = Fleet()
    fleet.assign(HOME, keep_previous=False)
    fleet.vms[HOME].becomes(UnitState.ACTIVE)
    fleet.settle(2)
    return fleet


def test_a_failover_moves_lock_and_address() -> None:
    fleet = started()
    assert fleet.holders() == [HOME]
    fleet.vms[HOME].becomes(UnitState.FAILED)
    fleet.vms[HOME].run()
    assert (fleet.lock(), fleet.holders()) == (None, [])
    fleet.assign(SECOND, keep_previous=False)
    fleet.vms[SECOND].becomes(UnitState.ACTIVE)
    fleet.settle(2)
    lock = fleet.lock()
    assert lock is not None
    assert LockValue.from_json(lock.value) == LockValue(vm=SECOND, epoch=2)
    assert fleet.holders() == [SECOND]
    assert fleet.vms[SECOND].door.forwarding is None


def test_each_duty_is_told_done_or_not() -> None:
    fleet = started()
    vm = fleet.vms[HOME]
    taken = [noted for noted in vm.noted if noted[0] in ("AcquireLock", "TakeAddress")]
    assert taken == [("AcquireLock", True), ("TakeAddress", True)]
    assert vm.rounds.view is not None
    assert vm.rounds.view.situations[0].lock_mine
    vm.noted.clear()
    fleet.consul.quorum = False
    vm.becomes(UnitState.FAILED)
    vm.run()
    assert ("DropAddress", True) in vm.noted


def test_an_instance_that_hangs_loses_lock_and_address_and_gets_them_back() -> None:
    fleet = started()
    _hang(fleet, HOME)
    fleet.vms[HOME].run()
    assert (fleet.lock(), fleet.holders()) == (None, [])
    fleet.vms[HOME].hangs = False
    fleet.settle(1)
    assert fleet.holders() == [HOME]


def test_an_agent_that_restarts_costs_the_address_nothing() -> None:
    fleet = started()
    home = fleet.vms[HOME]
    home.restart_agent()
    home.run()
    assert (fleet.lock(), fleet.holders()) == (None, [HOME]), "its session has ended, nobody else may take the role"
    fleet.settle(1)
    assert (fleet.lock() is not None, fleet.holders()) == (True, [HOME])


def test_an_instance_that_hangs_while_its_agent_restarts_shows_in_the_catalog() -> None:
    fleet = started()
    home = fleet.vms[HOME]
    home.restart_agent()
    home.run()
    home.hangs = True
    fleet.settle(1)
    assert fleet.holders() == []
    assert fleet.status_of("unit") == "critical"
    home.hangs = False
    fleet.settle(1)
    assert (fleet.status_of("unit"), fleet.holders()) == ("passing", [HOME])


def test_a_planned_move_hands_everything_over_in_order() -> None:
    fleet = started()
    fleet.vms[SECOND].becomes(UnitState.ACTIVE)
    fleet.assign(SECOND)
    fleet.vms[HOME].run()
    assert fleet.vms[HOME].door.at is AddressState.HANDED_OVER
    assert fleet.lock() is None
    fleet.settle(2)
    assert fleet.holders() == [SECOND]
    forwarding = fleet.vms[SECOND].door.forwarding
    assert forwarding is not None
    assert forwarding.to == "10.0.8.49"
    fleet.settle(2)
    assert fleet.vms[HOME].reloaded == ["nginx"], "once: what is idle is closed when the drain is over"
    assert fleet.vms[HOME].door.at is AddressState.NONE
    assert fleet.vms[HOME].unit.state is UnitState.ACTIVE


def test_without_quorum_everything_stays() -> None:
    fleet = started()
    lock = fleet.lock()
    fleet.consul.quorum = False
    fleet.settle(30)
    assert fleet.holders() == [HOME]
    fleet.consul.quorum = True
    fleet.settle(2)
    assert (fleet.lock(), fleet.holders()) == (lock, [HOME])


def test_a_vm_that_was_cut_off_gives_the_address_up_when_it_hears_the_new_holder() -> None:
    fleet = started()
    _cut(fleet, HOME)
    fleet.consul.set_reachable(HOME, False)
    fleet.assign(SECOND, keep_previous=False)
    fleet.vms[SECOND].becomes(UnitState.ACTIVE)
    fleet.settle(2)
    assert fleet.holders() == [HOME, SECOND], "nobody can tell a VM that is cut off"
    fleet.vms[HOME].cut = False  # its link is back, its Consul agent has not rejoined yet
    fleet.settle(1)
    assert fleet.holders() == [SECOND]


def test_a_guard_that_restarts_changes_nothing() -> None:
    fleet = started()
    index = fleet.consul.index
    fleet.vms[HOME].restart_guard()
    fleet.settle(2)
    assert fleet.consul.index == index
    assert fleet.holders() == [HOME]


def test_the_guards_sentence_tells_that_a_front_door_does_not_do_as_told() -> None:
    fleet = started()
    fleet.vms[HOME].door.fails = True
    fleet.settle(6)
    assert "the front door's command has failed" in fleet.vms[HOME].rounds.sentence
    fleet.vms[HOME].door.fails = False
    fleet.settle(6)
    assert "the front door" not in fleet.vms[HOME].rounds.sentence


def _hang(fleet: Fleet, vm: str) -> None:
    """The unit runs, and the agent's probe gets no answer."""
    fleet.vms[vm].hangs = True
    fleet.vms[vm].run_agent()


def _cut(fleet: Fleet, vm: str) -> None:
    fleet.vms[vm].cut = True
    fleet.consul.set_cut(vm, True)


def _mend(fleet: Fleet, vm: str) -> None:
    fleet.vms[vm].cut = False
    fleet.consul.set_cut(vm, False)
    fleet.consul.set_reachable(vm, True)


EVENTS: dict[str, Callable[[Fleet, str], None]] = {
    "active": lambda fleet, vm: fleet.vms[vm].becomes(UnitState.ACTIVE),
    "failed": lambda fleet, vm: fleet.vms[vm].becomes(UnitState.FAILED),
    "stopped": lambda fleet, vm: fleet.vms[vm].becomes(UnitState.STOPPED),
    "restarting": lambda fleet, vm: fleet.vms[vm].becomes(UnitState.RESTARTING),
    "unknown": lambda fleet, vm: fleet.vms[vm].becomes(UnitState.UNKNOWN),
    "planned": lambda fleet, vm: fleet.assign(vm),
    "failover": lambda fleet, vm: fleet.assign(vm, keep_previous=False),
    "guard-restart": lambda fleet, vm: fleet.vms[vm].restart_guard(),
    "hangs": _hang,
    "agent": lambda fleet, vm: fleet.vms[vm].run_agent(),
    "run": lambda fleet, vm: fleet.vms[vm].run(),
    "cut": _cut,
    "dead": lambda fleet, vm: fleet.consul.set_reachable(vm, False),
    "mend": _mend,
    "garbage": lambda fleet, vm: fleet.leader.kv_put(keys.assignment("frontend"), b"{"),
    "second": lambda fleet, vm: setattr(fleet.consul, "now", fleet.consul.now + 1),
}
steps = st.lists(st.tuples(st.sampled_from(sorted(EVENTS)), st.sampled_from([HOME, SECOND])), max_size=25)


def _holds_invariants(fleet: Fleet) -> None:
    """Judge right after every VM that can read Consul has run."""
    connected = [vm for vm in fleet.vms.values() if not vm.knowledge.troubled]
    holders = [vm.name for vm in connected if vm.door.at is AddressState.UP]
    assert len(holders) <= 1
    lock = fleet.lock()
    for name in holders:
        # A free lock can be taken only where the newest assignment that could be read says so.
        may_hold = fleet.assigned_to if lock is None else LockValue.from_json(lock.value).vm
        assert may_hold == name


@settings(max_examples=60)
@example([("active", HOME), ("failover", HOME), ("dead", HOME)])
@given(steps)
def test_whatever_happens_there_is_one_holder_and_in_the_end_the_right_one(events: list[tuple[str, str]]) -> None:
    fleet = Fleet()
    for event, vm in events:
        EVENTS[event](fleet, vm)
        for each in fleet.vms.values():
            each.run()
        for each in fleet.vms.values():
            each.run()
        _holds_invariants(fleet)
        fleet.consul.now += 0.05
    _comes_right(fleet)


def _comes_right(fleet: Fleet) -> None:
    for vm in fleet.vms.values():
        _mend(fleet, vm.name)
        vm.hangs = False
        vm.becomes(UnitState.ACTIVE)
    fleet.assign(SECOND, keep_previous=False)
    fleet.settle(8)
    lock = fleet.lock()
    assert lock is not None
    assert LockValue.from_json(lock.value) == LockValue(vm=SECOND, epoch=fleet.epoch)
    assert fleet.holders() == [SECOND]
    assert fleet.vms[HOME].door.at is AddressState.NONE
    assert len(fleet.leader.session_list(SECOND)[1]) == 1
    fleet.assign(HOME, keep_previous=False)
    fleet.settle(8)
    assert fleet.holders() == [HOME]
    assert fleet.vms[SECOND].unit.state is UnitState.STOPPED, "neither active nor designated: fenced"
    assert fleet.consul.port(SECOND).agent_services() == ()
