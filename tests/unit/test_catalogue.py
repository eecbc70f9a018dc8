"""The bench's list of faults fits together."""

from __future__ import annotations

from deploy.trials.catalogue import ENTRIES
from deploy.trials.trial import no_accident


def test_every_trial_has_a_name_of_its_own() -> None:
    names = [entry.trial.name for entry in ENTRIES]
    assert sorted(set(names)) == sorted(names)


def test_what_is_asked_on_top_of_another_trial_names_an_undisturbed_one_of_the_same_kind() -> None:
    plain = {entry.trial.name: entry for entry in ENTRIES if entry.trial.accident is no_accident}
    on_top = [entry for entry in ENTRIES if entry.asked.over is not None]
    assert [plain[str(entry.asked.over)].standby for entry in on_top] == [entry.standby for entry in on_top]


def test_ten_runs_of_every_fault_are_expected_to_take_less_than_two_hours_and_a_quarter() -> None:
    assert 10 * sum(entry.about_s for entry in ENTRIES) < 135 * 60
