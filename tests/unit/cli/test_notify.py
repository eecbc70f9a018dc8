"""`orch notify test`: one sample, and an honest answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result

from tests.unit.cli.world import World

TEMPLATES = Path(__file__).resolve().parents[3] / "templates"
PAGER = {"name": "pager", "kind": "command", "command": ["/bin/sh", "-c", "cat > /dev/null"]}


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """Local settings that say where the templates are."""
    file = tmp_path / "orch.json"
    file.write_text(json.dumps({"templates_dir": str(TEMPLATES)}))
    return file


def tried(world: World, settings: Path, *words: str) -> Result:
    return world.orch("notify", "test", *words, settings_file=settings)


def test_a_sample_that_was_delivered_is_exit_0(world: World, settings: Path, tmp_path: Path) -> None:
    told = tmp_path / "told"
    world.with_a_sink(PAGER | {"command": ["/bin/sh", "-c", f'cat > {told}; echo "$ORCH_IS_SAMPLE" >> {told}']})
    result = tried(world, settings, "pager")
    assert (result.exit_code, result.stdout) == (
        0,
        "the sample was delivered to pager: the command ended with exit status 0.\n",
    )
    assert told.read_text().startswith("A sample that ana@desk asked for: nothing has happened.\n")
    assert told.read_text().endswith("\n1\n")


def test_a_sample_that_was_not_delivered_is_exit_4_and_says_why(world: World, settings: Path) -> None:
    world.with_a_sink(PAGER | {"command": ["/bin/sh", "-c", "cat > /dev/null; echo no modem >&2; exit 3"]})
    result = tried(world, settings, "pager")
    assert result.exit_code == 4
    why = "the sample was not delivered to pager: the command ended with exit status 3: no modem."
    assert result.stderr == f"orch: {why}\n"
    answer = json.loads(tried(world, settings, "pager", "--json").stdout)
    assert answer == {
        "exit": 4,
        "outcome": "failed",
        "reason": why,
        "sink": "pager",
        "kind": "command",
        "delivered": False,
    }


def test_a_sample_changes_nothing_in_kv(world: World, settings: Path) -> None:
    world.with_a_sink(PAGER)
    before = world.consul.peek_list("orch/")
    assert tried(world, settings, "pager").exit_code == 0
    assert world.consul.peek_list("orch/") == before


def test_a_sink_that_the_policy_does_not_name_is_refused_with_those_that_it_does(world: World, settings: Path) -> None:
    assert "it has none" in tried(world, settings, "mail").stderr
    world.with_a_sink(PAGER)
    result = tried(world, settings, "mail")
    assert (result.exit_code, result.stderr) == (
        3,
        "orch: refused: mail is not a sink of the policy in force; its sinks are pager.\n",
    )
