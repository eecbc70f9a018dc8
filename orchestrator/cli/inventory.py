"""An Ansible inventory -> the VMs of a policy, by asking ansible-inventory, which reads every form of inventory."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Vms = Mapping[str, Mapping[str, Any]]
"""VM name -> its entry in the policy (address, roles)."""

# Ansible takes a second to start; a folder full of other things can keep it busy for ever.
TIMEOUT_S = 30.0
_ROLE_OF_GROUP = {"controllers": "controller", "workers": "worker"}


class UnreadableInventory(Exception):
    """The inventory names no VMs; the message is one sentence."""


def vms_of_inventory(inventory: Path) -> Vms:
    """Return the VMs, their addresses and roles; raises `UnreadableInventory`."""
    groups = _groups_of(inventory)
    found = groups.get("_meta", {}).get("hostvars", {})
    # Hosts without a variable stand in no hostvars; "all" and its children name them.
    named = [host for group in groups.values() if isinstance(group, dict) for host in group.get("hosts", ())]
    roles = {role: set(groups.get(group, {}).get("hosts", ())) for group, role in _ROLE_OF_GROUP.items()}
    vms = {
        name: {
            "address": str(found.get(name, {}).get("ansible_host", name)),
            "roles": [role for role, hosts in roles.items() if name in hosts],
        }
        for name in dict.fromkeys((*found, *named))
    }
    if not vms:
        raise UnreadableInventory(f"{inventory} names no VM: it is empty, or no inventory.")
    return vms


def _groups_of(inventory: Path) -> dict[str, Any]:
    beside = Path(sys.executable).with_name("ansible-inventory")
    program = str(beside) if beside.exists() else shutil.which("ansible-inventory")
    if program is None:
        raise UnreadableInventory("ansible-inventory is not installed, so the inventory cannot be read.")
    try:
        # Ansible itself says of a file that it cannot open only that it has no hosts.
        if not inventory.is_dir():
            inventory.open("rb").close()
    except OSError as error:
        raise UnreadableInventory(f"{inventory} cannot be read: {(error.strerror or str(error)).lower()}.") from None
    code, said, complaint = _answer_of([program, "-i", str(inventory), "--list"], inventory)
    if code != 0:
        raise UnreadableInventory(f"ansible-inventory cannot read {inventory}: {_last_line(complaint)}")
    groups: dict[str, Any] = json.loads(said)
    return groups


def _answer_of(argv: list[str], inventory: Path) -> tuple[int, str, str]:
    """Run it with all that it starts (an inventory may be a program) in a session of its own, ended after a while."""
    with subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            said, complaint = process.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise UnreadableInventory(
                f"ansible-inventory has not read {inventory} within {TIMEOUT_S:g} s; name the inventory's own file."
            ) from None
    return process.returncode, said, complaint


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it does not say why."
