"""`.venv/bin/python -m tests.simulation --seeds 2000 --jobs 2`, or `--seed N --trace` to see one of them."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from multiprocessing import Pool

from tests.simulation.planted import BUGS
from tests.simulation.run import Result, run_seed

COMMAND = ".venv/bin/python -m tests.simulation"


def main() -> int:
    """Run the seeds; 1 when one of them shows that an invariant does not hold."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="how many seeds")
    parser.add_argument("--first", type=int, default=1, help="the first of them")
    parser.add_argument("--jobs", type=int, default=2, help="how many processes")
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--trace", action="store_true", help="print what happens in it")
    parser.add_argument("--planted", choices=BUGS, metavar="BUG", help="with --seed: with one of the planted bugs")
    chosen = parser.parse_args()
    if chosen.seed is not None:
        parts = BUGS[chosen.planted][0] if chosen.planted else None
        result = run_seed(chosen.seed, parts, on_note=print if chosen.trace else None)
        print(report(result, chosen.planted))
        return 1 if result.violated else 0
    return _run_many(range(chosen.first, chosen.first + chosen.seeds), chosen.jobs)


def _run_many(seeds: range, jobs: int) -> int:
    began = time.monotonic()
    failed, steps = 0, 0
    with Pool(jobs) as pool:
        for result in pool.imap_unordered(run_seed, seeds, chunksize=5):
            steps += result.steps
            if result.violated:
                failed += 1
                print(report(result), flush=True)
    took_s = time.monotonic() - began
    print(f"{len(seeds)} seeds, {failed} failed, {steps} events, {took_s:.0f} s, {len(seeds) / took_s:.1f} seeds/s")
    return 1 if failed else 0


def report(result: Result, planted: str | None = None) -> str:
    """Return what is worth knowing about the result; `planted`: the bug that the seed was run with."""
    if result.violated is None:
        return f"seed {result.seed}: all invariants held ({result.virtual_s:.0f} s virtual, {result.steps} events)"
    bug = f" --planted {shlex.quote(planted)}" if planted else ""
    return "\n".join(
        (
            f"seed {result.seed}: {result.violated}",
            *(f"    {line}" for line in result.trace[-25:]),
            f"  replay it with: {COMMAND} --seed {result.seed} --trace{bug}",
        )
    )


if __name__ == "__main__":
    sys.exit(main())
