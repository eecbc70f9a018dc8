"""What a trial does while it waits."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

from deploy.machines.places import LabError
from deploy.trials.status import wait_until


def answering(*answers: bool | Exception) -> Callable[[], bool]:
    """Return what gives these answers one after the other, and the last one for good."""
    left = list(answers)

    def ask() -> bool:
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    return ask


def test_what_cannot_be_asked_is_not_so_yet() -> None:
    wait_until("it is so", answering(LabError("no leader"), subprocess.TimeoutExpired("curl", 5), False, True), 30, 0)


def test_what_never_comes_true_says_why_it_could_not_be_asked() -> None:
    with pytest.raises(LabError, match=r"still not so that it is so \(asking failed: no leader\)"):
        wait_until("it is so", answering(False, LabError("no leader")), 0.05, 0.01)
    with pytest.raises(LabError, match=r"still not so that it is so$"):
        wait_until("it is so", answering(False), 0.05, 0.01)


def test_a_mistake_is_no_answer() -> None:
    with pytest.raises(KeyError):
        wait_until("it is so", answering(KeyError("services")), 30, 0)
