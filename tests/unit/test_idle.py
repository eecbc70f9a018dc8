"""What the daemons cost while nothing happens."""

from __future__ import annotations

import os

from deploy.trials.idle import SSH, WARM_SERVER, Process, costs_of, cpu_ticks, memory_kb, part_of

TICKS = os.sysconf("SC_CLK_TCK")


def test_a_process_is_named_by_what_it_runs() -> None:
    warm = ["/opt/orch/venv/bin/python3", "-I", "-m", "orchestrator.execute.warm_server", "/run/warm"]
    assert part_of("worker", warm) == WARM_SERVER
    assert part_of("worker", ["/usr/bin/ssh", "-N"]) == SSH
    assert part_of("worker", ["/opt/orch/venv/bin/python3", "/usr/local/bin/orch", "worker"]) == "worker"


def test_memory_is_read_by_name() -> None:
    rollup = "5581-7ffc ---p 00000000 00:00 0    [rollup]\nRss:               44144 kB\nPss:               28698 kB\n"
    assert memory_kb(rollup) == {"Rss": 44144, "Pss": 28698}


def test_a_name_with_spaces_and_parentheses_does_not_shift_the_fields() -> None:
    stat = "42 (orch) guard)) S 1 42 42 0 -1 4194560 9 9 0 0 127 21 3 4 20 0 1 0 100 0 0"
    assert cpu_ticks(stat) == 127 + 21 + 3 + 4


def test_processor_time_counts_from_the_first_look_and_a_new_process_in_full() -> None:
    before = {1: Process("worker", 1024, 512, 1000), 2: Process(SSH, 1024, 512, 50)}
    after = {
        1: Process("worker", 51200, 40960, 1000 + TICKS),
        3: Process(SSH, 2048, 1024, TICKS // 2),
        4: Process(SSH, 2048, 1024, 0),
    }
    costs = {cost.part: cost for cost in costs_of("vm", before, after, took_s=100.0)}
    assert (costs["worker"].rss_mb, costs["worker"].pss_mb, costs["worker"].cpu_percent) == (50.0, 40.0, 1.0)
    assert (costs[SSH].rss_mb, costs[SSH].cpu_percent, costs[SSH].processes) == (4.0, 0.5, 2)
