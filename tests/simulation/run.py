"""One seed: faults for a while, then everything is healed and must come to rest as it should be."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from tests.simulation.checker import Violated
from tests.simulation.faults import Faults
from tests.simulation.world import Parts, World

FAULTS_BEGIN_S = 8.0
FAULTS_END_S = 45.0
SETTLED_WITHIN_S = 120.0
LOOKS = 3
LOOK_EVERY_S = 2.0


@dataclass(frozen=True, slots=True)
class Result:
    """What one seed came to."""

    seed: int
    violated: str | None
    """The invariant that did not hold, in one sentence."""
    trace: tuple[str, ...]
    steps: int
    virtual_s: float


def run_seed(seed: int, parts: Parts | None = None, on_note: Callable[[str], None] | None = None) -> Result:
    """Run the seed to its end."""
    logging.disable(logging.CRITICAL)
    world = World(seed, parts or Parts(), on_note=on_note)
    violated = None
    try:
        _run(world)
    except Violated as violation:
        violated = str(violation)
    except Exception as bug:
        where = traceback.extract_tb(bug.__traceback__)[-1]
        violated = f"{type(bug).__name__} in {where.filename}:{where.lineno}: {bug}"
        if on_note is not None:
            traceback.print_exc()
    finally:
        logging.disable(logging.NOTSET)
    trace = tuple(f"{at:8.3f}  {what}" for at, what in world.trace)
    return Result(seed, violated, trace, world.engine.steps, world.engine.now)


def _run(world: World) -> None:
    faults = Faults(world)
    begin = world.engine.between(0.5, FAULTS_BEGIN_S)
    end = world.engine.between(begin + 5.0, FAULTS_END_S)
    faults.scatter(begin, end)
    faults.change_playbooks(begin, end)
    world.run_until(end)
    faults.heal()
    world.run_until(end + 6.0)
    good = 0
    while good < LOOKS:
        complaint = world.complaint()
        good = good + 1 if complaint is None else 0
        if complaint is not None and world.engine.now > end + SETTLED_WITHIN_S:
            raise Violated(f"{SETTLED_WITHIN_S:g} s after everything was healed, {complaint}")
        if good < LOOKS:
            world.run_until(world.engine.now + LOOK_EVERY_S)
