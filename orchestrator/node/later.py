"""PURE: what a rule of the guard's yields when it is too early for a duty."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.node import duties as do


@dataclass(frozen=True, slots=True)
class Later:
    """Nothing to do yet; ask again at `at` (monotonic)."""

    at: float


Found = Iterator[do.Duty | Later]
"""What a rule comes to."""
