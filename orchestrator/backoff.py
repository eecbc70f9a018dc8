"""How long to wait before the next try, said in one way: a tenacity `wait_*` strategy, whoever does the waiting.

A thread that has nothing else to do repeats by `retry_until_stopped`. A loop that must not sleep (the guard's rounds,
the worker's cycle) asks `pause_s` when to come round again. A lost compare-and-set is repeated by
`store.records.retry_lost`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_when_event_set, wait_chain, wait_fixed
from tenacity.nap import sleep_using_event
from tenacity.wait import wait_base

T = TypeVar("T")

_RETRYING = Retrying()


def pauses(*each_s: float) -> wait_base:
    """Return the pauses after one failure, two, ...; the last one goes on."""
    return wait_chain(*(wait_fixed(pause) for pause in each_s))


def pause_s(wait: wait_base, failures: int = 1) -> float:
    """Return how long to wait after so many failures in a row."""
    state = RetryCallState(_RETRYING, None, (), {})
    state.attempt_number = failures
    return wait(state)


def retry_until_stopped(
    call: Callable[[], T],
    stop: threading.Event,
    *,
    on: type[Exception] | tuple[type[Exception], ...],
    wait: wait_base,
    failed: Callable[[RetryCallState], None] | None = None,
) -> T | None:
    """Make the call until it raises none of `on`; return its answer, None after a stop.

    The stop ends a pause at once, and nothing is tried after it (by itself tenacity would try once more). `failed` is
    told before each pause, see `error_of`.
    """
    retries = Retrying(
        retry=retry_if_exception_type(on),
        wait=wait,
        stop=stop_when_event_set(stop),
        sleep=sleep_using_event(stop),
        before_sleep=failed,
        retry_error_callback=lambda state: None,
    )
    answer: T | None = retries(lambda: None if stop.is_set() else call())
    return answer


def error_of(state: RetryCallState) -> BaseException | None:
    """Return what the last try raised."""
    return state.outcome.exception() if state.outcome else None
