"""What the worker's steps note as they go, for whoever counts it; nothing in a step depends on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class ClaimTried:
    """A command was to be claimed."""

    outcome: Literal["won", "lost", "unknown"]


@dataclass(frozen=True, slots=True)
class PlayOver:
    """A play that this worker began is off its hands."""

    playbook: str
    outcome: str
    """The final state of the command; `released` to another worker; or `dropped`, since it is another's by now."""
    took_s: float
    """Since the claim."""


@dataclass(frozen=True, slots=True)
class MessageTaken:
    """The broker delivered a message."""

    outcome: Literal["command", "request", "rejected"]


Noted = ClaimTried | PlayOver | MessageTaken


def ignore(noted: Noted) -> None:
    """Be the one who counts nothing."""
