"""How long a row of measurements will still take."""

from __future__ import annotations

from deploy.trials.pace import Pace


def test_before_the_first_one_the_estimate_is_what_was_expected() -> None:
    assert Pace(600.0, 10).describe() == "1 of 10, about 10 min left"


def test_a_row_that_takes_twice_as_long_as_expected_goes_on_doing_so() -> None:
    pace = Pace(100.0, 10)
    pace.note(expected_s=10.0, took_s=20.0)
    assert (pace.left_s(), pace.describe()) == (180.0, "2 of 10, about 3 min left")


def test_the_last_minutes_are_told_in_seconds() -> None:
    pace = Pace(100.0, 2)
    pace.note(50.0, 50.0)
    assert pace.describe() == "2 of 2, about 50 s left"
