"""What the bench says of its runs."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from deploy.trials.asked import ASKED, BACKEND_KILLED, Asked
from deploy.trials.idle import WARM_NAME, WARM_SERVER, use_between
from deploy.trials.outage import Outage
from deploy.trials.report import faults_table, first_task_of, others_table, row_of, shares_of, shares_table
from deploy.trials.timeline import Step
from deploy.trials.trial import Result

KILLED = next(asked for asked in ASKED if asked.trial.name == BACKEND_KILLED)


def ran(seconds: float, *steps: Step, **notes: object) -> Result:
    return Result(
        BACKEND_KILLED, Outage(seconds, failed=int(seconds * 50), total=500, served_at=1.0), list(steps), notes
    )


def test_a_row_holds_the_median_and_every_run() -> None:
    row = row_of(KILLED, [ran(1.0), ran(3.0), ran(1.2)], [])
    assert (row["median_s"], row["max_s"], row["runs"], row["ok"]) == (1.2, 3.0, 3, True)
    assert row["outages_s"] == [1.0, 3.0, 1.2]


@pytest.mark.parametrize(
    ("results", "broken"),
    [([ran(3.6)], []), ([ran(1.0)], ["it did not come back"]), ([], [])],
    ids=["too slow", "a run that did not end", "no run"],
)
def test_what_is_not_reached_or_not_measured_is_not_ok(results: list[Result], broken: list[str]) -> None:
    assert row_of(KILLED, results, broken)["ok"] is False


def test_what_is_asked_on_top_of_another_fault_counts_from_its_median() -> None:
    asked = Asked(KILLED.trial, "cold", 3.0, on_top_of=BACKEND_KILLED)
    assert row_of(asked, [ran(4.0)], [], base_s=1.2)["must_s"] == 4.2
    assert row_of(asked, [ran(4.3)], [], base_s=1.2)["ok"] is False
    assert row_of(asked, [ran(4.3)], [])["must_s"] is None, "without that fault's median nothing can be asked"


def test_every_row_on_top_of_another_comes_after_it() -> None:
    names = [asked.trial.name for asked in ASKED]
    for asked in ASKED:
        if asked.on_top_of is not None:
            assert names.index(asked.on_top_of) < names.index(asked.trial.name)


def test_shares_stand_in_the_order_in_which_the_steps_happen() -> None:
    one = ran(1.0, Step("detected", 0.1, 0.1), Step("served", 0.9, 0.8), Step("play done", 1.0, 0.1))
    two = ran(1.0, Step("detected", 0.3, 0.3), Step("served", 0.9, 0.6), Step("play done", 1.2, 0.3))
    assert list(shares_of([one, two]).items()) == [("detected", 0.2), ("served", 0.7), ("play done", 0.2)]


def test_the_first_task_counts_first_attempts_only() -> None:
    first, second = ran(1.0, to_first_task_s=0.3, attempt=1), ran(1.0, to_first_task_s=5.0, attempt=2)
    row = row_of(KILLED, [first, second, ran(1.0)], [])
    assert first_task_of([row]) == {"must_s": 0.7, "median_s": 0.3, "max_s": 0.3, "runs": 1, "ok": True}


def test_the_warm_ansible_is_named_apart_and_children_count_with_their_daemon() -> None:
    def at(ticks: int) -> dict[str, list[dict[str, object]]]:
        child = {"pid": 2, "name": "ssh", "rss_kb": 1024, "pss_kb": 512, "ticks": ticks}
        warm = {"pid": 3, "name": WARM_SERVER, "rss_kb": 4096, "pss_kb": 2048, "ticks": 7}
        return {"orch-worker": [{**child, "pid": 1, "name": "orch"}, child, warm]}

    used = use_between(at(10), at(40), seconds=60.0, ticks_per_s=100)
    assert used == {"orch-worker": (2.0, 1.0, pytest.approx(1.0)), WARM_NAME: (4.0, 2.0, 0.0)}


def test_a_process_that_began_in_between_has_used_nothing_that_is_known() -> None:
    new = {"pid": 9, "name": "orch", "rss_kb": 1024, "pss_kb": 1024, "ticks": 500}
    assert use_between({}, {"orch-guard": [new]}, 60.0, 100)["orch-guard"] == (1.0, 1.0, 0.0)


def test_the_tables_show_everything_and_what_was_missed() -> None:
    missed = ran(4.0, Step("detected", 0.5, 0.5))
    report = {
        "planned": [{"name": "rotation of backend", "failed": 1, "total": 1000, "slowest_s": 0.2}],
        "first_task": {"must_s": 0.7, "median_s": None, "max_s": None, "runs": 0, "ok": False},
        "idle": [{"daemon": "orch-guard", "resident_mb": 43.0, "proportional_mb": 30.0, "cpu_percent": 1.5}],
        "decide": [{"vms": 1000, "instances": 10000, "well_ms": 60.0, "hurt_ms": 90.0}],
    }
    console = Console(width=200, record=True, file=io.StringIO())
    rows = [row_of(KILLED, [missed], [])]
    console.print(faults_table(rows))
    console.print(shares_table(rows))
    console.print(others_table(report))
    told = console.export_text()
    assert "backend killed, cold" in told
    assert "0.50" in told
    assert told.count("no") >= 3
    assert "1000 VMs, 10000 instances" in told
