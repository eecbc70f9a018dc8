"""What positions of a database server mean."""

from __future__ import annotations

import pytest

from orchestrator.domain.gtid import behind_at_least, behind_by, holds, lacking


@pytest.mark.parametrize(
    ("here", "wanted", "has_it", "missing"),
    [
        ("", "", True, 0),
        ("0-1-5", "", True, 0),
        ("", "0-1-5", False, 5),
        ("0-1-5", "0-1-5", True, 0),
        ("0-2-7", "0-1-5", True, 0),
        ("0-1-4", "0-1-5", False, 1),
        ("0-1-9,1-1-2", "0-1-5, 1-2-3", False, 1),
    ],
)
def test_a_position_holds_another_by_sequence_in_each_domain(
    here: str, wanted: str, has_it: bool, missing: int
) -> None:
    assert (holds(here, wanted), behind_by(here, wanted)) == (has_it, missing)


def test_what_is_no_position_is_no_answer() -> None:
    with pytest.raises(ValueError, match="no GTID position"):
        holds("0-1-5", "ON")


@pytest.mark.parametrize(
    ("here", "last", "lacks"),
    [
        ("0-1-5", "0-1-5", 0),
        ("0-2-3", "0-1-5", 2),
        ("0-1-5,1-1-1", "0-1-7, 1-1-2", 3),
        ("", "0-1-5", 5),
        ("0-2-7", "0-1-5", None),
        ("0-2-5", "0-1-5", None),
        ("0-1-5,1-1-1", "0-1-7", None),
        ("0-1-5", "", None),
        ("0-1-5", "ON", None),
    ],
)
def test_what_a_copy_lacks_is_counted_unless_it_has_gone_its_own_way(here: str, last: str, lacks: int | None) -> None:
    assert lacking(here, last) == lacks


@pytest.mark.parametrize(
    ("here", "reported", "lacks"),
    [
        ("0-1-5", "0-1-9", 4),
        ("0-1-5", "0-1-5", 0),
        ("0-1-7", "0-1-5", 0),
        ("", "0-1-5", 5),
        ("0-1-5", "somewhere", None),
        ("0-1-5", "0-1-" + "9" * 4300, None),
    ],
)
def test_what_a_copy_lacks_at_least_is_counted_by_a_report_that_is_not_the_end(
    here: str, reported: str, lacks: int | None
) -> None:
    assert behind_at_least(here, reported) == lacks
