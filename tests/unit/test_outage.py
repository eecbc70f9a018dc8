"""What the client's notes say about an outage."""

from __future__ import annotations

import json

from deploy.trials.outage import Sample, is_served_again, outage_from, samples_of, servers_of


def beat(*good_at: float, bad_at: tuple[float, ...] = ()) -> list[Sample]:
    """Requests that were answered at once, well or badly."""
    return sorted(
        [Sample(at, at, True) for at in good_at] + [Sample(at, at, False, why="refused") for at in bad_at],
        key=lambda sample: sample.at,
    )


def test_the_outage_is_the_longest_silence_after_the_fault() -> None:
    outage = outage_from(beat(1.0, 1.1, 3.5, 3.6, bad_at=(1.2, 2.0)), fault_at=1.15)
    assert (round(outage.seconds, 3), outage.served_at) == (2.35, 3.5)
    assert (outage.failed, outage.total) == (2, 4)


def test_silence_before_the_fault_does_not_count() -> None:
    assert round(outage_from(beat(1.0, 9.0, 9.1), fault_at=8.95).seconds, 3) == 0.1


def test_a_service_that_never_came_back_has_no_end_of_its_outage() -> None:
    assert outage_from(beat(1.0, bad_at=(2.0, 3.0)), fault_at=1.5).served_at is None


def test_served_again_needs_an_unbroken_row_of_good_answers() -> None:
    good = [float(n) for n in range(10, 40)]
    assert is_served_again(beat(*good), 5.0)
    assert not is_served_again(beat(*good, bad_at=(39.5,)), 5.0)
    assert not is_served_again(beat(*good), 30.0)


def test_a_note_that_is_cut_off_is_left_out() -> None:
    whole = json.dumps({"at": 1.0, "end": 1.1, "ok": True, "status": 200, "by": "vm", "why": ""})
    assert samples_of([whole, whole[:20]]) == [Sample(1.0, 1.1, True, 200, "vm")]


def test_who_serves_is_told_where_it_changes_and_a_single_failure_is_not() -> None:
    rows = [("a", True), ("a", True), ("", False), ("a", True), ("", False), ("", False), ("b", True), ("b", True)]
    samples = [Sample(float(n), n + 0.5, ok, by=by) for n, (by, ok) in enumerate(rows)]
    assert servers_of(samples) == [(0.5, "a"), (4.5, None), (6.5, "b")]
