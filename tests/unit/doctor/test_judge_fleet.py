"""What Consul and the brokers know is judged."""

from __future__ import annotations

import json

import pytest

from orchestrator.cli.app import App
from orchestrator.doctor.facts import QueueFacts
from orchestrator.doctor.judge_fleet import judge_checks, judge_playbooks, judge_queues, judge_view
from orchestrator.domain import keys
from orchestrator.domain.records import Maintenance, Paused, Sync
from tests.fakes.fake_consul import CRITICAL, WARNING
from tests.unit.cli.world import NOW, POLICY, World
from tests.unit.doctor.build import answered, seen, told


def of_view(world: World) -> list[str]:
    fleet = seen(world)
    diagnoses = App().decide(fleet.view, fleet.memory, fleet.policy, fleet.at).diagnoses
    return told(judge_view(fleet.view, fleet.policy, fleet.leader, diagnoses))


def of_checks(world: World) -> list[str]:
    return told(judge_checks(seen(world).checks))


def test_of_a_fleet_that_is_well_nothing_is_said() -> None:
    world = World().founded()
    assert (of_view(world), of_checks(world)) == ([], [])


def test_a_vm_that_gossip_does_not_reach_is_one_error_of_its_own() -> None:
    world = World().founded()
    world.kill_vm("database-server")
    assert "error database-server: gossip does not reach it" in of_view(world)
    assert of_checks(world) == []


def test_each_check_that_does_not_pass_is_told_with_what_it_says() -> None:
    world = World().founded()
    world.consul.set_check("backend-server", keys.daemon_check_id("guard"), CRITICAL, "connection\nrefused")
    world.consul.set_check("backend-server", keys.LOAD_CHECK, WARNING, "load 4.0 per core")
    assert of_checks(world) == [
        "warning backend-server: the check load is warning: load 4.0 per core",
        "error backend-server: the check orch-guard:alive is critical: connection refused",
    ]


def test_a_service_that_is_not_served_is_an_error_and_its_diagnosis_says_why() -> None:
    world = World().founded()
    world.fail("backend", "backend-server")
    said = of_view(world)
    assert "error backend: it is not served" in said
    assert any(line.startswith("warning backend: ") and "backend-server" in line for line in said)


def test_a_pause_and_a_maintenance_are_told_of() -> None:
    world = World().founded()
    world.put(keys.PAUSED, Paused(by="ana@desk", at=NOW, reason="network work"))
    world.put(keys.maintenance("database-server"), Maintenance(by="ana@desk", at=NOW))
    said = of_view(world)
    assert "warning fleet: automation is paused by ana@desk: network work" in said
    assert "warning database-server: it is in maintenance (ana@desk)" in said


def test_a_fleet_without_a_leader_or_with_a_key_that_cannot_be_read_is_an_error() -> None:
    world = World().founded()
    world.put(keys.maintenance("database-server"), b"{")
    world.port().kv_delete(keys.LEADER)
    said = of_view(world)
    assert "error fleet: no controller leads" in said
    assert any(line.startswith("error fleet: orch/maintenance/database-server cannot be read") for line in said)


def test_a_copy_that_is_not_in_sync_is_an_error() -> None:
    world = World().founded()
    replicated = POLICY["services"]["backend"] | {"standby": "hot", "replication": {"kind": "mariadb"}}
    policy = POLICY | {"services": POLICY["services"] | {"backend": replicated}}
    world.put(keys.CONFIG, json.dumps(policy).encode())
    assert "unknown backend: could not find out: which copies are whole is not recorded" in of_view(world)
    sync = Sync(
        service="backend", primary="backend-server", epoch=1, complete=("backend-server",), since=NOW, reason="test"
    )
    world.put(keys.sync("backend"), sync)
    (line,) = [line for line in of_view(world) if line.startswith("error backend: the copy")]
    assert line.startswith("error backend: the copy on messaging-server is not in sync")
    world.put(keys.sync("backend"), sync.with_(complete=("backend-server", "messaging-server")))
    assert not [line for line in of_view(world) if "copy" in line and "error" in line]


@pytest.mark.parametrize(
    ("current", "kept", "line"),
    [
        ("d1" * 32, ("d1" * 32,), ""),
        (
            "d2" * 32,
            ("d2" * 32,),
            "error messaging-server: its playbooks are d2d2d2d2d2d2, released are d1d1d1d1d1d1: "
            "its worker refuses commands",
        ),
        (
            "d2" * 32,
            ("d1" * 32, "d2" * 32),
            "warning messaging-server: its playbooks are d2d2d2d2d2d2, released are d1d1d1d1d1d1: "
            "commands are run with the released ones, plays by hand are not",
        ),
        (
            None,
            (),
            "error messaging-server: its playbooks are not to be read, released are d1d1d1d1d1d1: "
            "its worker refuses commands",
        ),
    ],
)
def test_a_workers_playbooks_are_the_released_ones(current: str | None, kept: tuple[str, ...], line: str) -> None:
    world = World().founded()
    world.with_playbooks("d1" * 32)
    fleet = seen(world)
    asked = answered("messaging-server", playbooks=current, releases=kept) | answered("backend-server")
    assert "; ".join(told(judge_playbooks(asked, fleet.view, fleet.policy))) == line


def test_playbooks_that_were_never_released_are_told_of() -> None:
    fleet = seen(World().founded())
    (line,) = told(judge_playbooks(answered("messaging-server"), fleet.view, fleet.policy))
    assert line == "warning fleet: no playbooks were released, so workers run whichever they have"


def test_dead_letters_and_a_queue_that_grows_are_told_of() -> None:
    assert told(judge_queues(QueueFacts(waiting=0, dead=0))) == []
    assert told(judge_queues(QueueFacts(waiting=3, dead=1))) == [
        "warning queue: 1 message(s) in failover_commands.dead that no worker could read"
    ]
    assert told(judge_queues(QueueFacts(waiting=21, dead=0))) == [
        "warning queue: 21 commands wait in failover_commands"
    ]


def test_queues_that_no_broker_tells_of_are_not_empty() -> None:
    assert told(judge_queues(QueueFacts(problem="10.0.0.21: connection refused"))) == [
        "unknown queue: could not find out: no broker tells: 10.0.0.21: connection refused"
    ]
