"""What ansible-runner says of a play, as the worker takes it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator.execute.play import Order, PlayEvent, Running, TaskStarted, event_time
from tests.unit.execute.build import a_command


def taken(**changes: Any) -> tuple[list[PlayEvent], Running]:
    """Return what is posted of an event, and the play."""
    posted: list[PlayEvent] = []
    running = Running(Order("c", 1, "p.yml", {}, 60.0), posted.append, time.monotonic() + 60, Path())
    event = {"event": "playbook_on_task_start", "created": "2026-01-05T10:00:00+00:00", "stdout": "", **changes}
    running.take_event(event)
    return posted, running


def test_output_that_is_no_text_gets_into_the_commands_record() -> None:
    posted, running = taken(stdout="fatal: \udcff", event_data={"task": "half \ud800"})
    assert isinstance(posted[0], TaskStarted)
    record = a_command(task=posted[0].task, tail=tuple(running.tail)).to_json()
    assert "half \\\\ud800" in record
    assert "fatal: \\\\udcff" in record


@pytest.mark.parametrize("event_data", [None, True, "start node-app", ["task"], {"task": None}])
def test_a_task_without_a_name_begins_all_the_same(event_data: Any) -> None:
    posted, _ = taken(event_data=event_data)
    assert [event.task for event in posted if isinstance(event, TaskStarted)] == [""]


@pytest.mark.parametrize("created", ["0001-01-01T00:00:00", "0001-01-01T00:00:00+00:00", "soon", None])
def test_a_time_that_no_record_takes_is_now(created: Any) -> None:
    before = time.time()
    assert before <= event_time({"created": created}) <= time.time()
