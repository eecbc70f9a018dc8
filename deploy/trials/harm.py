"""PURE: what the soak does to the fleet: random faults, singly and in pairs, from a seed. No two seeds alike, each the
same again."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

# (kind, whether it is done to the unit of a service): the kinds of the lab.
KINDS = (
    ("kill", True),
    ("crash", True),
    ("stop", True),
    ("poweroff", False),
    ("cut", False),
    ("freeze", False),
    ("slow", False),
)
SLOW = {"latency_ms": 40.0, "loss_percent": 1.0}
# So much longer than the loss of one VM takes to be found out and dealt with that its end is what the next one meets.
APART_S = (20.0, 30.0)
LASTS_S = (5.0, 25.0)
PAIRS = 0.4


@dataclass(frozen=True)
class Harm:
    """One fault, and how long it lasts before the next thing is done."""

    kind: str
    vm: str
    service: str | None
    lasts_s: float

    def describe(self) -> str:
        what = f"{self.kind} of {self.service} on {self.vm}" if self.service else f"{self.kind} of {self.vm}"
        return f"{what}, {self.lasts_s:.0f} s"


@dataclass(frozen=True)
class Round:
    """One fault or a pair of them, after which the fleet is mended, settles and is judged."""

    harms: tuple[Harm, ...]
    is_mended_between: bool = False
    """The first is mended as the second begins: what returns is not what it was yet. Otherwise both are in force."""

    def describe(self) -> str:
        return (", mended, then " if self.is_mended_between else ", then ").join(one.describe() for one in self.harms)


def rounds_from(seed: int, services: Mapping[str, Sequence[str]], vms: Sequence[str]) -> Iterator[Round]:
    """Yield rounds without end. `services`: the VMs on which an instance of each service runs on a settled fleet."""
    chance = random.Random(seed)
    while True:
        if chance.random() >= PAIRS:
            yield Round((_harm(chance, services, vms, LASTS_S),))
            continue
        first = _harm(chance, services, vms, APART_S)
        # Another VM: there is nothing more to be done to one that is off, and one that is mended is only booting.
        others = [vm for vm in vms if vm != first.vm]
        yield Round((first, _harm(chance, services, others, LASTS_S)), chance.random() < 0.5)


def _harm(
    chance: random.Random, services: Mapping[str, Sequence[str]], vms: Sequence[str], lasts_s: tuple[float, float]
) -> Harm:
    kind, of_a_unit = chance.choice(KINDS)
    lasts = chance.uniform(*lasts_s)
    if not of_a_unit:
        return Harm(kind, chance.choice(list(vms)), None, lasts)
    places = [(service, vm) for service, order in services.items() for vm in order if vm in vms]
    service, vm = chance.choice(places)
    return Harm(kind, vm, service, lasts)
