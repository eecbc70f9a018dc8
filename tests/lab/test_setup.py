"""`deploy/setup.sh` on a VM that serves, from a checkout there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from deploy.machines.lab import Lab
from deploy.machines.places import CHECKOUT
from tests.lab.fleet import CONTROLLERS, HOME

# What setup.sh and its play read.
SOURCES = ("ansible", "deploy/setup.sh", "setup.cfg")


def checkout_on(lab: Lab, vm: str, folder: Path) -> str:
    """Copy the checkout to the VM; returns where it is there."""
    packed, place = folder / "checkout.tar", f"/root/{CHECKOUT.name}"
    subprocess.run(["tar", "-C", CHECKOUT, "--exclude=__pycache__", "-cf", packed, *SOURCES], check=True)
    lab.run(vm, ["mkdir", "-p", place], timeout_s=20)
    with packed.open("rb") as stream:
        subprocess.run(lab.command_in_vm(vm, ["tar", "-C", place, "-xf", "-"]), stdin=stream, check=True, timeout=60)
    return place


@pytest.mark.parametrize("vm", [CONTROLLERS[0], HOME["database"]])
def test_setup_run_again_knows_the_vm_fetches_nothing_and_changes_nothing(lab: Lab, tmp_path: Path, vm: str) -> None:
    place = checkout_on(lab, vm, tmp_path)
    try:
        assert lab.run(vm, [f"{place}/deploy/setup.sh", "--which"], timeout_s=20).stderr == f"• this VM is {vm}\n"
        # The VM has no way to any network outside, as the lab's own tests show.
        told = lab.run(vm, [f"{place}/deploy/setup.sh"], timeout_s=300)
        recap = re.search(rf"^{vm}\s*: ok=(\d+)\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", told.stdout, re.M)
        assert recap is not None, told.stdout
        done, *wrong = map(int, recap.groups())
        assert done > 5
        assert wrong == [0, 0, 0], told.stdout
        assert f"{vm} has all it needs" in told.stderr
        assert lab.run(vm, ["test", "-e", "/opt/orch/control"], check=False).returncode == 1
    finally:
        lab.run(vm, ["rm", "-rf", place], timeout_s=20)
