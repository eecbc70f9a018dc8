"""orch is brought to a newer release on the four machines while they serve: nothing fails, nothing is moved."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path

from deploy.machines.deployment import SITE, SOURCES, deploy
from deploy.machines.lab import Lab
from deploy.machines.places import CHECKOUT
from deploy.machines.tools import WHEEL_SOURCES, build_wheel, find_tools, wheel
from deploy.trials.status import settle, wait_until
from tests.lab.fleet import HOME, URL, answer, epochs, in_sync, ledger, orch, traffic, wait_client, wait_written

NEWER = "0.1.99"


def newer_checkout(folder: Path) -> Path:
    """Return a checkout of a release that has another version, and another play for a backend."""
    for name in sorted({*SOURCES, *WHEEL_SOURCES}):
        source, copy = CHECKOUT / name, folder / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, copy, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, copy)
    init = folder / "orchestrator" / "__init__.py"
    init.write_text(re.sub(r'__version__ = ".*"', f'__version__ = "{NEWER}"', init.read_text()))
    with (folder / "ansible" / "playbooks" / "activate_backend.yml").open("a") as play:
        play.write("# newer\n")
    return folder


def bring(lab: Lab, checkout: Path, orch_wheel: Path) -> None:
    """Run the checkout's site.yml against the fleet."""
    site = str(checkout / "ansible" / "playbooks" / SITE)
    # The policy in force is the tests' own, with a short grace.
    deploy(lab.places, find_tools(lab.say), lab.say, site, orch_wheel=str(orch_wheel), orch_skip_config=True)


def versions(lab: Lab) -> set[str]:
    """Return which releases of orch the VMs have."""
    return {lab.run(vm.name, ["orch", "--version"]).stdout.split()[-1] for vm in lab.fleet.vms}


def test_a_newer_release_comes_without_a_failed_request_and_commands_are_run_with_its_playbooks(
    fleet: Lab, tmp_path: Path
) -> None:
    checkout = newer_checkout(tmp_path / "newer")
    released, before = answer(fleet, "playbooks", "status")["release"]["digest"], epochs(fleet)
    new_wheel = build_wheel(checkout, tmp_path / "wheel")
    try:
        with ledger(fleet, tmp_path) as writers, traffic(fleet, URL["frontend"], tmp_path) as client:
            bring(fleet, checkout, new_wheel)
            wait_written(writers, time.time())
            wait_client(client, time.time())
            failed = [sample for sample in [*client.samples(), *writers.samples()] if not sample.ok]
        settle(fleet)
        assert (failed, epochs(fleet), versions(fleet)) == ([], before, {NEWER})
        wait_until("all workers have told what they have", lambda: in_sync(fleet), 30)
        now = answer(fleet, "playbooks", "status")["release"]
        assert (now["digest"] != released, now["orch"]) == (True, NEWER)
        orch(fleet, "failover", "backend", "--wait")
        assert answer(fleet, "status")["services"]["backend"]["active"] != HOME["backend"]
        activated = [c for c in answer(fleet, "commands", "list", "--service", "backend") if c["play"] == "activate"]
        assert (activated[-1]["playbooks"], activated[-1]["state"]) == (now["digest"], "succeeded")
    finally:
        bring(fleet, CHECKOUT, wheel(fleet.say))
    assert answer(fleet, "playbooks", "status")["release"]["digest"] == released
