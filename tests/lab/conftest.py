"""The four machines for the tests: brought up once, taken down at the end even when tests fail."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from deploy.machines.lab import Lab
from deploy.machines.places import LabError, bare_twin, lab_of_process
from deploy.trials.policy import policy_with
from tests.lab.fleet import mend_and_settle

TEST_LAB = "orch-test"
STARTED = pytest.StashKey[float]()


def _lab_name() -> str:
    return lab_of_process(os.environ.get("ORCH_LAB_NAME") or TEST_LAB, os.environ.get("PYTEST_XDIST_WORKER"))


def _say(text: str) -> None:
    print(f"lab: {text}", file=sys.stderr, flush=True)


def _require_root() -> None:
    # As root, or in CI, the lab's own error is the answer: nothing is skipped there.
    if os.geteuid() != 0 and not os.environ.get("CI"):
        pytest.skip("needs root: the lab makes machines, mounts and network namespaces")


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The deployed fleet, healthy. A lab that was up before the tests is left up (in CI none is).

    In `tmp_path_factory`'s folder journals are kept, see `pytest_runtest_makereport`.
    """
    _require_root()
    lab = Lab.open(_lab_name(), say=_say)
    was_up = lab.state() is not None and not os.environ.get("CI")
    if not was_up:
        # What a killed run left behind, with the faults that it was in the middle of.
        lab.down()
    try:
        lab.up()
        yield lab
    finally:
        if not was_up:
            lab.down()


@pytest.fixture(scope="module")
def bare_lab() -> Iterator[Lab]:
    """Four machines without a deployment, for the tests of the lab itself."""
    _require_root()
    lab = Lab.open(bare_twin(_lab_name()), say=_say)
    try:
        lab.up(bare=True)
        yield lab
    finally:
        lab.down()


# The lab tests shorten the grace, so that every test sees its service come home; 60 s is the default elsewhere.
@pytest.fixture(scope="session")
def quick_lab(lab: Lab) -> Iterator[Lab]:
    """The fleet with a short grace."""
    with policy_with(lab):
        yield lab


@pytest.fixture
def fleet(quick_lab: Lab) -> Iterator[Lab]:
    """The settled fleet; whatever a test breaks is mended after it, and everything has to settle at home again."""
    yield quick_lab
    mend_and_settle(quick_lab)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport]:
    """Keep what the machines said while a test failed: the lab is gone by the time that somebody reads of it."""
    report = yield
    had, since = getattr(item, "funcargs", {}), item.stash.setdefault(STARTED, call.start)
    if report.failed and "lab" in had:
        folder = had["tmp_path_factory"].mktemp("journals-of-a-failed-test")
        for vm in had["lab"].fleet.vms:
            _keep_journal(had["lab"], vm.name, since, folder)
        report.sections.append(("what the machines said", f"Their journals are in {folder}."))
    return report


def _keep_journal(lab: Lab, vm: str, since: float, folder: Path) -> None:
    argv = ["journalctl", f"--since=@{since:.3f}", "--output=short-precise"]
    try:
        told = lab.run(vm, argv, check=False, timeout_s=60).stdout
    except (LabError, OSError) as error:
        told = f"It could not be asked: {error}\n"
    (folder / f"{vm}.log").write_text(told)
