"""The soak's random faults: what a seed makes of them."""

from __future__ import annotations

import itertools

from deploy.machines.faults import OF_A_UNIT, OF_A_VM
from deploy.trials.harm import APART_S, KINDS, Round, rounds_from

SERVICES = {"database": ("db", "backend"), "messaging": ("mq", "front"), "backend": ("backend", "mq")}
VMS = ("front", "backend", "mq", "db")


def rounds_of(seed: int, count: int = 25) -> list[Round]:
    return list(itertools.islice(rounds_from(seed, SERVICES, VMS), count))


def test_the_same_seed_does_the_same_again_and_another_one_something_else() -> None:
    assert rounds_of(7) == rounds_of(7)
    assert rounds_of(7) != rounds_of(8)


def test_faults_come_singly_and_in_pairs() -> None:
    for seed in range(50):
        assert {len(one.harms) for one in rounds_of(seed)} == {1, 2}


def test_a_pair_is_spaced_and_never_of_one_vm() -> None:
    for seed in range(200):
        for one in rounds_of(seed):
            if len(one.harms) == 2:
                first, second = one.harms
                assert first.lasts_s >= APART_S[0] >= 20
                assert first.vm != second.vm


def test_every_kind_and_every_vm_and_instance_comes_up() -> None:
    harms = [each for seed in range(30) for one in rounds_of(seed) for each in one.harms]
    assert {each.kind for each in harms} == {kind for kind, _ in KINDS} == {*OF_A_UNIT, *OF_A_VM} - {"poweron", "thaw"}
    assert {each.vm for each in harms if each.service is None} == set(VMS)
    instances = {(name, vm) for name, order in SERVICES.items() for vm in order}
    assert {(each.service, each.vm) for each in harms if each.service is not None} == instances


def test_what_is_done_is_told_in_words() -> None:
    told = " ".join(one.describe() for seed in range(20) for one in rounds_of(seed))
    assert "kill of database on db, " in told
    assert ", mended, then " in told
