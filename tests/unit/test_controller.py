"""The controller's own steps on a Consul in memory: what it decides on, what it writes, when it leads."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType, SimpleNamespace

import pytest

from orchestrator.controller import AFTER_UNKNOWN_S, OWN_WRITES_SEEN_WITHIN_S, Controller, Heed, Loop
from orchestrator.domain import keys
from orchestrator.domain.decision import Decision, Memory, Outcome, Unchanged
from orchestrator.domain.policy import Policy
from orchestrator.domain.records import Assignment, Command, Told
from orchestrator.domain.sinks import SinkPolicy
from orchestrator.domain.view import Reach, View
from orchestrator.notify.notice import Notice
from orchestrator.notify.notifier import Notifier
from orchestrator.observe.quorum import LONG_LOSS_S
from orchestrator.observe.watch import CHECKS, Observed, Snapshot
from orchestrator.recorder import Inputs
from orchestrator.store.election import ALIVE_CHECK, Election
from orchestrator.store.port import AgentService, Check, KvPair, Refused, Unknown
from orchestrator.store.sessions import controller_session
from orchestrator.store.shown_role import LOOK_EVERY_S
from tests.fakes.fake_consul import PASSING, FakeConsul, FakePort
from tests.simulation.world import policy_document

VM, OTHER = "messaging-server", "frontend-server"
NOW = 1_700_000_000.0
WATCHED = (keys.SERVICES, keys.REQUESTS, keys.COMMANDS, keys.LEADER, keys.CONFIG, keys.ROTATE, keys.PAUSED)


class Stage:
    """A fleet whose policy is applied and where nothing has been decided yet."""

    def __init__(self) -> None:
        self.document = policy_document("cold", 5.0, 86400.0)
        self.consul = FakeConsul(self.document["vms"])
        self.port = self.consul.port(VM)
        for vm in (VM, OTHER):
            self.consul.set_check(vm, keys.daemon_check_id("controller"), PASSING)
        self.port.kv_put(keys.CONFIG, json.dumps(self.document).encode())
        self.published: list[Command] = []
        self.controller = Controller(self.port, self.published.append, lambda inputs, outcome: None)
        self.election = Election(self.port, VM)
        self.version = 0

    def lead(self) -> str:
        """Have the lead and return the session."""
        assert self.election.campaign()
        assert self.election.session is not None
        return self.election.session

    def snapshot(self, **older: tuple[object, ...]) -> Snapshot:
        """Return what is there now, but for the sources that show something older."""
        self.version += 1
        data: dict[str, tuple[object, ...]] = {prefix: self.consul.peek_list(prefix) for prefix in WATCHED}
        data[CHECKS] = self.port.checks()[1]
        unknown: Mapping[str, str] = MappingProxyType({})
        return Snapshot(self.version, MappingProxyType({**data, **older}), unknown, 0.0)

    def assignment(self) -> Assignment:
        """Return the backend's assignment."""
        pair = self.consul.peek(keys.assignment("backend"))
        assert pair is not None
        return Assignment.from_json(pair.value)


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_a_leader_writes_what_it_decides_and_publishes_the_commands(stage: Stage) -> None:
    cycle = stage.controller.cycle(stage.snapshot(), stage.lead(), NOW, NOW)
    assert [decision.code for decision in cycle.applied] == ["initial", "initial"]
    assert [command.target for command in stage.published] == ["backend-server", "frontend-server"]
    assert stage.assignment().epoch == 1


def test_a_decision_is_logged_with_all_that_it_can_be_found_by(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        stage.controller.cycle(stage.snapshot(), stage.lead(), NOW, NOW)
    decided = next(record.__dict__ for record in caplog.records if record.__dict__.get("service") == "backend")
    assert (decided["epoch"], decided["vm"]) == (1, "backend-server")
    assert decided["request"] == stage.assignment().request_id
    assert decided["command"] == stage.published[0].id


def test_without_the_leader_lock_nothing_is_written(stage: Stage) -> None:
    session = stage.lead()
    stage.port.session_destroy(session)
    cycle = stage.controller.cycle(stage.snapshot(), session, NOW, NOW)
    assert cycle.applied == ()
    assert stage.consul.peek(keys.assignment("backend")) is None
    assert stage.published == []


def test_a_view_without_its_own_writes_is_not_decided_on(stage: Stage) -> None:
    session, before = stage.lead(), stage.consul.peek_list(keys.REQUESTS)
    stage.controller.cycle(stage.snapshot(), session, NOW, NOW)
    half = stage.snapshot(**{keys.REQUESTS: before})
    cycle = stage.controller.cycle(half, session, NOW + 0.01, NOW)
    assert (cycle.outcome, cycle.wake_at) == (None, NOW + OWN_WRITES_SEEN_WITHIN_S)
    assert stage.controller.cycle(stage.snapshot(), session, NOW + 0.02, NOW).outcome is not None


def test_its_own_writes_are_not_waited_for_for_ever(stage: Stage) -> None:
    session, before = stage.lead(), stage.consul.peek_list(keys.REQUESTS)
    stage.controller.cycle(stage.snapshot(), session, NOW, NOW)
    half = stage.snapshot(**{keys.REQUESTS: before})
    assert stage.controller.cycle(half, session, NOW + OWN_WRITES_SEEN_WITHIN_S, NOW).outcome is not None


def test_after_a_lost_or_unanswered_transaction_it_looks_again_soon(stage: Stage) -> None:
    session, shown = stage.lead(), stage.snapshot()
    stage.port.kv_put(keys.assignment("backend"), b"{}")
    assert stage.controller.cycle(shown, session, NOW, NOW).wake_at == NOW + AFTER_UNKNOWN_S

    def unanswered(node: str, operation: str, when: str) -> None:
        raise Unknown("no answer")

    stage = Stage()
    session = stage.lead()
    stage.consul.on_write = unanswered
    cycle = stage.controller.cycle(stage.snapshot(), session, NOW, NOW)
    assert (cycle.applied, cycle.wake_at) == ((), NOW + AFTER_UNKNOWN_S)


class Decided:
    """A `decide` that has the same to say each time: what is overtaken for ever, and an entry that is said once."""

    OVERTAKEN = Decision("refused", "backend", "Never.", (Unchanged(keys.CONFIG, 4711),))
    SAID = Decision("grace", "frontend", "It has recovered.")

    def __init__(self) -> None:
        self.remembered: list[frozenset[str]] = []

    def __call__(self, view: View, memory: Memory, policy: Policy, now: float) -> Outcome:
        self.remembered.append(memory.announced)
        said = Memory(announced=frozenset({"grace:frontend:home:1.000"}))
        return Outcome((self.OVERTAKEN, self.SAID), (), said, "The same again.")


def test_what_was_said_is_remembered_although_another_decision_is_overtaken_for_ever(stage: Stage) -> None:
    decided = Decided()
    controller = Controller(stage.port, stage.published.append, lambda inputs, outcome: None, decided)
    session = stage.lead()
    for _ in range(2):
        assert controller.cycle(stage.snapshot(), session, NOW, NOW).applied == (Decided.SAID,)
    assert decided.remembered == [frozenset(), frozenset({"grace:frontend:home:1.000"})]


def test_what_consul_refuses_keeps_no_other_decision_from_being_written(stage: Stage) -> None:
    session, asked = stage.lead(), []

    def refuse_the_first(node: str, operation: str, when: str) -> None:
        asked.append(when)
        if len(asked) == 1:
            raise Refused("Value for key is too large")

    stage.consul.on_write = refuse_the_first
    cycle = stage.controller.cycle(stage.snapshot(), session, NOW, NOW)
    assert [(made.code, made.service) for made in cycle.applied] == [("initial", "frontend")]
    assert cycle.wake_at == NOW + AFTER_UNKNOWN_S


def test_an_invalid_policy_leaves_the_last_good_one_in_force(stage: Stage) -> None:
    good = stage.controller.learn_policy(stage.snapshot())
    stage.port.kv_put(keys.CONFIG, b"{}")
    assert stage.controller.learn_policy(stage.snapshot()) == good
    assert good is not None


def _loop(
    stage: Stage,
    observed: Callable[[int, float], Snapshot] | None = None,
    clock: Callable[[], float] = lambda: NOW,
    recorded: list[Inputs] | None = None,
    heed: Heed = lambda session, sinks: None,
) -> Loop:
    """Return a loop as a controller that has just been started has it."""
    wait = observed or (lambda after, timeout_s: stage.snapshot())
    return Loop(
        stage.port,
        SimpleNamespace(wait=wait, learn=lambda *given, **how: True, snapshot=lambda: wait(0, 0.0)),  # type: ignore[arg-type]
        Election(stage.port, VM),
        Controller(
            stage.port,
            stage.published.append,
            lambda inputs, outcome: None if recorded is None else recorded.append(inputs),
        ),
        SimpleNamespace(beat=lambda sentence: None),  # type: ignore[arg-type]
        wall=clock,
        monotonic=clock,
        heed=heed,
    )


def test_a_leader_that_was_restarted_before_any_check_noticed_leads_again(stage: Stage) -> None:
    old_session = stage.lead()
    _loop(stage).round()
    lock = stage.consul.peek(keys.LEADER)
    assert lock is not None
    assert lock.session not in (None, old_session)
    assert not stage.consul.session_exists(old_session)
    assert stage.assignment().epoch == 1


def test_an_old_session_of_its_own_vm_that_shows_up_late_with_the_lead_is_ended(stage: Stage) -> None:
    """As after a loss of power: when the controller began, no server knew of it, so it made a session beside it."""
    old_session = stage.lead()
    lock = stage.consul.peek(keys.LEADER)
    assert lock is not None
    stage.port.session_destroy(old_session)
    loop = _loop(stage)
    loop.round()
    own = stage.consul.peek(keys.LEADER)
    assert own is not None
    assert own.session is not None
    stage.port.lock_release(keys.LEADER, lock.value, own.session)
    late = stage.port.session_create(controller_session(VM), (ALIVE_CHECK,))
    assert stage.port.lock_acquire(keys.LEADER, lock.value, late)
    for _ in range(3):
        loop.round()
    assert not stage.consul.session_exists(late)
    lock = stage.consul.peek(keys.LEADER)
    assert lock is not None
    assert lock.session == own.session


def test_gossip_is_doubted_after_the_loop_was_long_without_consul(stage: Stage) -> None:
    clock = {"now": NOW}
    shown = {"known": False}
    recorded: list[Inputs] = []

    def snapshot(after: int, timeout_s: float) -> Snapshot:
        found = stage.snapshot()
        return found if shown["known"] else replace(found, unknown={"pulse": "the cluster has no leader"})

    loop = _loop(stage, observed=snapshot, clock=lambda: clock["now"], recorded=recorded)
    loop.round()
    clock["now"] += LONG_LOSS_S
    shown["known"] = True
    loop.round()
    assert recorded[-1].view().quorum_since == clock["now"]


def behind(stage: Stage, sources: list[str]) -> Observed:
    """Return what the watchers know whose last look was before all VMs had come back: each guard's was lost."""
    observed = Observed(sources)
    snapshot = stage.snapshot()
    for name in sources:
        found = snapshot.data[name]
        if name == CHECKS:
            found = tuple(
                replace(check, status="critical")
                if isinstance(check, Check) and check.check_id == "serfHealth"
                else check
                for check in found
            )
        observed.learn(name, 1, found)
    return observed


def test_what_a_new_leader_decides_first_it_decides_on_checks_no_older_than_its_lead(stage: Stage) -> None:
    recorded: list[Inputs] = []
    loop = _loop(stage, recorded=recorded)
    loop._observed = behind(stage, [*WATCHED, CHECKS])
    loop.round()
    assert {vm.name: vm.reach for vm in recorded[0].view().vms.values()} == dict.fromkeys(
        stage.document["vms"], Reach.UP
    )


def test_a_new_leader_decides_nothing_before_it_has_read_the_checks(stage: Stage) -> None:
    recorded: list[Inputs] = []
    loop = _loop(stage, recorded=recorded)
    loop._observed = behind(stage, [*WATCHED, CHECKS])
    read, calls = stage.port.checks, []

    def checks(**how: object) -> tuple[int, tuple[Check, ...]]:
        calls.append(how)
        if len(calls) == 1:
            raise Unknown("no answer")
        return read()

    stage.port.checks = checks  # type: ignore[method-assign,assignment]
    loop.round()
    assert (recorded, loop.patience_s) == ([], pytest.approx(AFTER_UNKNOWN_S))
    loop.round()
    assert len(recorded) == 1


def test_a_follower_leaves_the_lock_to_another_leader(stage: Stage) -> None:
    other = Election(stage.consul.port(OTHER), OTHER)
    assert other.campaign()
    loop = _loop(stage)
    loop.round()
    loop.round()
    lock = stage.consul.peek(keys.LEADER)
    assert lock is not None
    assert lock.session == other.session
    assert stage.consul.peek(keys.assignment("backend")) is None


# -- the role in Consul's UI ---------------------------------------------------------------------------------------

DEPLOYED = AgentService(
    "orch-controller",
    "orch-controller",
    9701,
    "10.0.0.21",
    ("daemon",),
    (("unit", "orch-controller"), ("vm", VM)),
)


def _role_shown(stage: Stage) -> AgentService:
    [service] = stage.port.agent_services()
    return service


def test_a_leader_is_shown_as_one_and_keeps_what_the_deployment_registered(stage: Stage) -> None:
    stage.port.agent_register(DEPLOYED)
    _loop(stage).round()
    assert _role_shown(stage) == replace(DEPLOYED, tags=("leader",))


def test_a_controller_that_never_led_is_shown_as_a_follower(stage: Stage) -> None:
    stage.port.agent_register(DEPLOYED)
    assert Election(stage.consul.port(OTHER), OTHER).campaign()
    _loop(stage).round()
    assert _role_shown(stage) == replace(DEPLOYED, tags=("follower",))


def test_a_leader_that_crashed_and_comes_back_as_a_follower_is_not_shown_as_a_leader_any_more(stage: Stage) -> None:
    stage.port.agent_register(replace(DEPLOYED, tags=("leader",)))
    assert Election(stage.consul.port(OTHER), OTHER).campaign()
    _loop(stage).round()
    assert _role_shown(stage).tags == ("follower",)


@pytest.mark.parametrize(("other_leads", "role"), [(False, "leader"), (True, "follower")])
def test_the_role_is_shown_again_within_seconds_of_an_agents_reload(stage: Stage, other_leads: bool, role: str) -> None:
    if other_leads:
        assert Election(stage.consul.port(OTHER), OTHER).campaign()
    clock = {"now": NOW}
    loop = _loop(stage, clock=lambda: clock["now"])
    stage.port.agent_register(DEPLOYED)
    loop.round()
    stage.port.agent_register(DEPLOYED)
    clock["now"] += LOOK_EVERY_S
    loop.round()
    assert _role_shown(stage).tags == (role,)


def test_a_role_that_is_shown_already_is_not_written_and_seldom_asked_for(stage: Stage) -> None:
    stage.port.agent_register(DEPLOYED)
    clock = {"now": NOW}
    loop = _loop(stage, clock=lambda: clock["now"])
    loop.round()
    written: list[str] = []
    stage.consul.on_write = lambda node, operation, when: written.append(operation)
    asked: list[float] = []
    answer = stage.port.agent_services
    stage.port.agent_services = lambda: (asked.append(clock["now"]), answer())[1]  # type: ignore[method-assign]
    for _ in range(10):
        clock["now"] += LOOK_EVERY_S / 5
        loop.round()
    assert "agent_register" not in written
    assert asked == [NOW + LOOK_EVERY_S, NOW + 2 * LOOK_EVERY_S]


def test_a_controller_that_stops_frees_the_lead_and_shows_no_role(stage: Stage) -> None:
    stage.port.agent_register(DEPLOYED)
    loop = _loop(stage)
    loop.round()
    loop.step_down()
    lock = stage.consul.peek(keys.LEADER)
    assert lock is not None
    assert lock.session is None
    assert _role_shown(stage) == DEPLOYED


def test_a_service_that_the_deployment_did_not_register_is_not_made_up(stage: Stage) -> None:
    _loop(stage).round()
    assert stage.port.agent_services() == ()


def test_an_agent_that_refuses_the_role_costs_no_decision(stage: Stage) -> None:
    stage.port.agent_register(DEPLOYED)

    def refuse(node: str, operation: str, when: str) -> None:
        if operation == "agent_register":
            raise Refused("403 Permission denied")

    stage.consul.on_write = refuse
    _loop(stage).round()
    assert stage.assignment().epoch == 1


SINK = {"name": "ops", "kind": "command", "command": ["/bin/true"]}


class WaitingPort(FakePort):
    """A port whose blocking query waits, as an agent's does, since a thread of its own asks it."""

    def kv_list(self, prefix: str, *, index: int = 0, wait_s: float = 0.0) -> tuple[int, tuple[KvPair, ...]]:
        """See `Port.kv_list`."""
        found = super().kv_list(prefix)
        if found[0] <= index:
            threading.Event().wait(0.02)
            found = super().kv_list(prefix)
        return found


def _with_a_sink(stage: Stage) -> None:
    """Let the policy name a sink that has been told of nothing yet."""
    stage.port.kv_put(keys.CONFIG, json.dumps(stage.document | {"notifications": [SINK]}).encode())
    stage.port.kv_put(keys.notified("ops"), Told(sink="ops", upto=0, at=NOW).to_json().encode())


def test_a_sink_that_hangs_does_not_hold_up_the_leader(stage: Stage) -> None:
    _with_a_sink(stage)
    hangs, may_end = threading.Event(), threading.Event()

    def deliver(sink: SinkPolicy, notice: Notice) -> str:
        hangs.set()
        may_end.wait()
        return "taken"

    notifier = Notifier(lambda: WaitingPort(stage.consul, VM), deliver)
    loop = _loop(stage, heed=notifier.heed)
    loop.round()
    assert hangs.wait(30)
    # It is in the midst of a delivery, and stays there until the end of the test.
    stage.port.kv_put(keys.assignment("backend"), b"overwritten")
    loop.round()
    assert stage.assignment().reason.startswith("restored from")
    loop.step_down()
    assert not may_end.is_set()
    assert stage.consul.peek(keys.LEADER).session is None
    may_end.set()


def test_only_who_leads_tells_anybody(stage: Stage) -> None:
    _with_a_sink(stage)
    heard: list[tuple[str | None, list[str]]] = []
    loop = _loop(stage, heed=lambda session, sinks: heard.append((session, [sink.name for sink in sinks])))
    loop.round()
    lock = stage.consul.peek(keys.LEADER)
    assert lock is not None
    assert heard[-1] == (lock.session, ["ops"])
    stage.port.session_destroy(str(lock.session))
    stage.consul.port(OTHER).lock_acquire(
        keys.LEADER, b"", stage.consul.port(OTHER).session_create("orch-controller@frontend-server", ())
    )
    loop.round()
    assert heard[-1] == (None, [])


def test_a_changed_policy_ends_what_it_does_not_name_any_more(stage: Stage) -> None:
    stage.port.kv_put(keys.notified("ops"), Told(sink="ops", upto=0, at=NOW).to_json().encode())
    stage.controller.cycle(stage.snapshot(), stage.lead(), NOW, NOW)
    names: list[str] = []
    told = threading.Event()

    def deliver(sink: SinkPolicy, notice: Notice) -> str:
        names.append(sink.template)
        told.set()
        return "taken"

    notifier = Notifier(lambda: WaitingPort(stage.consul, VM), deliver)
    old, new = SinkPolicy.model_validate(SINK), SinkPolicy.model_validate(SINK | {"template": "chat"})
    assert stage.election.session is not None
    notifier.heed(stage.election.session, [old])
    assert told.wait(30)
    told.clear()
    notifier.heed(stage.election.session, [new])
    stage.port.kv_delete(keys.assignment("backend"))
    stage.controller.cycle(stage.snapshot(), stage.election.session, NOW + 10, NOW + 10)
    assert told.wait(30)
    notifier.heed(None, ())
    assert names[-1] == "chat"
