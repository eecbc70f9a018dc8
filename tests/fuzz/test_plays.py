"""Whatever ansible-runner says of a play: the play goes on, and its command gets its result."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.domain import keys
from orchestrator.domain.records import Command, CommandState
from orchestrator.execute.play import Ended, Order, PlayEnded, PlayEvent, Running, TaskStarted
from orchestrator.worker_steps import ALIVE_CHECK, Seen, Worker
from tests.fakes.fake_consul import PASSING, FakeConsul
from tests.fakes.fake_plays import SENDERS, FakeMailbox, FakePlays
from tests.fuzz.fleet import NOW, PENDING, RECORDS
from tests.fuzz.strange import bounded, nearly

WORKER = "messaging-server"
EVENT: dict[str, Any] = {
    "uuid": "7f5c",
    "counter": 3,
    "stdout": "\r\nTASK [start node-app] *****\r\n",
    "start_line": 1,
    "end_line": 3,
    "event": "playbook_on_task_start",
    "created": "2026-01-05T10:00:00.123456+00:00",
    "event_data": {"playbook": "activate_backend.yml", "task": "start node-app", "task_uuid": "0242"},
}
STARTS = ("playbook_on_task_start", "playbook_on_handler_task_start")


def said(text: bytes) -> Any:
    """Return the event as Python has it; None where JSON cannot say it."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def posted_by(events: list[Any]) -> tuple[list[PlayEvent], Running]:
    """Return what the play reports of the events."""
    posted: list[PlayEvent] = []
    running = Running(Order(PENDING, 1, "activate_backend.yml", {}, 60.0), posted.append, time.monotonic() + 60, Path())
    for event in events:
        assert running.take_event(event) is False
    return posted, running


@bounded(60)
@given(events=st.lists(nearly(EVENT).map(said), min_size=1, max_size=4))
def test_the_command_gets_its_result_whatever_its_play_says(events: list[Any]) -> None:
    posted, running = posted_by(events)
    consul = FakeConsul([WORKER])
    consul.set_check(WORKER, ALIVE_CHECK, PASSING)
    for key in (keys.assignment("frontend"), keys.command(PENDING)):
        consul.port(WORKER).kv_put(key, RECORDS[key].to_json().encode())
    worker = Worker(consul.port(WORKER), FakePlays(), FakeMailbox(), WORKER, SENDERS, lambda: NOW)

    def cycle() -> Command:
        worker.cycle(Seen(consul.peek_list(keys.ROOT), None, True), consul.now)
        consul.now += 1
        pair = consul.peek(keys.command(PENDING))
        assert pair is not None
        return Command.from_json(pair.value)

    cycle()
    assert cycle().state is CommandState.RUNNING
    for event in posted:
        worker.take_play_event(event)
    cycle()
    worker.take_play_event(PlayEnded(PENDING, 1, Ended.EXITED, 2, tuple(running.tail)))
    done = cycle()
    assert done.state is CommandState.FAILED
    assert done.reason


@bounded(60)
@given(event=nearly(EVENT).map(said))
def test_a_task_that_begins_is_told_of_whatever_else_the_event_holds(event: Any) -> None:
    posted, _ = posted_by([event])
    begins = isinstance(event, dict) and event.get("event") in STARTS
    assert len(posted) == (1 if begins else 0)
    for each in posted:
        assert isinstance(each, TaskStarted)
        assert math.isfinite(each.at)
        each.task.encode()
