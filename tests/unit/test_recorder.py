"""The recorder: what it keeps is replayed to the same decisions, and a full disk stops nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.domain import keys
from orchestrator.domain.decision import Memory
from orchestrator.domain.records import Assignment, MoveKind
from orchestrator.recorder import Inputs, Recorder, inputs_of, line_of, replay
from tests.unit.observe.fleet import POLICY, instance_check, node_check, pair

NOW = 1_700_000_000.0
ASSIGNED = Assignment(
    service="backend",
    active="backend-server",
    designated="backend-server",
    epoch=4,
    since=NOW - 100,
    kind=MoveKind.FAILBACK,
    reason="test",
)


def a_failure() -> Inputs:
    """The active instance fails its check; the other VM is up."""
    return Inputs(
        now=NOW,
        pairs=(pair(keys.assignment("backend"), ASSIGNED), pair("orch/paused-not", b"\xff\xfe")),
        checks=(
            node_check("backend-server", keys.SERF_HEALTH),
            node_check("messaging-server", keys.SERF_HEALTH),
            node_check("messaging-server", keys.daemon_check_id("guard")),
            instance_check("backend-server", "unit", "critical", "node-app failed"),
        ),
        policy=POLICY,
        memory=Memory(
            last_good={"backend": ASSIGNED},
            lacking_since={("backend", "a"): NOW - 1},
            away_since={("backend", "b"): NOW - 2},
            back_since={("backend", "c"): NOW - 3},
        ),
        observed_at=NOW - 0.01,
    )


def test_a_line_holds_everything_that_the_decision_was_made_of() -> None:
    inputs = a_failure()
    outcome = inputs.decided()
    assert [made.code for made in outcome.decisions] == ["failover"]
    read, recorded = inputs_of(line_of(inputs, outcome))
    assert read.memory == inputs.memory
    assert read.decided() == outcome
    assert recorded["sentence"] == outcome.sentence


def test_a_recorded_file_is_replayed_to_what_was_decided(tmp_path: Path) -> None:
    recorder, inputs = Recorder(tmp_path), a_failure()
    recorder.write(inputs, inputs.decided())
    (cycle,) = replay(recorder.path)
    assert cycle.agrees


def test_a_replay_says_where_today_differs(tmp_path: Path) -> None:
    inputs = a_failure()
    fields = json.loads(line_of(inputs, inputs.decided()))
    fields["outcome"]["sentence"] = "Something else was decided."
    (tmp_path / "lines").write_text(json.dumps(fields) + "\n")
    (cycle,) = replay(tmp_path / "lines")
    assert not cycle.agrees


@pytest.mark.parametrize("line", ["", "{}", "[]", "null", '{"now": 1}', "\x00"])
def test_a_file_that_is_none_of_the_recorders_is_refused_with_its_line(tmp_path: Path, line: str) -> None:
    (tmp_path / "lines").write_text("\n" + line + " x\n")
    with pytest.raises(ValueError, match="line 2: this is not a line of the recorder"):
        list(replay(tmp_path / "lines"))


def test_cycles_that_repeat_and_come_to_nothing_are_left_out(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    quiet = replace(a_failure(), checks=())
    nothing = replace(quiet.decided(), decisions=())
    recorder.write(quiet, nothing)
    recorder.write(replace(quiet, now=NOW + 1), nothing)
    assert len(recorder.path.read_text().splitlines()) == 1


def test_a_check_that_passes_and_says_something_else_is_no_line_of_its_own(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    for said in ("1.25 per core", "1.26 per core"):
        quiet = replace(a_failure(), checks=(node_check("backend-server", keys.LOAD_CHECK, output=said),))
        recorder.write(quiet, replace(quiet.decided(), decisions=()))
    assert len(recorder.path.read_text().splitlines()) == 1


def test_the_ring_never_holds_more_than_two_segments(tmp_path: Path) -> None:
    inputs = a_failure()
    line = line_of(inputs, inputs.decided())
    recorder = Recorder(tmp_path, segment_bytes=3 * len(line))
    for second in range(20):
        later = replace(inputs, now=NOW + second)
        recorder.write(later, later.decided())
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 7 * len(line)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_that_cannot_be_written_stops_no_decision(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    recorder, inputs = Recorder(tmp_path / "file" / "recorder"), a_failure()
    recorder.write(inputs, inputs.decided())
    assert recorder.dropped == 1
