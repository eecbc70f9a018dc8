"""What holds of `decide()` on any view, likely or not."""

from __future__ import annotations

from random import Random
from types import MappingProxyType

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.decide import decide
from orchestrator.domain import keys
from orchestrator.domain.decision import Memory, Outcome, Put
from orchestrator.domain.policy import Policy
from orchestrator.domain.records import (
    COMMAND_TRANSITIONS,
    REQUEST_TRANSITIONS,
    Assignment,
    Command,
    CommandState,
    Endpoint,
    Endpoints,
    LockValue,
    Maintenance,
    Members,
    MoveKind,
    Paused,
    Play,
    Request,
    RequestKind,
    RequestState,
    Rotation,
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

NOW = 1_700_000_000.0
VMS = ("a", "b", "c", "d")
NAMES = ("web", "api")
STRANGE = "stranger"
POLICY = Policy.model_validate(
    {
        "vms": {vm: {"address": f"10.0.0.{n}", "roles": ["controller", "worker"]} for n, vm in enumerate(VMS)},
        "services": {
            name: {
                "order": order,
                "unit": name,
                "port": 80,
                "standby": standby,
                "check": {"kind": "http"},
                "activate": "up.yml",
                "deactivate": "down.yml",
                "cluster": cluster,
            }
            for name, order, standby, cluster in (
                ("web", ("a", "b"), "cold", None),
                (
                    "api",
                    ("b", "c", "a"),
                    "hot",
                    {"kind": "rabbitmq", "members": ("a", "b", "c"), "spare": "d", "change": "change.yml"},
                ),
            )
        },
    }
)


class Dice:
    """Throws a view: likely ones more often than not, unlikely ones often enough."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)

    def sometimes(self, share: float = 0.5) -> bool:
        """Say yes so often."""
        return self._random.random() < share

    def one_of(self, things):
        """Pick one."""
        return self._random.choice(list(things))

    def maybe(self, thing, share: float = 0.5):
        """Return the thing or None."""
        return thing if self.sometimes(share) else None

    def vm(self) -> str:
        """Return the name of a VM, now and then a stranger's."""
        return self.one_of((*VMS, *VMS, STRANGE))

    def time(self) -> float:
        """Return a time, often a near one."""
        return NOW + self._random.uniform(-90_000, 90_000) * self.one_of((1.0, 0.001, 0.00001))

    def epoch(self) -> int:
        """Return an epoch, most often the same."""
        return self.one_of((3, 3, 3, 2, 4))

    def kept(self, record):
        """Return the record as read from KV."""
        return Kept(record, self._random.randint(1, 1000), self.maybe("s1"))

    def key(self, record):
        """Return a key: absent, unreadable, or with the record."""
        how = self._random.random()
        return None if how < 0.1 else Unreadable("key", 9, "garbage") if how < 0.2 else self.kept(record)

    def service_view(self, name: str) -> ServiceView:
        """Return one service."""
        order = POLICY.services[name].order
        assignment = Assignment(
            service=name,
            active=self.vm(),
            designated=self.one_of((order[0], self.vm())),
            standbys=tuple(self.vm() for _ in range(self.one_of((0, 0, 1, 2)))),
            epoch=self.epoch(),
            since=self.time(),
            kind=self.one_of(MoveKind),
            reason="because",
            failovers=tuple(self.time() for _ in range(self.one_of((0, 1, 3)))),
            hold_until=self.maybe(self.time(), 0.2),
        )
        holder = self.one_of((assignment.active, self.vm()))
        value = self.maybe(LockValue(vm=holder, epoch=self.epoch()), 0.9)
        rows = tuple(
            Endpoint(vm=self.one_of((assignment.active, self.vm())), address="10.9.9.9", port=80)
            for _ in range(self.one_of((1, 2)))
        )
        states = {vm: self.one_of(InstanceState) for vm in (*VMS, STRANGE) if self.sometimes(0.8)}
        brokers = {vm: self.one_of((*InstanceState, InstanceState.HEALTHY)) for vm in VMS if self.sometimes(0.9)}
        return ServiceView(
            name=name,
            assignment=self.key(assignment),
            lock=self.maybe(LockView(value, self.maybe("s1", 0.8), 5), 0.9),
            endpoints=self.key(Endpoints(service=name, epoch=self.epoch(), endpoints=rows)),
            rotation=self.key(Rotation(service=name, order=order, next_due=self.maybe(self.time(), 0.9))),
            members=self.key(self.members(name)),
            brokers=MappingProxyType({vm: InstanceView(vm, state) for vm, state in brokers.items()}),
            trigger_index=self.maybe(7, 0.2),
            instances=MappingProxyType({vm: InstanceView(vm, state, "words") for vm, state in states.items()}),
        )

    def members(self, name: str) -> Members:
        """Return a record of members, most often one that the policy allows."""
        allowed = ("abc", "abc", "dbc", "adc", "abd", "ab", "abx")
        joining = self.maybe(self.vm())
        leaving = self.vm() if joining else self.maybe(self.vm(), 0.1)
        return Members(
            service=name,
            members=tuple(self.one_of(allowed)),
            joining=joining,
            leaving=leaving,
            since=self.time(),
            reason="because",
        )

    def vm_view(self, vm: str) -> VmView:
        """Return one VM."""
        return VmView(
            vm,
            Reach.UP if self.sometimes(0.8) else Reach.DOWN,
            self.one_of(Load),
            self.sometimes(0.8),
            self.maybe(Maintenance(by="op", at=NOW), 0.2),
        )

    def request(self, ident: str) -> Request:
        """Return an open request."""
        return Request(
            id=ident,
            kind=self.one_of(RequestKind),
            service=self.one_of((*NAMES, *NAMES, STRANGE)),
            target=self.maybe(self.vm(), 0.8),
            failed_instance=self.maybe(self.vm(), 0.2),
            redesignate=self.sometimes(),
            origin=self.one_of(("rule", "cli:op@host")),
            state=self.one_of((RequestState.PENDING, RequestState.RUNNING)),
            created=self.time(),
            updated=self.time(),
            epoch=self.maybe(self.epoch(), 0.7),
            previous=self.maybe(self.vm(), 0.8),
            times={name: self.time() for name in ("assigned", "endpoints", "decided") if self.sometimes()},
        )

    def command(self, ident: str) -> Command:
        """Return a command."""
        return Command(
            id=ident,
            request_id=self.one_of(("r0", "r1", "r2", "gone")),
            service=self.one_of((*NAMES, STRANGE)),
            kind=self.one_of(MoveKind),
            play=self.one_of(Play),
            playbook="up.yml",
            target=self.vm(),
            epoch=self.epoch(),
            state=self.one_of(CommandState),
            created=self.time(),
            claimed=self.maybe(self.time()),
            finished=self.maybe(self.time()),
            worker=self.maybe(self.vm()),
            cancel_requested=self.sometimes(0.2),
        )

    def view(self) -> View:
        """Return the fleet."""
        requests = [self.kept(self.request(f"r{n}")) for n in range(self.one_of((0, 1, 2, 3)))]
        commands = [self.kept(self.command(f"c{n}")) for n in range(self.one_of((0, 1, 3)))]
        return View(
            vms=MappingProxyType({vm: self.vm_view(vm) for vm in (*VMS, STRANGE) if self.sometimes(0.95)}),
            services=MappingProxyType({name: self.service_view(name) for name in NAMES if self.sometimes(0.95)}),
            requests=tuple(sorted(requests, key=lambda k: (k.value.created, k.value.id))),
            commands=tuple(sorted(commands, key=lambda k: (k.value.created, k.value.id))),
            paused=self.maybe(Paused(by="op", at=NOW), 0.3),
            strange_triggers=self.one_of(((), (), (("x", 3), ("y/z", 3)))),
        )

    def memory(self) -> Memory:
        """Return what the leader may remember."""
        since = {(name, vm): self.time() for name in NAMES for vm in VMS if self.sometimes()}
        lacking = {(name, vm): self.time() for name in NAMES for vm in VMS if self.sometimes()}
        away = {(name, vm): self.time() for name in NAMES for vm in VMS if self.sometimes()}
        return Memory(
            healthy_since=MappingProxyType(since),
            lacking_since=MappingProxyType(lacking),
            away_since=MappingProxyType(away),
            back_since=MappingProxyType(away),
        )


def changes_of(outcome: Outcome):
    """Every change of every decision."""
    return [change for decision in outcome.decisions for change in decision.changes]


def says_what_it_does_and_writes_each_key_once(view: View, outcome: Outcome) -> None:
    """Every outcome and every decision has its sentence, and no key is written twice in a cycle."""
    assert outcome.sentence
    assert all(decision.sentence and decision.changes for decision in outcome.decisions)
    assert all(diagnosis.sentence for diagnosis in outcome.diagnoses)
    others = ("standby_missing", "member_away", "member_replaced", "members_unknown")
    beside = [diagnosis for diagnosis in outcome.diagnoses if diagnosis.code in others]
    assert {diagnosis.service for diagnosis in outcome.diagnoses} == set(NAMES)
    assert len(outcome.diagnoses) <= len(NAMES) + len(beside)
    written = [change.key for change in changes_of(outcome)]
    assert len(written) == len(set(written))
    assert outcome.wake_at is None or outcome.wake_at > NOW, "else the leader would turn without pause"


def writes_an_assignment_by_its_seen_index_and_never_turns_its_epoch_back(view: View, outcome: Outcome) -> None:
    """Assignments are written by compare-and-set, and what moves has a later epoch."""
    for change in changes_of(outcome):
        if not isinstance(change, Put) or not isinstance(change.record, Assignment):
            continue
        seen = view.services.get(change.record.service)
        known = seen.assignment if seen else None
        assert change.index == (known.index if known else 0)
        if isinstance(known, Kept):
            moved = change.record.active != known.value.active
            assert change.record.epoch in (known.value.epoch, known.value.epoch + 1)
            assert change.record.epoch > known.value.epoch or not moved
        lock = seen.lock if seen else None
        if not isinstance(known, Kept) and lock and lock.holder and lock.value:
            assert change.record.epoch >= lock.value.epoch


def takes_only_the_steps_of_the_state_machines(view: View, outcome: Outcome) -> None:
    """Requests and commands change as their tables allow; a final one has its reason."""
    seen = {keys.request(k.value.id): k for k in view.requests} | {keys.command(k.value.id): k for k in view.commands}
    for change in changes_of(outcome):
        if not isinstance(change, Put) or change.key not in seen:
            continue
        before, after = seen[change.key].value, change.record
        assert change.index == seen[change.key].index
        if isinstance(before, Request) and isinstance(after, Request):
            assert after.state is before.state or after.state in REQUEST_TRANSITIONS[before.state]
            assert after.outcome or not after.is_final
        elif isinstance(before, Command) and isinstance(after, Command):
            assert after.state is before.state or after.state in COMMAND_TRANSITIONS[before.state]


def points_traffic_only_at_a_healthy_holder_of_the_lock(view: View, outcome: Outcome) -> None:
    """No traffic without the role lock."""
    for change in changes_of(outcome):
        if isinstance(change, Put) and isinstance(change.record, Endpoints):
            seen, first = view.services[change.record.service], change.record.endpoints[0].vm
            assert seen.lock is not None
            assert seen.lock.holder == first
            assert seen.lock.value is not None
            assert seen.lock.value.epoch == change.record.epoch
            assert seen.state_on(first) is InstanceState.HEALTHY


def starts_a_standby_only_beside_an_active_that_serves(view: View, outcome: Outcome) -> None:
    """A standby is started by a command of the present epoch, on a VM that is up, and not while paused."""
    for decision in outcome.decisions:
        if decision.code != "standby":
            continue
        (command,) = decision.commands
        known = view.services[command.service].assignment
        assert isinstance(known, Kept)
        assert (command.epoch, command.enable_at_boot) == (known.value.epoch, True)
        assert known.value.active != command.target
        assert known.value.may_run_on(command.target)
        assert view.vms[command.target].reach is Reach.UP
        assert view.paused is None


def changes_a_cluster_only_with_a_majority_beside_the_two(view: View, outcome: Outcome) -> None:
    """Three members stay, two of them well beside the one that joins, and it is said in the record first."""
    for decision in outcome.decisions:
        if decision.code != "member":
            continue
        (command,) = decision.commands
        seen = view.services[command.service]
        (record,) = [put.record for put in decision.changes if isinstance(put, Put) and isinstance(put.record, Members)]
        assert (record.joining, record.leaving) == (command.target, command.leaves)
        assert len(set(record.members)) == 3
        assert set(record.members) < set(VMS)
        assert command.target in record.members
        assert command.leaves not in record.members
        for vm in set(record.members) - {command.target}:
            assert view.vms[vm].reach is Reach.UP
            assert seen.brokers[vm].state is InstanceState.HEALTHY
        assert view.vms[command.target].maintenance is None
        assert isinstance(seen.assignment, Kept)
        assert seen.assignment.value.active != command.leaves
        assert view.paused is None


def changes_no_assignment_while_paused_unless_asked(view: View, outcome: Outcome) -> None:
    """Paused means that nothing moves by itself."""
    if view.paused is None:
        return
    for decision in outcome.decisions:
        for change in decision.changes:
            if not isinstance(change, Put) or not isinstance(change.record, Assignment):
                continue
            asked = {k.value.service for k in view.requests} | {n for n, s in view.services.items() if s.trigger_index}
            assert decision.service in asked or decision.code == "repaired"


LAWS = (
    says_what_it_does_and_writes_each_key_once,
    writes_an_assignment_by_its_seen_index_and_never_turns_its_epoch_back,
    takes_only_the_steps_of_the_state_machines,
    points_traffic_only_at_a_healthy_holder_of_the_lock,
    starts_a_standby_only_beside_an_active_that_serves,
    changes_a_cluster_only_with_a_majority_beside_the_two,
    changes_no_assignment_while_paused_unless_asked,
)


@settings(max_examples=2000)
@given(st.integers(min_value=0))
def test_decide_never_raises_and_keeps_every_law_on_any_view(seed: int) -> None:
    dice = Dice(seed)
    view, memory = dice.view(), dice.memory()
    outcome = decide(view, memory, POLICY, NOW)
    assert outcome == decide(view, memory, POLICY, NOW), "it is a function of what it is given"
    for law in LAWS:
        law(view, outcome)
