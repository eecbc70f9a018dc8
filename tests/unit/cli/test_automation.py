"""`orch pause`, `resume`, `maintenance`."""

from __future__ import annotations

from orchestrator.domain import keys
from orchestrator.domain.records import Maintenance, Paused
from tests.unit.cli.world import NOW, World


def test_a_pause_is_kept_with_who_and_why_until_resume(world: World) -> None:
    assert world.orch("pause", "--reason", "kernel update").exit_code == 0
    pair = world.get(keys.PAUSED)
    assert pair is not None
    assert Paused.from_json(pair.value) == Paused(by="ana@desk", at=NOW, reason="kernel update")
    assert world.orch("resume").stdout == "automation goes on.\n"
    assert world.get(keys.PAUSED) is None


def test_a_second_pause_leaves_the_first_as_it_is(world: World) -> None:
    world.put(keys.PAUSED, Paused(by="bob@desk", at=NOW - 60))
    assert world.orch("pause").stdout == "automation is paused already, for 1 min by bob@desk.\n"
    assert world.answer("status")["paused"]["by"] == "bob@desk"


def test_a_pause_that_cannot_be_read_is_written_anew(world: World) -> None:
    world.put(keys.PAUSED, b"yes")
    assert world.orch("pause").exit_code == 0
    assert world.answer("status")["paused"]["by"] == "ana@desk"


def test_resuming_what_is_not_paused_is_said_and_no_error(world: World) -> None:
    result = world.orch("resume")
    assert (result.exit_code, result.stdout) == (0, "automation was not paused.\n")


def test_maintenance_is_kept_until_it_is_off(world: World) -> None:
    assert world.orch("maintenance", "on", "database-server", "--reason", "disk").exit_code == 0
    pair = world.get(keys.maintenance("database-server"))
    assert pair is not None
    assert Maintenance.from_json(pair.value) == Maintenance(by="ana@desk", at=NOW, reason="disk")
    assert world.orch("maintenance", "off", "database-server").exit_code == 0
    assert world.get(keys.maintenance("database-server")) is None


def test_maintenance_of_a_vm_with_active_services_says_how_to_move_them(world: World) -> None:
    result = world.orch("maintenance", "on", "backend-server")
    assert result.stderr == (
        "orch: backend is active on backend-server and stays there; `orch failover backend` moves it away.\n"
    )


def test_maintenance_of_an_unknown_vm_is_refused(world: World) -> None:
    assert [world.orch("maintenance", switch, "mars").exit_code for switch in ("on", "off")] == [3, 3]


def test_maintenance_off_where_there_is_none_is_said_and_no_error(world: World) -> None:
    result = world.orch("maintenance", "off", "backend-server")
    assert (result.exit_code, result.stdout) == (0, "backend-server was not in maintenance.\n")
