"""GTID positions as MariaDB writes them ("0-1-7,1-2-9"): how much of one is in another. No I/O."""

from __future__ import annotations

LAST_SEQUENCE = 2**64 - 1


def holds(position: str, wanted: str) -> bool:
    """Say whether a copy at `position` has all that is in `wanted`. Both are GTID positions ("0-1-7,1-2-9").

    By sequence number per domain: true only where the copy has not diverged, which gtid_strict_mode sees to.
    Raises ValueError for a text that is no GTID position.
    """
    here = sequence_by_domain(position)
    return all(here.get(domain, 0) >= sequence for domain, sequence in sequence_by_domain(wanted).items())


def behind_by(position: str, wanted: str) -> int:
    """Return how many transactions of `wanted` a copy at `position` has not; raises ValueError as `holds` does."""
    here = sequence_by_domain(position)
    return sum(max(0, sequence - here.get(domain, 0)) for domain, sequence in sequence_by_domain(wanted).items())


def lacking(position: str, last: str) -> int | None:
    """Return how many of the transactions up to `last`, where the whole copy ended, a copy at `position` has not.

    None where that cannot be told: one of the two is no position, or this copy has what the whole one never had.
    """
    try:
        number = behind_by(position, last)
        has_gone_its_own_way = not holds(last, position) or (number == 0 and _gtids(position) != _gtids(last))
    except ValueError:
        return None
    return None if has_gone_its_own_way else number


def behind_at_least(position: str, reported: str) -> int | None:
    """Return how many of the transactions up to `reported` a copy at `position` has not; None where one is no position.

    Unlike `lacking`, where the one that reported has gone on since, and the copy may be ahead of the report.
    """
    try:
        number = behind_by(position, reported)
    except ValueError:
        return None
    return number if number <= LAST_SEQUENCE else None


def _gtids(position: str) -> set[str]:
    return {gtid.strip() for gtid in position.split(",")}


def sequence_by_domain(position: str) -> dict[int, int]:
    """Read a GTID position; raises ValueError."""
    found: dict[int, int] = {}
    for gtid in filter(None, (part.strip() for part in position.split(","))):
        try:
            domain, _, sequence = (int(number) for number in gtid.split("-"))
        except ValueError:
            raise ValueError(f"{position!r} is no GTID position") from None
        found[domain] = max(sequence, found.get(domain, 0))
    return found
