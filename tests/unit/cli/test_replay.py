"""`orch replay`: recorded inputs through today's decide()."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cli.policy_file import policy_of
from orchestrator.domain.decision import Memory
from orchestrator.domain.policy import Policy
from orchestrator.recorder import Inputs, line_of
from tests.unit.cli.world import NOW, POLICY, World

ROOT = Path(__file__).parents[3]


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


def test_one_cycle_is_counted_as_one(world: World, tmp_path: Path, line: str) -> None:
    file = tmp_path / "decisions.jsonl"
    file.write_text(f"{line}\n", encoding="utf-8")
    assert world.orch("replay", str(file)).stdout.splitlines()[-1] == "1 cycle, all as recorded."


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("kv", [[5, 1, None, "x"]], "kv.0.0: should be a valid string"),
        ("kv", [5], "kv.0: should be a valid array"),
        ("kv", [["k", 1, None, {"base64": "x"}]], "a value in it is none that it writes"),
        ("now", 1e300, "now: should be less than or equal to 253402300799"),
        ("now", -1, "now: should be greater than or equal to 0"),
        ("policy", {}, "policy.vms: Field required"),
        ("memory", {}, "a value in it is none that it writes"),
        ("outcome", None, "outcome: should be an object"),
    ],
)
def test_a_line_with_a_strange_value_is_exit_8_with_the_place(
    world: World, tmp_path: Path, line: str, field: str, value: object, problem: str
) -> None:
    file = tmp_path / "decisions.jsonl"
    file.write_text(json.dumps(json.loads(line) | {field: value}), encoding="utf-8")
    result = world.orch("replay", str(file))
    assert result.exit_code == 8
    assert result.stderr.startswith(f"orch: {file}: line 1: this is not a line of the recorder: {problem}")


@pytest.mark.parametrize("bad", [b"nothing", b'{"now": "\xff"}', b"[" * 100_000])
def test_a_line_that_is_no_recording_is_exit_8_with_its_number(
    world: World, tmp_path: Path, line: str, bad: bytes
) -> None:
    file = tmp_path / "decisions.jsonl"
    file.write_bytes(line.encode() + b"\n" + bad + b"\n")
    result = world.orch("replay", str(file))
    assert (result.exit_code, result.stderr) == (
        8,
        f"orch: {file}: line 2: this is not a line of the recorder: it is not JSON\n",
    )


@pytest.mark.parametrize("text", ["", "\n\n"])
def test_where_there_is_nothing_to_replay_that_is_exit_8(world: World, tmp_path: Path, text: str) -> None:
    file = tmp_path / "decisions.jsonl"
    file.write_text(text, encoding="utf-8")
    result = world.orch("replay", str(file))
    assert (result.exit_code, result.stderr) == (8, f"orch: {file}: there is nothing to replay in it.\n")


def test_a_file_that_is_not_there_is_exit_8(world: World, tmp_path: Path) -> None:
    result = world.orch("replay", f"{tmp_path}/none")
    assert (result.exit_code, result.stderr) == (
        8,
        f"orch: {tmp_path}/none cannot be read: no such file or directory.\n",
    )


def test_a_reader_that_has_seen_enough_ends_it_quietly(tmp_path: Path, line: str) -> None:
    file = tmp_path / "decisions.jsonl"
    # Far more than a pipe holds: it is still writing when the reader goes.
    file.write_text(f"{line}\n" * 2000, encoding="utf-8")
    argv = [sys.executable, "-m", "orchestrator.cli.main", "replay", str(file)]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    assert (process.wait(), said) == (141, "")
