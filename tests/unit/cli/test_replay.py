"""`orch replay`: recorded inputs through today's decide()."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.cli.policy_file import policy_of
from orchestrator.domain.decision import Memory
from orchestrator.domain.policy import Policy
from orchestrator.recorder import Inputs, line_of
from tests.unit.cli.world import NOW, POLICY, World


@pytest.fixture
def line(world: World) -> str:
    """One recorded cycle of the fleet."""
    policy = policy_of(json.dumps(POLICY))
    assert isinstance(policy, Policy)
    inputs = Inputs(NOW, world.consul.peek_list("orch/"), world.port().checks()[1], policy, Memory())
    return line_of(inputs, inputs.decided())


def test_cycles_that_come_out_as_recorded_are_exit_0(world: World, tmp_path: Path, line: str) -> None:
    file = tmp_path / "decisions.jsonl"
    file.write_text(f"{line}\n{line}\n", encoding="utf-8")
    result = world.orch("replay", str(file))
    assert (result.exit_code, result.stdout.splitlines()[-1]) == (0, "2 cycles, all as recorded.")
    assert json.loads(line)["outcome"]["sentence"] in result.stdout.splitlines()[0]


def test_a_cycle_that_comes_out_differently_is_exit_4_and_shown_beside_the_record(
    world: World, tmp_path: Path, line: str
) -> None:
    changed = json.loads(line)
    changed["outcome"]["sentence"] = "Nobody knows."
    file = tmp_path / "decisions.jsonl"
    file.write_text(f"{line}\n{json.dumps(changed)}\n", encoding="utf-8")
    result = world.orch("replay", "--quiet", str(file))
    assert (result.exit_code, result.stderr) == (4, "orch: 1 of 2 outcomes differ from the recorded ones.\n")
    assert "sentence was recorded as Nobody knows." in result.stdout


def test_replay_in_json_is_one_document(world: World, tmp_path: Path, line: str) -> None:
    file = tmp_path / "decisions.jsonl"
    file.write_text(f"{line}\n", encoding="utf-8")
    found = world.answer("replay", str(file))
    assert (found["total"], found["differing"], found["cycles"][0]["agrees"]) == (1, 0, True)


def test_replay_asks_no_consul(world: World, tmp_path: Path, line: str) -> None:
    file = tmp_path / "decisions.jsonl"
    file.write_text(f"{line}\n", encoding="utf-8")
    world.consul.set_stopped("messaging-server", True)
    assert world.orch("replay", str(file)).exit_code == 0


def test_a_line_that_is_no_recording_is_exit_8_with_its_number(world: World, tmp_path: Path, line: str) -> None:
    file = tmp_path / "decisions.jsonl"
    file.write_text(f"{line}\nnothing\n", encoding="utf-8")
    result = world.orch("replay", str(file))
    assert result.exit_code == 8
    assert "line 2: this is not a line of the recorder" in result.stderr
