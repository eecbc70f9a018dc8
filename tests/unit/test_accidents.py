"""What the trials with a second fault read from the records."""

from __future__ import annotations

import base64
import json
from typing import Any

from deploy.trials.accidents import any_since, running_play, trouble_with_the_play, values_in

FAULT_AT = 100.0
KILLED = {"killed": "one", "killed_after_s": 2.0}


def command(**changes: Any) -> dict[str, Any]:
    whole = {"created": 101.0, "play": "activate", "state": "running", "worker": "one", "first_task": 101.5}
    return {**whole, "claimed": 101.2, "task": "Start it", **changes}


def finished(**changes: Any) -> dict[str, Any]:
    return command(**{"state": "succeeded", "worker": "two", "claimed": 103.0, **changes})


def test_an_assignment_made_before_the_fault_is_not_its_decision() -> None:
    assert not any_since({"a": {"since": 99.0}}, FAULT_AT)
    assert any_since({"a": {"since": 100.5}}, FAULT_AT)


def test_a_play_is_in_its_middle_once_its_first_task_runs() -> None:
    assert running_play({"a": command()}, FAULT_AT) == command()
    assert running_play({"a": command(first_task=None)}, FAULT_AT) is None
    assert running_play({"a": command(created=50.0)}, FAULT_AT) is None
    assert running_play({"a": command(play="deactivate")}, FAULT_AT) is None


def test_a_play_that_another_worker_finished_after_the_kill_is_as_asked() -> None:
    assert trouble_with_the_play({"a": finished(), "b": finished(created=50.0)}, FAULT_AT, KILLED) == []


def test_two_runs_that_succeeded_are_trouble() -> None:
    assert trouble_with_the_play({"a": finished(), "b": finished()}, FAULT_AT, KILLED) == [
        "activate commands ended as ['succeeded', 'succeeded'], not as one that succeeded"
    ]


def test_a_play_that_the_killed_worker_finished_is_trouble() -> None:
    assert trouble_with_the_play({"a": finished(worker="one")}, FAULT_AT, KILLED) == [
        "one finished the play although it was killed"
    ]


def test_a_play_that_was_taken_over_before_the_kill_is_trouble() -> None:
    assert trouble_with_the_play({"a": finished(claimed=101.9)}, FAULT_AT, KILLED) == [
        "the play was taken over before its first run had ended"
    ]


def test_an_answer_of_consul_is_read_with_its_index_and_without_what_is_no_json() -> None:
    def row(key: str, text: str) -> dict[str, str]:
        return {"Key": key, "Value": base64.b64encode(text.encode()).decode()}

    body = json.dumps([row("a", '{"since": 1}'), row("b", "no json")])
    answer = f"HTTP/1.1 200 OK\r\nX-Consul-Index: 17\r\nContent-Length: 9\r\n\r\n{body}"
    assert values_in(answer) == ("17", {"a": {"since": 1}})


def test_an_answer_for_a_prefix_without_keys_is_empty() -> None:
    assert values_in("HTTP/1.1 404 Not Found\r\nX-Consul-Index: 5\r\n\r\n") == ("5", {})
