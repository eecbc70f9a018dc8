"""The bench's rows and what they say of what was asked."""

from __future__ import annotations

from deploy.trials.idle import SSH, WARM_SERVER, Cost
from deploy.trials.outage import Outage
from deploy.trials.planned import Counted
from deploy.trials.report import (
    Asked,
    Row,
    all_back_row,
    decide_rows,
    first_task_row,
    idle_rows,
    number,
    outage_row,
    pause_row,
    planned_row,
    report_table,
    returned_row,
    shares_table,
)
from deploy.trials.timeline import Step
from deploy.trials.trial import Result


def result(seconds: float, *steps: Step, first_task_s: float | None = None, troubles: tuple[str, ...] = ()) -> Result:
    return Result("trial", Outage(seconds, 1, 10, 5.0), list(steps), first_task_s, troubles=troubles)


def row(asked: Asked, *seconds: float, base: float | None = None, failures: tuple[str, ...] = ()) -> Row:
    return outage_row("trial", asked, [result(each) for each in seconds], failures, base)


def test_the_median_is_held_against_what_is_asked_and_not_the_largest() -> None:
    found = row(Asked(3.5, 3.4), 1.0, 3.4, 9.0)
    assert (found.median, found.largest, found.verdict) == (3.4, 9.0, True)
    assert row(Asked(3.5), 1.0, 3.6, 9.0).verdict is False


def test_what_may_come_on_top_of_another_trial_is_judged_only_where_that_was_measured() -> None:
    asked = Asked(2.0, over="other")
    assert (row(asked, 3.0).asked, row(asked, 3.0).verdict) == ("+2 s", None)
    assert (row(asked, 3.0, base=1.25).asked, row(asked, 3.0, base=1.25).verdict) == ("1.25 + 2 s", True)
    assert row(asked, 3.5, base=1.25).verdict is False


def test_where_no_number_is_asked_only_trouble_is_not_ok() -> None:
    assert row(Asked(), 60.0).verdict is True
    troubled = outage_row("trial", Asked(), [result(1.0, troubles=("it ran twice",))], (), None)
    assert (troubled.verdict, troubled.troubles) == (False, ("it ran twice",))


def test_a_run_without_a_result_is_not_ok_however_quick_the_others_were() -> None:
    assert row(Asked(3.5), 1.0, failures=("never served again",)).verdict is False
    assert row(Asked(3.5), failures=("never served again",)).verdict is False


def test_nothing_measured_is_no_verdict() -> None:
    assert row(Asked(3.5)).verdict is None


def test_steps_that_nobody_waited_for_stand_apart_from_the_shares() -> None:
    runs = [result(1.0, Step("served", at, at), Step("play done", at + 1, None)) for at in (1.0, 2.0, 4.0)]
    found = outage_row("trial", Asked(3.5), runs, (), None)
    assert (found.shares_s, found.beside_s) == ({"served": 2.0}, {"play done": 3.0})


def test_the_first_task_is_a_median_over_the_runs_that_have_one() -> None:
    found = first_task_row([result(1.0, first_task_s=0.5), result(1.0), result(1.0, first_task_s=0.8)])
    assert (found.values, found.median, found.verdict) == ((0.5, 0.8), 0.65, True)


def test_one_failed_request_of_a_planned_move_is_not_ok() -> None:
    well, failed = Counted("rotation", 0, 1000, 0.1), Counted("rotation", 1, 1000, 0.1)
    assert planned_row("rotation", [well]).verdict is True
    assert planned_row("rotation", [well, failed]).verdict is False
    assert planned_row("rotation", [], ["it was refused"]).verdict is False


def test_a_planned_move_that_loses_a_write_is_not_ok_although_no_request_failed() -> None:
    assert planned_row("switchover", [Counted("switchover", 0, 1000, 0.1, troubles=("lost",))]).verdict is False


def test_the_median_pause_of_a_planned_move_is_held_against_what_is_asked() -> None:
    pauses = [Counted("switchover", 0, 1000, 0.1, pause_s=pause_s) for pause_s in (0.4, 0.9, 3.0)]
    assert (pause_row("switchover", 1.0, pauses).median, pause_row("switchover", 1.0, pauses).verdict) == (0.9, True)
    assert pause_row("switchover", 0.5, pauses).verdict is False


def test_of_a_vm_that_is_off_the_time_until_every_service_is_back_is_a_number_of_its_own() -> None:
    off = [
        Result("off", Outage(1.0, 0, 1, 1.0), all_back=Outage(seconds, 0, 1, seconds)) for seconds in (2.0, 9.0, 30.0)
    ]
    row = all_back_row("off", Asked(8.0), [*off, Result("off", Outage(1.0, 0, 1, 1.0))])
    assert (row.name, row.median, row.verdict) == ("off: all services back", 9.0, False)


def test_the_slowest_return_is_held_against_three_minutes_less_the_grace_that_the_bench_does_not_wait() -> None:
    def returned(*seconds: float) -> Row:
        return returned_row("off", [Result("off", Outage(1.0, 0, 1, 1.0), returned_s=each) for each in seconds])

    assert (returned(50.0, 121.0).must, returned(50.0, 121.0).verdict) == (122.0, True)
    assert returned(50.0, 123.0).verdict is False


def test_the_costliest_vm_is_held_against_what_an_idle_daemon_may_cost() -> None:
    costs = [Cost("a", "guard", 50.0, 30.0, 0.5, 1), Cost("b", "guard", 101.0, 30.0, 0.5, 1)]
    memory, cpu = idle_rows(costs)
    assert (memory.values, memory.verdict) == ((50.0, 101.0), False)
    assert (cpu.unit, cpu.verdict) == ("%", True)


def test_a_worker_with_its_children_is_summed_by_vm_in_pss() -> None:
    costs = [
        Cost(vm, part, 60.0, pss, 0.25, 1)
        for vm in ("a", "b")
        for part, pss in (("worker", 36.0), (WARM_SERVER, 40.0), (SSH, 6.0))
    ]
    memory, cpu = idle_rows(costs)[-2:]
    assert (memory.values, memory.verdict) == ((82.0, 82.0), True)
    assert cpu.values == (0.75, 0.75)


def test_only_the_size_that_was_asked_for_is_judged() -> None:
    small, large = decide_rows(
        [
            {"vms": 4, "instances": 40, "well_ms": 500.0, "hurt_ms": 600.0},
            {"vms": 1000, "instances": 10000, "well_ms": 50.0, "hurt_ms": 120.0},
        ]
    )
    assert (small.verdict, large.verdict) == (None, False)
    assert large.name == "decide(): 1,000 VMs, 10,000 instances"


def test_numbers_carry_their_units() -> None:
    assert [number(1.234, "s"), number(51.23, "MB"), number(0.0, "failed of 1000"), number(None, "s")] == [
        "1.23 s",
        "51.2 MB",
        "0 failed of 1000",
        "-",
    ]


def test_both_tables_have_a_line_for_each_row_that_belongs_there() -> None:
    rows = [outage_row("trial", Asked(3.5), [result(1.0, Step("served", 1.0, 1.0))], (), None), row(Asked(), 1.0)]
    assert (report_table(rows).row_count, shares_table(rows).row_count) == (2, 1)
