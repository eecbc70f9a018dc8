"""Waiting for what another process does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

WAIT_S = 60.0
"""For anything; only a test that fails takes as long."""
_LOOK_EVERY_S = 0.02

Found = TypeVar("Found")


def wait_for(look: Callable[[], Found], what: str) -> Found:
    """Look again and again; return the first thing found that counts as true, or fail with `what` was awaited."""
    deadline = time.monotonic() + WAIT_S
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {WAIT_S:g} s: {what}"
        time.sleep(_LOOK_EVERY_S)
    return found
