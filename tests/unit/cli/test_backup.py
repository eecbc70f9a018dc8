"""`orch backup`: whose turn it is, what is kept, and what going back is refused for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result

from orchestrator.backup.kept import Backup, Kind, Shelf, backup_id
from orchestrator.domain import keys
from orchestrator.domain.records import LockValue
from tests.unit.cli.world import NOW, World

CONSUL = backup_id(Kind.CONSUL, NOW)


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """Local settings of messaging-server, which keeps one backup of Consul."""
    file = tmp_path / "orch.json"
    kept = tmp_path / "kept"
    document = {"vm": "messaging-server", "amqp": {"hosts": ["10.0.0.21"]}, "backups": {"directory": str(kept)}}
    file.write_text(json.dumps(document))
    Shelf(kept).begin(Kind.CONSUL, NOW)
    Shelf(kept).complete(Backup(id=CONSUL, kind=Kind.CONSUL, vm="messaging-server", at=NOW, size=2048, proof="read"))
    return file


def backup(world: World, settings: Path, *words: str) -> Result:
    return world.orch("backup", *words, settings_file=settings)


def test_where_it_is_another_vms_turn_nothing_is_done(world: World, settings: Path) -> None:
    world.put(keys.LEADER, LockValue(vm="frontend-server", epoch=0))
    done = backup(world, settings, "make", "consul")
    assert (done.exit_code, done.stdout) == (
        0,
        "nothing to do here: frontend-server makes the backup of Consul, since its controller leads.\n",
    )
    assert json.loads(backup(world, settings, "make", "consul", "--json").stdout)["vm"] == "frontend-server"


def test_a_fleet_without_a_database_has_none_to_back_up(world: World, settings: Path) -> None:
    done = backup(world, settings, "make", "database")
    assert done.exit_code == 3
    assert "the database has no assignment that can be read; --here makes" in done.stderr


def test_the_list_says_what_there_is(world: World, settings: Path) -> None:
    assert [line.split()[:2] for line in backup(world, settings, "list").stdout.splitlines()] == [
        ["BACKUP", "OF"],
        [CONSUL, "messaging-server"],
    ]
    (listed,) = json.loads(backup(world, settings, "list", "--json").stdout)
    assert (listed["id"], listed["size"]) == (CONSUL, 2048)


@pytest.mark.parametrize(
    ("is_paused", "words", "said"),
    [
        (False, (CONSUL, "--yes"), "automation is not paused, and would move services meanwhile; `orch pause` before"),
        (True, (CONSUL,), "what came after 2023-11-14 22:13:20 UTC would be lost from Consul; say --yes."),
        (True, ("consul-1",), f"this VM keeps no backup consul-1; it has {CONSUL}."),
    ],
)
def test_going_back_is_refused(
    world: World, settings: Path, is_paused: bool, words: tuple[str, ...], said: str
) -> None:
    if is_paused:
        assert world.orch("pause").exit_code == 0
    done = backup(world, settings, "restore", *words)
    assert done.exit_code == 3
    assert said in done.stderr


def test_where_consul_holds_nothing_any_more_only_the_word_is_asked_for(settings: Path) -> None:
    done = backup(World(), settings, "restore", CONSUL)
    assert done.exit_code == 3
    assert "say --yes" in done.stderr


def test_outside_the_fleet_it_says_where_it_belongs(world: World, tmp_path: Path) -> None:
    done = backup(world, tmp_path / "none.json", "list")
    assert done.exit_code == 8
    assert "`orch backup` is for the VMs of the fleet" in done.stderr
