"""What the doctor says: findings, each with what to do about it. PURE."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum


class Severity(str, Enum):
    """How bad it is; in the order in which findings are shown."""

    ERROR = "error"
    """Something does not work, or will not when it is needed."""
    UNKNOWN = "unknown"
    """It could not be found out, which is not the same as being well."""
    WARNING = "warning"
    """Everything works, and something beside it is not as it should be."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong."""

    severity: Severity
    subject: str
    """What it is about: a VM, a service, `fleet`."""
    wrong: str
    """What is wrong, as a clause without a full stop."""
    todo: str
    """What to do about it, as a sentence or a command."""


_ORDER = {severity: place for place, severity in enumerate(Severity)}


def error(subject: str, wrong: str, todo: str) -> Finding:
    """Return what does not work."""
    return Finding(Severity.ERROR, subject, wrong, todo)


def warning(subject: str, wrong: str, todo: str) -> Finding:
    """Return what is not as it should be."""
    return Finding(Severity.WARNING, subject, wrong, todo)


def unknown(subject: str, wrong: str, todo: str) -> Finding:
    """Return what could not be found out."""
    return Finding(Severity.UNKNOWN, subject, f"could not find out: {wrong}", todo)


def sorted_findings(found: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return them without doubles, the worst first, those of one subject together."""
    return tuple(sorted(dict.fromkeys(found), key=lambda one: (_ORDER[one.severity], one.subject, one.wrong)))
