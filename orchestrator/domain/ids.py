"""PURE: ids that sort by time, of requests, commands and entries of the journal. The one place for their shape."""

from __future__ import annotations


def stamp(now: float) -> str:
    """Return the part of an id that makes ids sort by time: milliseconds, in as many digits until the year 2286."""
    return f"{int(now * 1000):013d}"


def timed_id(now: float, *parts: str) -> str:
    """Return the id of what came to be at `now`; parts that are empty are left out."""
    return "-".join((stamp(now), *filter(None, parts)))
