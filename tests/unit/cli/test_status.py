"""`orch status`."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable

from orchestrator.domain import keys
from orchestrator.domain.decision import Diagnosis, Memory, Outcome
from orchestrator.domain.records import CommandState, Endpoint, Endpoints, Members, MoveKind, Paused, RequestState
from tests.fakes.fake_consul import CRITICAL
from tests.unit.cli.world import NOW, POLICY, VMS, World

Golden = Callable[[str, str], None]


def diagnosed(code: str, sentence: str, because: str | None = None) -> Outcome:
    """Return an outcome with one diagnosis of backend."""
    found = Diagnosis(code, "backend", sentence, not_actionable_because=because)
    return Outcome((), (found,), Memory(), sentence)


def test_a_fleet_that_is_well_is_shown_at_a_glance(world: World, golden: Golden) -> None:
    result = world.orch("status")
    assert result.exit_code == 0
    golden("status_well", result.stdout)


def test_what_is_wrong_is_shown_with_its_diagnosis(world: World, golden: Golden) -> None:
    world.fail("backend", "backend-server")
    world.kill_vm("database-server")
    world.consul.set_check("frontend-server", keys.daemon_check_id("worker"), CRITICAL, "connection refused")
    world.put(keys.PAUSED, Paused(by="ana@desk", at=NOW - 90, reason="lunch"))
    world.put(f"{keys.COMMANDS}broken", b"{")
    world.outcome = diagnosed(
        "paused", "backend fails its check on backend-server.", "automation is paused by ana@desk"
    )
    result = world.orch("status")
    assert result.exit_code == 0
    golden("status_wrong", result.stdout)


def test_a_running_move_is_shown_with_its_play(world: World, golden: Golden) -> None:
    world.orch("failover", "backend", "--no-wait")
    world.change_request(state=RequestState.RUNNING, target="messaging-server", times={"decided": NOW})
    world.put_command(state=CommandState.RUNNING, worker="frontend-server", task="start node-app", claimed=NOW)
    world.outcome = diagnosed("moving", "backend is moving to messaging-server (failover).")
    golden("status_moving", world.orch("status").stdout)


def test_the_json_answer_keeps_its_keys(world: World) -> None:
    found = world.answer("status")
    assert {
        "healthy",
        "problem",
        "quorum",
        "leader",
        "paused",
        "services",
        "vms",
        "moves",
        "commands",
        "diagnoses",
        "unreadable",
        "at",
    } == set(found)
    assert {
        "active",
        "designated",
        "epoch",
        "since",
        "reason",
        "lock_holder",
        "endpoints",
        "instances",
        "whole_copies",
        "hold_until",
        "healthy",
        "problem",
        "standby",
        "standbys_missing",
        "cluster",
    } == set(found["services"]["backend"])
    assert {"address", "reach", "load", "maintenance", "roles", "daemons"} == set(found["vms"]["backend-server"])


def test_json_may_stand_before_or_after_the_verb(world: World) -> None:
    assert world.orch("--json", "status").stdout == world.orch("status", "--json").stdout


def test_a_fleet_that_is_well_is_healthy(world: World) -> None:
    assert world.answer("status")["healthy"] is True


def test_a_fleet_is_not_healthy_while_a_service_is_away_from_where_it_is_designated(world: World) -> None:
    world.activate("backend", "messaging-server", epoch=2, designated="backend-server", kind=MoveKind.FAILOVER)
    found = world.answer("status")
    assert (found["healthy"], found["services"]["backend"]["healthy"]) == (False, True)


def test_a_fleet_is_not_healthy_while_a_lock_is_of_another_epoch(world: World) -> None:
    pair = world.get(keys.assignment("backend"))
    assert pair is not None
    world.put(keys.assignment("backend"), pair.value.replace(b'"epoch":1', b'"epoch":2'))
    assert world.answer("status")["services"]["backend"]["healthy"] is False


def test_a_fleet_is_not_healthy_while_a_hot_standby_is_not_among_the_endpoints(world: World) -> None:
    policy = copy.deepcopy(POLICY)
    policy["services"]["backend"]["standby"] = "hot"
    world.put(keys.CONFIG, json.dumps(policy).encode())
    found = world.answer("status")
    assert found["healthy"] is False
    assert found["services"]["backend"]["standbys_missing"] == ["messaging-server"]
    world.register("backend", "messaging-server")
    assert world.answer("status")["healthy"] is False, "it runs, and traffic would not find it"
    rows = tuple(
        Endpoint(vm=vm, address=VMS[vm]["address"], port=3000, backup=vm == "messaging-server")
        for vm in ("backend-server", "messaging-server")
    )
    world.put(keys.endpoints("backend"), Endpoints(service="backend", epoch=1, endpoints=rows))
    found = world.answer("status")
    assert found["healthy"] is True
    assert found["services"]["backend"]["standbys_missing"] == []


def test_the_members_of_a_cluster_are_shown_and_each_must_be_well(world: World) -> None:
    world.with_a_cluster()
    found = world.answer("status")
    assert found["healthy"] is True
    assert found["services"]["backend"]["cluster"] == {
        "members": dict.fromkeys(("frontend-server", "backend-server", "messaging-server"), "healthy"),
        "spare": "database-server",
        "replaced": None,
        "joining": None,
        "healthy": True,
        "problem": None,
    }
    assert "healthy, messaging-server healthy; spare: database-server\n" in world.orch("status").stdout
    world.consul.set_check("messaging-server", "rabbitmq:listens", CRITICAL, "connection refused")
    assert world.answer("status")["healthy"] is False


def test_a_spare_that_has_a_members_place_is_shown_and_the_fleet_is_not_healthy(world: World) -> None:
    names = ("frontend-server", "backend-server", "database-server")
    world.with_a_cluster(*names)
    world.put(keys.members("backend"), Members(service="backend", members=names, since=NOW, reason="test"))
    found = world.answer("status")
    assert found["healthy"] is False
    cluster = found["services"]["backend"]["cluster"]
    assert (cluster["members"], cluster["replaced"]) == (dict.fromkeys(names, "healthy"), "messaging-server")
    shown = world.orch("status").stdout
    assert "database-server healthy (the spare, in the place of messaging-server)\n" in shown


def test_members_that_nobody_can_tell_are_shown_as_that(world: World) -> None:
    world.with_a_cluster()
    world.put(keys.members("backend"), b"{")
    found = world.answer("status")
    assert (found["healthy"], found["services"]["backend"]["cluster"]["members"]) == (False, None)
    assert keys.members("backend") in {row["key"] for row in found["unreadable"]}
    assert "members of backend: nobody can tell: orch/services/backend/members cannot be read" in (
        world.orch("status").stdout
    )


def test_a_fleet_is_not_healthy_without_a_leader(world: World) -> None:
    session = world.get(keys.LEADER).session  # type: ignore[union-attr]
    world.port().session_destroy(str(session))
    found = world.answer("status")
    assert (found["healthy"], found["leader"]) == (False, None)


def test_a_fleet_without_a_policy_is_readable_and_not_healthy() -> None:
    result = World().orch("status")
    assert (result.exit_code, result.stdout.splitlines()[-1]) == (
        0,
        "there is no policy yet; write one with `orch config apply FILE`.",
    )


def test_an_invalid_policy_is_named_by_its_first_fault(world: World) -> None:
    world.put(keys.CONFIG, b"version: 1\nvms: {}\n")
    assert "the policy in orch/config is not valid: vms:" in world.orch("status").stdout


def test_watching_piped_prints_each_new_state_once(world: World) -> None:
    def pause() -> None:
        world.put(keys.PAUSED, Paused(by="ana@desk", at=NOW))

    def end() -> None:
        raise KeyboardInterrupt

    world.steps = [lambda: None, pause, lambda: None, end]
    result = world.orch("--json", "status", "--watch")
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert [answer["paused"] is None for answer in answers] == [True, False]
    assert result.exit_code == 0


def test_watching_on_a_terminal_redraws_until_interrupted(world: World) -> None:
    def end() -> None:
        raise KeyboardInterrupt

    world.on_terminal = True
    world.steps = [lambda: None, end]
    assert world.orch("status", "--watch").exit_code == 0
