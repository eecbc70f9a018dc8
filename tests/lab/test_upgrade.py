"""orch is brought to a newer release on the four machines while they serve: nothing fails, nothing is moved."""

from __future__ import annotations

import base64
import re
import shutil
import time
from pathlib import Path

from deploy.machines.deployment import SITE, SOURCES, deploy
from deploy.machines.lab import Lab
from deploy.machines.places import CHECKOUT
from deploy.machines.tools import WHEEL_SOURCES, build_wheel, find_tools, wheel
from deploy.trials.status import settle, wait_until
from tests.lab.fleet import (
    CONTROLLERS,
    HOME,
    SECOND,
    URL,
    answer,
    epochs,
    have_lead,
    in_sync,
    ledger,
    orch,
    traffic,
    wait_client,
    wait_served_by,
    wait_written,
)

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


def install_alone(lab: Lab, vm: str, orch_wheel: Path) -> None:
    """Install the wheel on one VM and restart orch there: where a deployment may have ended half-way."""
    there = f"/root/{orch_wheel.name}"
    lab.run(vm, ["sh", "-c", f"base64 -d > {there}"], text_input=base64.b64encode(orch_wheel.read_bytes()).decode())
    pip = ["/opt/orch/venv/bin/pip", "install", "--quiet", "--no-deps", "--no-index", "--force-reinstall", there]
    lab.run(vm, pip, timeout_s=120)
    lab.run(vm, ["systemctl", "restart", "orch-guard", "orch-controller", "orch-worker"], timeout_s=60)


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


def test_two_releases_side_by_side_carry_out_what_the_other_has_decided(fleet: Lab, tmp_path: Path) -> None:
    newer, older = CONTROLLERS
    orch_wheel = build_wheel(newer_checkout(tmp_path / "newer"), tmp_path / "wheel")
    try:
        install_alone(fleet, newer, orch_wheel)
        assert fleet.run(newer, ["orch", "--version"]).stdout.split()[-1] == NEWER
        # A leader of the one release, a worker of the other one, and a service that is moved there and back.
        for leads, works, to in ((newer, older, SECOND["backend"]), (older, newer, HOME["backend"])):
            fleet.run(leads, ["systemctl", "stop", "orch-worker"], timeout_s=60)
            have_lead(fleet, leads)
            orch(fleet, "failover", "backend", "--to", to, "--wait")
            wait_served_by(fleet, "backend", to)
            told = answer(fleet, "commands", "list", "--service", "backend")
            moved = [command for command in told if command["play"] == "activate"][-1]
            assert (moved["worker"], moved["target"], moved["state"]) == (works, to, "succeeded")
            fleet.run(leads, ["systemctl", "start", "orch-worker"], timeout_s=60)
            settle(fleet)
    finally:
        install_alone(fleet, newer, wheel(fleet.say))
