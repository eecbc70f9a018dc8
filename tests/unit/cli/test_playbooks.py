"""`orch playbooks`: which playbooks the workers have, what is released, and where to copy it from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.cli.playbooks import source_of
from orchestrator.domain import keys
from orchestrator.domain.records import Release
from orchestrator.execute.releases import digest_of
from orchestrator.execute.sync import why_failed
from tests.unit.cli.world import World

ONE, OTHER = "d1" * 32, "d2" * 32


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """The settings of a worker's VM with playbooks of its own."""
    (tmp_path / "ansible").mkdir()
    (tmp_path / "ansible" / "ansible.cfg").write_text("[defaults]\n")
    file = tmp_path / "orch.json"
    fields = {"vm": "frontend-server", "amqp": {"hosts": ["10.0.0.21"]}, "ansible_dir": str(tmp_path / "ansible")}
    file.write_text(json.dumps(fields | {"ssh_key_file": str(tmp_path / "key")}))
    return file


def test_workers_with_the_released_playbooks_are_in_sync(world: World) -> None:
    world.with_playbooks(ONE)
    result = world.orch("playbooks", "status")
    assert (result.exit_code, result.stdout) == (
        0,
        "released: d1d1d1d1d1d1, 1 h 1 min ago by ana@desk (orch 0.1.0)\n\n"
        "WORKER            CURRENT       WHICH ARE\n"
        "frontend-server   d1d1d1d1d1d1  the released ones\n"
        "messaging-server  d1d1d1d1d1d1  the released ones\n",
    )


def test_a_worker_with_other_playbooks_is_told_and_exit_4(world: World) -> None:
    world.with_playbooks(ONE, messaging_server=OTHER)
    result = world.orch("playbooks", "status", "--json")
    told = json.loads(result.stdout)
    assert (result.exit_code, told["in_sync"], told["release"]["digest"]) == (4, False, ONE)
    assert told["workers"]["messaging-server"]["current"] == OTHER
    assert not told["workers"]["messaging-server"]["has_release"]
    assert "messaging-server  d2d2d2d2d2d2  NOT the released ones" in world.orch("playbooks", "status").stdout


def test_nothing_released_and_nothing_told_is_not_in_sync(world: World) -> None:
    result = world.orch("playbooks", "status")
    assert result.exit_code == 4
    assert "no playbooks were released yet" in result.stdout
    assert "unknown" in result.stdout


def test_a_release_is_what_this_vm_has_and_written_once(world: World, settings: Path, tmp_path: Path) -> None:
    first = world.orch("playbooks", "release", settings_file=settings)
    assert (first.exit_code, "are released." in first.stdout) == (0, True)
    pair = world.get(keys.RELEASE)
    assert pair is not None
    record = Release.from_json(pair.value)
    assert (record.digest, record.by) == (digest_of(tmp_path), "ana@desk")
    assert "were released already" in world.orch("playbooks", "release", settings_file=settings).stdout
    assert world.get(keys.RELEASE) == pair
    (tmp_path / "ansible" / "ansible.cfg").write_text("[defaults]\nforks = 2\n")
    assert "are released." in world.orch("playbooks", "release", settings_file=settings).stdout


def test_playbooks_that_cannot_be_read_are_not_released(world: World, settings: Path, tmp_path: Path) -> None:
    (tmp_path / "ansible" / "ansible.cfg").unlink()
    (tmp_path / "ansible").rmdir()
    assert world.orch("playbooks", "release", settings_file=settings).exit_code == 3
    assert world.get(keys.RELEASE) is None


def test_a_vm_without_the_release_is_nowhere_to_copy_from(world: World, settings: Path) -> None:
    world.with_playbooks(ONE, frontend_server=OTHER)
    result = world.orch("playbooks", "sync", settings_file=settings)
    assert result.exit_code == 3
    assert "frontend-server has not the released playbooks d1d1d1d1d1d1; run it on messaging-server" in result.stderr
    world.with_playbooks(ONE, frontend_server=OTHER, messaging_server=OTHER)
    assert "no worker has them: run site.yml" in world.orch("playbooks", "sync", settings_file=settings).stderr


def test_nothing_is_copied_before_anything_was_released(world: World, settings: Path) -> None:
    assert "no playbooks were released yet" in world.orch("playbooks", "sync", settings_file=settings).stderr


def test_whoever_may_not_read_the_key_is_told_who_may(world: World, settings: Path, tmp_path: Path) -> None:
    world.with_playbooks(digest_of(tmp_path))
    result = world.orch("playbooks", "sync", settings_file=settings)
    assert result.exit_code == 3
    assert "run it as root" in result.stderr


def test_the_timer_copies_on_one_vm_only(world: World, settings: Path, tmp_path: Path) -> None:
    world.with_playbooks(digest_of(tmp_path))
    result = world.orch("playbooks", "sync", "--if-source", settings_file=settings)
    assert (result.exit_code, result.stdout) == (0, "nothing to do here: messaging-server does it.\n")


@pytest.mark.parametrize(
    ("leader", "having", "source"),
    [
        ("messaging-server", ("frontend-server", "messaging-server"), "messaging-server"),
        ("messaging-server", ("frontend-server",), "frontend-server"),
        (None, ("frontend-server", "messaging-server"), "frontend-server"),
        ("messaging-server", (), None),
    ],
)
def test_the_leaders_vm_is_copied_from_unless_it_lacks_the_release(
    leader: str | None, having: tuple[str, ...], source: str | None
) -> None:
    assert source_of(leader, having) == source


@pytest.mark.parametrize(
    ("output", "why"),
    [
        ("TASK [x]\nfatal: [a]: FAILED! =>\n    changed: false\n    msg: no room\n\nPLAY RECAP\n", "no room"),
        ('fatal: [a]: UNREACHABLE! => {"changed": false, "msg": "Connection timed out"}\n', "Connection timed out"),
        (
            "fatal: [a]: FAILED! =>\n    msg: 'Task failed: no room,\n      none at all'\n    rc: 1\n",
            "no room, none at all",
        ),
        ("ERROR! no such play\n", "ERROR! no such play"),
        ("", "the play said nothing"),
    ],
)
def test_of_a_failed_copy_the_plays_own_words_are_told(output: str, why: str) -> None:
    assert why_failed(output) == why
