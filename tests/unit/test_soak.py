"""When a soak is well."""

from __future__ import annotations

from deploy.trials.soak import Judged, is_well


def judged(faults: int = 1, **found: list[str]) -> Judged:
    return Judged("a round", 1.0, [{}] * faults, **found)


def test_a_soak_is_well_when_as_many_faults_as_asked_for_were_done_and_nothing_was_lost() -> None:
    assert is_well([judged(), judged(2)], 3)
    assert not is_well([judged(), judged(2)], 4), "it ended early"
    assert not is_well([], 1)


def test_one_loss_in_any_round_is_enough() -> None:
    assert not is_well([judged(losses=["1 listings were acknowledged and are lost: k1"]), judged(2)], 3)


def test_a_fleet_that_did_not_come_back_is_not_well_either() -> None:
    assert not is_well([judged(troubles=["it did not settle"]), judged(2)], 3)
