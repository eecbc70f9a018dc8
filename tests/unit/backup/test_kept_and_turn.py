"""Which VM makes a backup, and which backups may go."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.backup.kept import Backup, Kind, Shelf, backup_id, surplus
from orchestrator.backup.turn import turn_for_consul, turn_for_database
from orchestrator.domain.records import Assignment, MoveKind, Sync

ACTIVE, STANDBY = "database-server", "backend-server"


def assignment(epoch: int = 3) -> Assignment:
    return Assignment(
        service="database",
        active=ACTIVE,
        designated=ACTIVE,
        standbys=(STANDBY,),
        epoch=epoch,
        since=0.0,
        kind=MoveKind.INITIAL,
        reason="first assignment",
    )


def sync(*complete: str, epoch: int = 3) -> Sync:
    return Sync(service="database", primary=ACTIVE, epoch=epoch, complete=complete, since=0.0, reason="caught up")


def backup(kind: Kind, at: float) -> Backup:
    return Backup(id=backup_id(kind, at), kind=kind, vm=ACTIVE, at=at, size=1, proof="read back")


def test_a_standby_that_has_every_write_spares_the_active() -> None:
    turn = turn_for_database(assignment(), sync(ACTIVE, STANDBY), frozenset({ACTIVE, STANDBY}))
    assert turn.vm == STANDBY
    assert turn.why == "its copy of database has every acknowledged write, and serves nobody"


@pytest.mark.parametrize(
    ("record", "up"),
    [
        (None, {ACTIVE, STANDBY}),
        (sync(ACTIVE), {ACTIVE, STANDBY}),
        (sync(ACTIVE, STANDBY), {ACTIVE}),
        (sync(ACTIVE, STANDBY, epoch=2), {ACTIVE, STANDBY}),
    ],
)
def test_else_it_is_the_actives_turn(record: Sync | None, up: set[str]) -> None:
    assert turn_for_database(assignment(), record, frozenset(up)).vm == ACTIVE


def test_consuls_is_made_where_the_leader_is() -> None:
    assert turn_for_consul("messaging-server").vm == "messaging-server"


@given(st.lists(st.tuples(st.sampled_from(Kind), st.integers(0, 2_000_000_000)), unique=True), st.integers(-1, 9))
def test_of_each_kind_the_newest_stay(made: list[tuple[Kind, int]], keep: int) -> None:
    backups = [backup(kind, float(at)) for kind, at in made]
    gone = surplus(backups, keep)
    for kind in Kind:
        mine = sorted((each for each in backups if each.kind is kind), key=lambda each: each.at)
        left = [each for each in mine if each not in gone]
        assert left == mine[-max(1, keep) :]


def test_what_is_no_whole_backup_is_not_listed_and_not_deleted_by_number(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "kept")
    assert shelf.backups() == ()
    one = backup(Kind.CONSUL, 1_700_000_000.0)
    shelf.begin(one.kind, one.at)
    assert shelf.backups() == ()
    shelf.complete(one)
    (tmp_path / "kept" / "mine").mkdir()
    (tmp_path / "kept" / "mine" / "backup.json").write_text("{}")
    assert shelf.backups() == (one,)
    shelf.remove(one)
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["mine"]
