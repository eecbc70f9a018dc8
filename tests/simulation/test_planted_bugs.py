"""The simulation fails when it should: each planted bug is found within some seeds, for the right reason."""

from __future__ import annotations

import pytest

from tests.simulation.planted import BUGS
from tests.simulation.run import run_seed

# Most are found within ten; two workers with one command need faults that meet in about one seed of some hundred.
SEEDS = 1000


@pytest.mark.parametrize("name", BUGS)
def test_the_simulation_finds(name: str) -> None:
    parts, words, first = BUGS[name]
    found = (run_seed(seed, parts).violated for seed in range(first, first + SEEDS))
    assert any(violated is not None and words in violated for violated in found), f"{name} was not found"
