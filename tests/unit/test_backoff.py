"""Pauses between tries, whoever waits for them."""

from __future__ import annotations

import threading

import pytest
from tenacity import RetryCallState, wait_exponential, wait_fixed

from orchestrator.backoff import error_of, pause_s, pauses, retry_until_stopped


def test_a_pause_is_what_the_strategy_says_for_so_many_failures() -> None:
    assert [pause_s(pauses(0.1, 0.2, 1.0), failures) for failures in (1, 2, 3, 4, 99)] == [0.1, 0.2, 1.0, 1.0, 1.0]
    assert [pause_s(wait_exponential(multiplier=1, max=15), failures) for failures in (1, 2, 5, 99)] == [1, 2, 15, 15]


def test_a_call_is_repeated_until_it_succeeds_and_each_failure_is_told() -> None:
    answers: list[int | Exception] = [OSError("one"), OSError("two"), 3]
    told: list[tuple[int, str, float]] = []

    def ask() -> int:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def failed(state: RetryCallState) -> None:
        told.append((state.attempt_number, str(error_of(state)), state.upcoming_sleep))

    wait = pauses(0.001, 0.002)
    assert retry_until_stopped(ask, threading.Event(), on=OSError, wait=wait, failed=failed) == 3
    assert told == [(1, "one", 0.001), (2, "two", 0.002)]


def test_a_stop_ends_the_pause_and_nothing_is_tried_after_it() -> None:
    stop = threading.Event()
    tries: list[str] = []

    def fail() -> int:
        tries.append("tried")
        raise OSError

    def failed(state: RetryCallState) -> None:
        stop.set()

    assert retry_until_stopped(fail, stop, on=OSError, wait=wait_fixed(3600), failed=failed) is None
    assert tries == ["tried"]


def test_what_is_not_expected_is_not_repeated() -> None:
    def fail() -> int:
        raise KeyError

    with pytest.raises(KeyError):
        retry_until_stopped(fail, threading.Event(), on=OSError, wait=wait_fixed(3600))
