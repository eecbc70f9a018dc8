"""Names of labs: two labs share nothing on the host."""

from __future__ import annotations

from itertools import combinations

import pytest

from deploy.machines.cgroups import VmCgroup
from deploy.machines.fleet import read_fleet
from deploy.machines.places import DEFAULT_LAB_NAME, LONGEST_LAB_NAME, LabPlaces, bare_twin, lab_of_process

LONGEST = "a-name-of-20-letters"
NAMES = (DEFAULT_LAB_NAME, "orch-test", "fifteen-letters", "sixteen-letters-", LONGEST, "fifteen-letter-bare")


@pytest.mark.parametrize("name", NAMES)
def test_the_bare_lab_beside_a_lab_is_another_one_whatever_the_name(name: str) -> None:
    assert bare_twin(name) != name
    assert LabPlaces.from_environment(bare_twin(name)).name == bare_twin(name)


def test_two_long_names_have_two_bare_labs() -> None:
    assert len(LONGEST) == LONGEST_LAB_NAME
    assert bare_twin(LONGEST) != bare_twin(f"{LONGEST[:-1]}x")


@pytest.mark.parametrize("name", NAMES)
def test_processes_that_share_the_tests_have_a_lab_each_and_one_alone_has_the_one_of_the_name(name: str) -> None:
    shared = [lab_of_process(name, process) for process in ("gw0", "gw1")]
    assert len({name, bare_twin(name), *shared, *map(bare_twin, shared)}) == 6
    assert [LabPlaces.from_environment(one).name for one in map(bare_twin, shared)] == list(map(bare_twin, shared))
    assert lab_of_process(name, None) == name


def names_on_the_host(lab: str) -> set[str]:
    """Every name by which something of a lab is found on the host; all else is inside its own namespaces."""
    places = LabPlaces(lab)
    vms = [vm.name for vm in read_fleet().vms]
    cgroups = {str(VmCgroup(lab, vm).relative) for vm in vms}
    namespaces = {places.switch_namespace, places.client_namespace, *(places.vm_namespace(vm) for vm in vms)}
    files = {places.home, places.lock, places.state_file, places.operator_key, places.known_hosts, places.secrets}
    assert len(namespaces) == len(vms) + 2
    return cgroups | namespaces | {str(path) for path in files} | {str(places.vm_root(vm)) for vm in vms}


@pytest.mark.parametrize(("one", "other"), list(combinations((*NAMES, bare_twin("orch-test")), 2)))
def test_two_labs_share_no_namespace_cgroup_or_folder(one: str, other: str) -> None:
    assert names_on_the_host(one) & names_on_the_host(other) == set()


def test_no_folder_of_a_lab_lies_in_another_ones() -> None:
    homes = [LabPlaces(name).home for name in NAMES]
    assert len({home.parent for home in homes}) == 1
