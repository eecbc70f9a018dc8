"""From Consul's raw answers to the view: what is broken is reported, never taken for absent."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.domain import keys
from orchestrator.domain.policy import ClusterPolicy
from orchestrator.domain.records import (
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
    Record,
    Request,
    RequestKind,
    RequestState,
    Rotation,
)
from orchestrator.domain.view import InstanceState, InstanceView, Kept, Load, LockView, Reach, Unreadable, View
from orchestrator.observe.parse import MAX_STARTS, parse_policy, parse_view, telling
from orchestrator.store.port import Check, KvPair
from tests.unit.observe.fleet import POLICY, VMS, instance_check, node_check, pair

ASSIGNMENT = Assignment(
    service="backend",
    active="backend-server",
    designated="backend-server",
    epoch=4,
    since=100.0,
    kind=MoveKind.INITIAL,
    reason="first start",
)
ENDPOINTS = Endpoints(
    service="backend", epoch=4, endpoints=(Endpoint(vm="backend-server", address="10.0.0.22", port=3000),)
)
ROTATION = Rotation(service="backend", order=VMS, index=1, last=50.0, next_due=900.0)
MAINTENANCE = Maintenance(by="anna@desk", at=1.0, reason="new disk")
KEYS = (
    keys.CONFIG,
    keys.PAUSED,
    keys.LEADER,
    keys.assignment("backend"),
    keys.lock("backend"),
    keys.endpoints("backend"),
    keys.rotation("backend"),
    keys.rotate("backend"),
    keys.rotate("bakcend"),
    keys.maintenance("backend-server"),
    keys.request("1"),
    keys.command("1"),
    keys.SERVICES,
    keys.REQUESTS,
)


def request(request_id: str, state: RequestState = RequestState.PENDING, created: float = 1.0) -> Request:
    """Return a request for the backend."""
    return Request(
        id=request_id, kind=RequestKind.FAILOVER, service="backend", state=state, created=created, updated=created
    )


def command(command_id: str, request_id: str, state: CommandState = CommandState.PENDING) -> Command:
    """Return a command of the request."""
    return Command(
        id=command_id,
        request_id=request_id,
        service="backend",
        kind=MoveKind.FAILOVER,
        play=Play.ACTIVATE,
        playbook="activate_backend.yml",
        target="messaging-server",
        epoch=5,
        state=state,
        created=1.0,
    )


def view_of(*found: KvPair | Check) -> View:
    """Build the view of these keys and checks."""
    pairs = [one for one in found if isinstance(one, KvPair)]
    return parse_view(pairs, [one for one in found if isinstance(one, Check)], POLICY)


def test_an_empty_consul_is_a_fleet_that_is_down_with_nothing_registered() -> None:
    view = view_of()
    assert {vm.name: (vm.reach, vm.load, vm.guard_alive, vm.maintenance) for vm in view.vms.values()} == {
        "backend-server": (Reach.DOWN, Load.UNKNOWN, False, None),
        "messaging-server": (Reach.DOWN, Load.UNKNOWN, False, None),
    }
    backend = view.services["backend"]
    assert (backend.assignment, backend.lock, backend.endpoints, backend.rotation) == (None, None, None, None)
    assert backend.state_on("backend-server") is InstanceState.ABSENT
    assert (view.requests, view.commands, view.paused, view.unreadable) == ((), (), None, ())


@pytest.mark.parametrize(
    ("key", "record", "field"),
    [
        (keys.assignment("backend"), ASSIGNMENT, "assignment"),
        (keys.endpoints("backend"), ENDPOINTS, "endpoints"),
        (keys.rotation("backend"), ROTATION, "rotation"),
    ],
)
def test_a_record_of_a_service_is_kept_with_its_index(key: str, record: Record, field: str) -> None:
    assert getattr(view_of(pair(key, record, 9)).services["backend"], field) == Kept(record, 9)


@pytest.mark.parametrize("value", [b"", b"null", b"{}", b"\xff\xfe", b"[" * 100_000, b'{"service": "backend"}'])
@pytest.mark.parametrize("field", ["assignment", "endpoints", "rotation"])
def test_a_broken_record_of_a_service_is_unreadable_and_not_absent(field: str, value: bytes) -> None:
    key = f"{keys.SERVICES}backend/{field}"
    found = getattr(view_of(pair(key, value, 9)).services["backend"], field)
    assert isinstance(found, Unreadable)
    assert (found.key, found.index) == (key, 9)
    assert found.problem


def test_a_record_under_the_key_of_another_service_is_unreadable() -> None:
    found = view_of(pair(keys.assignment("backend"), ASSIGNMENT.with_(service="frontend"))).services["backend"]
    assert isinstance(found.assignment, Unreadable)
    assert found.assignment.problem == "it is of 'frontend', its key of 'backend'"


def test_a_lock_is_held_by_the_vm_in_its_value_only_while_a_session_holds_it() -> None:
    value = LockValue(vm="backend-server", epoch=4)
    held = view_of(pair(keys.lock("backend"), value, 9, "s1")).services["backend"].lock
    assert held == LockView(value, "s1", 9)
    assert held.holder == "backend-server"
    freed = view_of(pair(keys.lock("backend"), value, 10)).services["backend"].lock
    assert freed is not None
    assert freed.holder is None


def test_a_held_lock_with_a_broken_value_has_no_holder_and_is_reported() -> None:
    view = view_of(pair(keys.lock("backend"), b"mine", 9, "s1"))
    assert view.services["backend"].lock == LockView(None, "s1", 9)
    assert [found.key for found in view.unreadable] == [keys.lock("backend")]


def test_a_free_and_empty_lock_is_no_fault() -> None:
    view = view_of(pair(keys.lock("backend"), b"", 9))
    assert view.services["backend"].lock == LockView(None, None, 9)
    assert view.unreadable == ()


def test_keys_of_services_that_the_policy_does_not_know_are_left_out() -> None:
    view = view_of(pair(keys.assignment("old"), b"broken"), pair("orch/services/backend/notes", b"x"))
    assert set(view.services) == {"backend"}
    assert view.unreadable == ()


# -- instances and VMs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("probe", "unit", "state"),
    [
        ("passing", "passing", InstanceState.HEALTHY),
        ("warning", "passing", InstanceState.HEALTHY),
        ("critical", "passing", InstanceState.FAILED),
        ("passing", "critical", InstanceState.FAILED),
        ("critical", "critical", InstanceState.FAILED),
    ],
)
def test_any_critical_check_means_that_the_instance_failed(probe: str, unit: str, state: InstanceState) -> None:
    view = view_of(
        instance_check("backend-server", "probe", probe, "503"),
        instance_check("backend-server", "unit", unit),
    )
    assert view.services["backend"].state_on("backend-server") is state
    assert view.services["backend"].state_on("messaging-server") is InstanceState.ABSENT


@pytest.mark.parametrize(
    ("unit", "state", "said"),
    [
        ("passing", InstanceState.UNKNOWN, "orch-backend:probe has not been made since the Consul agent started"),
        (
            "critical",
            InstanceState.FAILED,
            "orch-backend:unit is critical: node-app is failed",
        ),
    ],
)
def test_a_probe_that_was_not_made_since_its_agent_started_is_no_failure(
    unit: str, state: InstanceState, said: str
) -> None:
    view = view_of(
        instance_check("backend-server", "probe", "critical", ""),
        instance_check("backend-server", "unit", unit, "node-app is failed" if unit == "critical" else ""),
    )
    assert view.services["backend"].instances["backend-server"] == InstanceView("backend-server", state, said)


def test_a_failed_instance_says_what_its_failing_checks_said() -> None:
    view = view_of(
        instance_check("backend-server", "probe", "critical", "Get http://…:\n connection refused\n"),
        instance_check("backend-server", "unit", "passing", "node-app is running"),
    )
    assert view.services["backend"].instances["backend-server"] == InstanceView(
        "backend-server",
        InstanceState.FAILED,
        "orch-backend:probe is critical: Get http://…: connection refused",
    )


def test_an_instance_on_a_vm_that_is_down_is_judged_by_its_own_checks_only() -> None:
    view = view_of(
        node_check("backend-server", keys.SERF_HEALTH, "critical"),
        instance_check("backend-server", "unit", "passing"),
    )
    assert view.vms["backend-server"].reach is Reach.DOWN
    assert view.services["backend"].state_on("backend-server") is InstanceState.HEALTHY


def test_checks_of_vms_and_services_that_the_policy_does_not_know_are_ignored() -> None:
    view = view_of(
        node_check("stranger", keys.SERF_HEALTH),
        instance_check("stranger", "unit", "critical"),
        instance_check("backend-server", "unit", "critical", service="other"),
    )
    assert set(view.vms) == set(VMS)
    assert dict(view.services["backend"].instances) == {}


@pytest.mark.parametrize(("status", "reach"), [("passing", Reach.UP), ("warning", Reach.UP), ("critical", Reach.DOWN)])
def test_a_vm_is_reachable_while_gossip_says_so(status: str, reach: Reach) -> None:
    assert view_of(node_check("backend-server", keys.SERF_HEALTH, status)).vms["backend-server"].reach is reach


@pytest.mark.parametrize(
    ("status", "load"), [("passing", Load.NORMAL), ("warning", Load.HIGH), ("critical", Load.HIGH)]
)
def test_load_is_high_from_warning_on(status: str, load: Load) -> None:
    assert view_of(node_check("backend-server", keys.LOAD_CHECK, status)).vms["backend-server"].load is load


def test_a_guard_is_alive_while_its_check_is_not_critical() -> None:
    check_id = keys.daemon_check_id("guard")
    view = view_of(
        node_check("backend-server", check_id, "passing"), node_check("messaging-server", check_id, "critical")
    )
    assert {vm.name: vm.guard_alive for vm in view.vms.values()} == {
        "backend-server": True,
        "messaging-server": False,
    }


# -- what an operator writes --------------------------------------------------------------------------------------


def test_maintenance_and_pause_are_read() -> None:
    paused = Paused(by="anna@desk", at=2.0)
    view = view_of(pair(keys.PAUSED, paused), pair(keys.maintenance("backend-server"), MAINTENANCE))
    assert view.paused == paused
    assert view.vms["backend-server"].maintenance == MAINTENANCE
    assert view.vms["messaging-server"].maintenance is None


def test_a_pause_and_a_maintenance_that_cannot_be_read_hold_all_the_same_and_are_reported() -> None:
    view = view_of(pair(keys.PAUSED, b"yes"), pair(keys.maintenance("backend-server"), b""))
    assert view.paused is not None
    assert "cannot be read" in view.paused.reason
    assert view.vms["backend-server"].maintenance is not None
    assert {found.key for found in view.unreadable} == {keys.PAUSED, keys.maintenance("backend-server")}


def test_any_write_under_a_rotate_key_is_a_trigger_whatever_it_holds() -> None:
    view = view_of(pair(keys.rotate("backend"), b"\xffnow", 12))
    assert (view.services["backend"].trigger_index, view.services["backend"].trigger_value) == (12, "�now")
    assert view.strange_triggers == ()


def test_a_rotate_key_that_names_no_service_is_reported_and_a_folder_of_the_ui_is_not() -> None:
    view = view_of(pair(keys.rotate("bakcend"), b"", 12), pair(keys.ROTATE, b""), pair(keys.REQUESTS, b""))
    assert view.strange_triggers == (("bakcend", 12),)
    assert view.unreadable == ()


# -- requests and commands ----------------------------------------------------------------------------------------


def test_only_open_requests_are_in_the_view_oldest_first() -> None:
    done, young, old = request("1", RequestState.SUCCEEDED), request("2", created=9.0), request("3", created=5.0)
    view = view_of(*(pair(keys.request(one.id), one) for one in (done, young, old)))
    assert [kept.value.id for kept in view.requests] == ["3", "2"]


def test_open_commands_and_those_of_open_requests_are_in_the_view() -> None:
    view = view_of(
        pair(keys.request("open"), request("open")),
        pair(keys.request("done"), request("done", RequestState.FAILED)),
        *(
            pair(keys.command(one.id), one, session="worker" if one.id == "a" else None)
            for one in (
                command("a", "done", CommandState.RUNNING),
                command("b", "open", CommandState.SUCCEEDED),
                command("c", "done", CommandState.SUCCEEDED),
                command("d", "gone", CommandState.PENDING),
            )
        ),
    )
    assert [(kept.value.id, kept.session) for kept in view.commands] == [("a", "worker"), ("b", None), ("d", None)]


@pytest.mark.parametrize("key", [keys.request("1"), keys.command("1")])
def test_a_broken_request_or_command_is_reported(key: str) -> None:
    view = view_of(pair(key, b"{"), pair(key + "2", request("other")))
    assert [found.key for found in view.unreadable] == [key, key + "2"]


# -- the policy -----------------------------------------------------------------------------------------------------


def test_the_policy_is_read_as_json_and_as_yaml() -> None:
    text = POLICY.model_dump_json().encode()
    assert parse_policy(pair(keys.CONFIG, text, 3)) == Kept(POLICY, 3)
    by_hand = json.dumps(POLICY.model_dump(mode="json"), indent=1).encode() + b"\n# by hand\n"
    assert parse_policy(pair(keys.CONFIG, by_hand, 4)) == Kept(POLICY, 4)


def test_no_policy_is_none_and_a_broken_one_is_unreadable_with_the_reason() -> None:
    assert parse_policy(None) is None
    broken = POLICY.model_dump(mode="json") | {"failback": {"grace_s": 0.1}}
    found = parse_policy(pair(keys.CONFIG, json.dumps(broken).encode(), 3))
    assert isinstance(found, Unreadable)
    assert "failback.grace_s" in found.problem


def test_a_policy_in_which_a_key_stands_twice_is_unreadable_to_the_daemons_too() -> None:
    twice = POLICY.model_dump_json().encode()[:-1] + b', "drain_s": 2}'
    found = parse_policy(pair(keys.CONFIG, twice, 3))
    assert isinstance(found, Unreadable)
    assert found.problem == "'drain_s' stands twice in one mapping"


# -- whatever the keys hold -------------------------------------------------------------------------------------------

VALUES = st.one_of(
    st.binary(max_size=200),
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
        max_leaves=10,
    ).map(lambda document: json.dumps(document).encode()),
    st.sampled_from([ASSIGNMENT, ENDPOINTS, ROTATION, request("1"), command("1", "1"), MAINTENANCE]).map(
        lambda record: record.to_json().encode()
    ),
)


# The machine may be busy with other tests: slow generation says nothing about the code.


@given(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=len(KEYS)), st.booleans())
def test_no_bytes_in_any_key_make_the_view_fail_and_nothing_that_is_there_looks_absent(
    values: dict[str, bytes], held: bool
) -> None:
    pairs = [KvPair(key, value, 5, "session" if held else None) for key, value in values.items()]
    parse_policy(next((one for one in pairs if one.key == keys.CONFIG), None))
    view = parse_view(pairs, (), POLICY)
    backend = view.services["backend"]
    for key, found in (
        (keys.assignment("backend"), backend.assignment),
        (keys.endpoints("backend"), backend.endpoints),
        (keys.rotation("backend"), backend.rotation),
        (keys.lock("backend"), backend.lock),
        (keys.PAUSED, view.paused),
        (keys.maintenance("backend-server"), view.vms["backend-server"].maintenance),
        (keys.rotate("backend"), backend.trigger_index),
    ):
        assert (found is not None) == (key in values)
    reported = {one.key for one in view.unreadable}
    for key, in_view in ((keys.request("1"), view.requests), (keys.command("1"), view.commands)):
        assert (key in reported or bool(in_view)) == (key in values)


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_no_bytes_make_reading_the_policy_fail(value: bytes) -> None:
    assert isinstance(parse_policy(pair(keys.CONFIG, value)), Kept | Unreadable)


CHECKS = st.lists(
    st.builds(
        Check,
        st.sampled_from([*VMS, "stranger"]),
        st.sampled_from([keys.SERF_HEALTH, keys.LOAD_CHECK, "orch-backend:probe", "orch-guard:alive", "x"]),
        st.sampled_from(["passing", "warning", "critical", "", "maintenance"]),
        st.text(max_size=300),
        st.sampled_from(["", "orch-backend", "orch-guard"]),
    ),
    max_size=20,
)


@given(CHECKS)
def test_no_checks_make_the_view_fail(checks: list[Check]) -> None:
    view = parse_view((), checks, POLICY)
    assert set(view.vms) == set(VMS)
    for instance in view.services["backend"].instances.values():
        assert len(instance.output) <= 200


@given(CHECKS)
def test_what_is_telling_of_the_checks_is_all_that_a_view_shows(checks: list[Check]) -> None:
    assert parse_view((), telling(checks), POLICY) == parse_view((), checks, POLICY)


def test_only_the_output_of_an_instance_that_does_not_pass_is_telling() -> None:
    failing = instance_check("backend-server", "probe", "critical", "HTTP 500")
    passing = instance_check("backend-server", "probe", "passing", "served 3 requests")
    load = node_check("backend-server", keys.LOAD_CHECK, "warning", "2.31 per core")
    assert telling((failing, passing, load)) == (failing, replace(passing, output=""), replace(load, output=""))


def test_the_last_starts_of_each_hot_standby_are_seen_with_what_came_of_them() -> None:
    starts = [
        request(str(n), RequestState.FAILED, created=float(n)).with_(kind=RequestKind.STANDBY, target=vm)
        for n, vm in enumerate(("messaging-server",) * (MAX_STARTS + 2) + ("backend-server",), start=10)
    ]
    other = request("9", RequestState.FAILED)
    view = view_of(*(KvPair(keys.request(r.id), r.to_json().encode(), 7) for r in (*starts, other)))
    assert view.ended_starts == (*starts[2:-1], starts[-1])
    assert view.ended_requests == {r.id for r in (*starts, other)}


CLUSTER = ClusterPolicy(kind="rabbitmq", members=(*VMS, "database-server"), change="change_member.yml")
CLUSTERED = POLICY.model_copy(
    update={"services": {"backend": POLICY.services["backend"].model_copy(update={"cluster": CLUSTER})}}
)


def test_of_a_cluster_each_broker_is_seen_and_who_is_a_member() -> None:
    members = Members(service="backend", members=VMS, since=1.0, reason="test")
    checks = [
        Check(vm, "rabbitmq:listens", status, "", keys.BROKER_SERVICE)
        for vm, status in zip(VMS, ("passing", "critical"), strict=True)
    ]
    seen = parse_view([pair(keys.members("backend"), members)], checks, CLUSTERED)
    backend = seen.services["backend"]
    assert {vm: broker.state for vm, broker in backend.brokers.items()} == {
        VMS[0]: InstanceState.HEALTHY,
        VMS[1]: InstanceState.FAILED,
    }
    assert backend.members == Kept(members, 7)
    assert dict(parse_view((), checks, POLICY).services["backend"].brokers) == {}


def test_changes_of_a_cluster_are_seen_apart_from_the_starts_of_standbys() -> None:
    ended = [
        request(str(n), RequestState.FAILED, created=float(n)).with_(kind=kind, target="messaging-server")
        for n, kind in enumerate((RequestKind.MEMBER, *(RequestKind.STANDBY,) * MAX_STARTS), start=10)
    ]
    view = view_of(*(pair(keys.request(r.id), r) for r in ended))
    assert {r.id for r in view.ended_starts} == {r.id for r in ended}


@pytest.mark.parametrize("since", ["1e300", "253402300800", "-1"])
def test_a_time_that_no_calendar_has_makes_a_record_unreadable(since: str) -> None:
    value = ASSIGNMENT.to_json().replace('"since":100.0', f'"since":{since}').encode()
    assert since.encode() in value
    seen = parse_view([pair(keys.assignment("backend"), value)], (), POLICY).services["backend"].assignment
    assert isinstance(seen, Unreadable)
    assert seen.problem.startswith("since: ")


def test_a_policy_with_a_value_that_is_not_what_its_tag_says_is_no_policy() -> None:
    assert parse_policy(KvPair(keys.CONFIG, b"version: !!bool maybe", 7)) == Unreadable(
        keys.CONFIG, 7, "not YAML: a value is not what its tag says"
    )
