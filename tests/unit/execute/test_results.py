"""What a play came to."""

from __future__ import annotations

import pytest

from orchestrator.domain.records import CommandState
from orchestrator.execute.choice import Stop
from orchestrator.execute.play import Ended, PlayEnded
from orchestrator.execute.results import PROGRESS_EVERY_S, Progress, Result, failure_line, result_of


def ended(how: Ended = Ended.EXITED, rc: int | None = 0, problem: str = "", tail: tuple[str, ...] = ()) -> PlayEnded:
    return PlayEnded("c1", 1, how, rc, tail, problem)


SUPERSEDED = Stop("c1", CommandState.SUPERSEDED, "Epoch 7 is superseded by 8.")


@pytest.mark.parametrize(
    ("play", "stop", "expected"),
    [
        (ended(), None, Result(CommandState.SUCCEEDED, "The play ran to its end.")),
        (
            ended(rc=4, tail=("fatal: [vm]: UNREACHABLE! => no route",)),
            None,
            Result(CommandState.FAILED, "The play failed with exit status 4: fatal: [vm]: UNREACHABLE! => no route"),
        ),
        (
            ended(Ended.TIMED_OUT, 254),
            None,
            Result(CommandState.FAILED, "The play did not end within 300 s and was killed."),
        ),
        (
            ended(Ended.NOT_RUN, None, "there is no playbook x.yml"),
            None,
            Result(CommandState.FAILED, "The play could not be run: there is no playbook x.yml."),
        ),
        (ended(Ended.CANCELLED, 254), SUPERSEDED, Result(CommandState.SUPERSEDED, SUPERSEDED.sentence)),
        (ended(), SUPERSEDED, Result(CommandState.SUPERSEDED, SUPERSEDED.sentence)),
        (ended(Ended.CANCELLED, 254), Stop("c1", None, "The session was lost."), None),
    ],
)
def test_result(play: PlayEnded, stop: Stop | None, expected: Result | None) -> None:
    assert result_of(play, stop, 300.0) == expected


@pytest.mark.parametrize(
    ("tail", "line"),
    [
        ((), "it said nothing"),
        (("PLAY [x] ***", "something odd"), "something odd"),
        (("fatal: [a]: FAILED! => one", "a : ok=0 unreachable=0 failed=1"), "fatal: [a]: FAILED! => one"),
        (("a : ok=1 unreachable=0 failed=0",), "a : ok=1 unreachable=0 failed=0"),
        (("fatal: " + "x" * 500,), "fatal: " + "x" * 293),
    ],
)
def test_the_line_that_says_most(tail: tuple[str, ...], line: str) -> None:
    assert failure_line(tail) == line


def test_the_first_task_is_due_at_once_and_the_next_only_after_a_while() -> None:
    progress = Progress()
    assert not progress.is_due(10.0)
    progress.note("one", 1.0)
    assert progress.is_due(10.0)
    progress.note_written(10.0)
    assert not progress.is_due(20.0)
    progress.note("two", 2.0)
    assert [progress.is_due(10.0 + after) for after in (0.0, PROGRESS_EVERY_S)] == [False, True]
    assert progress.first_task == 1.0
