"""PURE: ids that sort by time, of requests, commands and entries of the journal. The one place for their shape."""

from __future__ import annotations


def timed_id(now: float, *parts: str) -> str:
    """Return the id of what came to be at `now`; parts that are empty are left out.

    It begins with milliseconds, in as many digits until the year 2286, by which ids sort.
    """
    return "-".join((f"{int(now * 1000):013d}", *filter(None, parts)))
