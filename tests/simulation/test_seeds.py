"""Thousands of fleets under random faults, each of which must keep every invariant and come to rest.

`ORCH_SEEDS=100 pytest tests/simulation` runs fewer, `pytest -n auto` on all cores, `python -m tests.simulation` without
pytest. A failing seed says how to replay it.
"""

from __future__ import annotations

import os

import pytest

from tests.simulation.__main__ import report
from tests.simulation.run import run_seed

SEEDS = int(os.environ.get("ORCH_SEEDS", "2000"))
CHUNK = 25
FIRSTS = range(1, SEEDS + 1, CHUNK)


@pytest.mark.parametrize("first", FIRSTS)
def test_every_invariant_holds_whatever_befalls_the_fleet(first: int) -> None:
    results = (run_seed(seed) for seed in range(first, min(first + CHUNK, SEEDS + 1)))
    reports = [report(result) for result in results if result.violated]
    assert not reports, "\n".join(reports)


def test_a_seed_is_the_same_fleet_every_time() -> None:
    assert run_seed(7) == run_seed(7)
