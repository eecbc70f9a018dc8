"""Durations as Consul writes them (Go's: 250ms, 1.5s, 1m30s), so that they can be compared."""

from __future__ import annotations

import re

_UNIT_S = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(h|ms|m|s|us|µs|ns)")


def duration_s(duration: str) -> float:
    """Return the duration in seconds; raises ValueError with a sentence where it is none."""
    text = str(duration)
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{text!r} is no duration: a number with its unit, such as 250ms, 1.5s or 1m30s")
    return sum(float(number) * _UNIT_S[unit] for number, unit in parts)


class FilterModule:
    """Ansible's way of finding the filter."""

    def filters(self):
        return {"duration_s": duration_s}
