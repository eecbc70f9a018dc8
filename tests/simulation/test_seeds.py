"""Thousands of fleets under random faults, each of which must keep every invariant and come to rest.

`ORCH_SEEDS=100 pytest tests/simulation` runs fewer (not in CI), `pytest -n auto` on all cores,
`.venv/bin/python -m tests.simulation` without pytest. A failing seed says how to replay it.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.simulation.__main__ import report
from tests.simulation.planted import BUGS
from tests.simulation.run import run_seed

CHECKOUT = Path(__file__).parents[2]
ENOUGH = 2000


def seeds_wanted(environ: Mapping[str, str]) -> int:
    """Return how many seeds to run; ValueError where CI would run fewer than what its success stands for."""
    seeds = int(environ.get("ORCH_SEEDS") or ENOUGH)
    if environ.get("CI") and seeds < ENOUGH:
        raise ValueError(f"ORCH_SEEDS={seeds}: in CI {ENOUGH} seeds are the fewest")
    return seeds


SEEDS = seeds_wanted(os.environ)
CHUNK = 25
FIRSTS = range(1, SEEDS + 1, CHUNK)


@pytest.mark.parametrize("first", FIRSTS)
def test_every_invariant_holds_whatever_befalls_the_fleet(first: int) -> None:
    results = (run_seed(seed) for seed in range(first, min(first + CHUNK, SEEDS + 1)))
    reports = [report(result) for result in results if result.violated]
    assert not reports, "\n".join(reports)


def test_a_seed_is_the_same_fleet_every_time() -> None:
    assert run_seed(7) == run_seed(7)


def test_fewer_seeds_than_enough_are_run_only_where_it_is_not_ci() -> None:
    assert seeds_wanted({}) == ENOUGH
    assert seeds_wanted({"ORCH_SEEDS": "100"}) == 100
    assert seeds_wanted({"CI": "true", "ORCH_SEEDS": "3000"}) == 3000
    with pytest.raises(ValueError, match="in CI 2000 seeds are the fewest"):
        seeds_wanted({"CI": "true", "ORCH_SEEDS": "1999"})


def test_the_command_that_a_failing_seed_prints_replays_it() -> None:
    bug = "traffic before the lock"
    parts, _, first = BUGS[bug]
    found = next(result for result in (run_seed(seed, parts) for seed in range(first, first + 100)) if result.violated)
    line = report(found, bug).splitlines()[-1]
    command = shlex.split(line.partition("replay it with: ")[2])
    done = subprocess.run(command, check=False, cwd=CHECKOUT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert f"seed {found.seed}: {found.violated}" in done.stdout.splitlines()
    assert all(note.strip() in done.stdout for note in found.trace)
