"""Which step of a failover took how long."""

from __future__ import annotations

from deploy.trials.timeline import Step, first_task_after_s, kv_below, steps_of

COLD = {"times": {"detected": 10.0, "decided": 10.5, "locked": 13.0, "endpoints": 13.5}}
PLAY = {"claimed": 11.0, "first_task": 12.0, "finished": 13.25}


def test_the_shares_of_a_cold_failover_add_up_to_the_time_until_served() -> None:
    steps = steps_of(COLD, PLAY, rendered=14.0, served=15.0, fault_at=9.0)
    shares = {step.name: step.share_s for step in steps if step.share_s is not None}
    assert shares == {
        "detected": 1.0,
        "decided": 0.5,
        "dispatched": 0.5,
        "play started": 1.0,
        "lock held": 1.0,
        "endpoints": 0.5,
        "rendered": 0.5,
        "served": 1.0,
    }
    assert sum(shares.values()) == 15.0 - 9.0


def test_the_end_of_the_play_has_its_time_and_no_share() -> None:
    steps = steps_of(COLD, PLAY, rendered=14.0, served=15.0, fault_at=9.0)
    assert [step for step in steps if step.name == "play done"] == [Step("play done", 4.25, None)]
    assert [step.name for step in steps].index("play done") == [step.name for step in steps].index("lock held") + 1


def test_a_play_that_follows_the_traffic_of_a_hot_standby_has_no_share() -> None:
    late = {"claimed": 13.75, "first_task": 14.5, "finished": 16.0}
    steps = steps_of(COLD, late, rendered=13.75, served=14.0, fault_at=9.0)
    assert [step.name for step in steps if step.share_s is None] == ["dispatched", "play started", "play done"]
    assert sum(step.share_s for step in steps if step.share_s is not None) == 14.0 - 9.0


def test_nothing_that_came_after_the_client_was_served_has_a_share() -> None:
    steps = steps_of(COLD, PLAY, rendered=14.0, served=9.25, fault_at=9.0)
    assert [step.name for step in steps if step.share_s is not None] == ["served"]


def test_a_file_that_was_rendered_before_the_fault_is_no_step() -> None:
    steps = steps_of(COLD, PLAY, rendered=3.0, served=15.0, fault_at=9.0)
    assert "rendered" not in [step.name for step in steps]


def test_from_decision_to_first_task_is_known_only_where_both_are() -> None:
    assert first_task_after_s(COLD, PLAY) == 1.5
    assert first_task_after_s(COLD, {}) is None
    assert first_task_after_s({}, PLAY) is None


def test_a_part_of_the_values_is_found_by_its_prefix() -> None:
    assert kv_below({"orch/commands/a": 1, "orch/requests/a": 2}, "orch/commands/") == {"orch/commands/a": 1}
