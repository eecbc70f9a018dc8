"""The old system's JSON document -> a policy. Pure but for `vms_of_inventory`, which asks ansible-inventory.

The old document names VMs by address and says of a service only where it runs, how it was checked and which play
started it. The rest is assumed as in the reference fleet, and every assumption is returned as a note.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from orchestrator.cli.policy_file import Faults, policy_of
from orchestrator.domain.policy import Policy
from orchestrator.domain.wire import OLD_SERVICE_NAMES

Vms = Mapping[str, Mapping[str, Any]]
"""VM name -> its entry in the policy (address, roles)."""


class NotConvertible(Exception):
    """The document cannot be converted; the message is one sentence."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What the reference fleet knows of a service (design.md, the table of services)."""

    unit: str
    port: int
    path: str | None


_KNOWN = {
    "database": _Known("mysql", 3306, None),
    "messaging": _Known("rabbitmq-server", 5672, None),
    "frontend": _Known("nginx", 80, "/orch-health"),
    "backend": _Known("node-app", 3000, "/health"),
}
_UNIT_IN_CHECK = re.compile(r"systemctl\s+(?:-\S+\s+)*(?:is-active|status)\s+(?:-\S+\s+)*([A-Za-z0-9:_.@-]+)")
_PLAY_IN_COMMAND = re.compile(r"(\S+\.ya?ml)")
_ROLE_OF_GROUP = {"controllers": "controller", "workers": "worker"}


def converted(text: str | bytes, vms: Vms) -> tuple[Policy, tuple[str, ...]]:
    """Return the policy and what had to be assumed; raises `NotConvertible`."""
    old = _old_document(text)
    notes: list[str] = []
    name_of = {str(vm["address"]): name for name, vm in vms.items()} | {name: name for name in vms}
    services = {}
    for old_name, entry in old["services"].items():
        name = OLD_SERVICE_NAMES.get(old_name, old_name)
        if name != old_name:
            notes.append(f"{old_name} is called {name} here.")
        services[name] = _service(name, f"services.{old_name}", entry, name_of, notes)
    document = {"version": 1, "vms": dict(vms), "services": services, "rotation": _rotation(old, notes)}
    policy = policy_of(json.dumps(document))
    if isinstance(policy, Faults):
        raise NotConvertible(f"what it says makes no valid policy: {'; '.join(policy.sentences)}")
    return policy, tuple(notes)


def vms_of_policy(policy: Policy | None) -> Vms:
    """Return the VMs of the policy in force; without one the inventory must say who is who."""
    if policy is None:
        raise NotConvertible("it names VMs by address, and there is no policy in KV that names them; give --inventory.")
    return {name: vm.model_dump(mode="json") for name, vm in policy.vms.items()}


def vms_of_inventory(inventory: Path) -> Vms:
    """Ask ansible-inventory, which reads every form of inventory, for the VMs, their addresses and groups."""
    beside = Path(sys.executable).with_name("ansible-inventory")
    program = str(beside) if beside.exists() else shutil.which("ansible-inventory")
    if program is None:
        raise NotConvertible("ansible-inventory is not installed, so the inventory cannot be read.")
    asked = [program, "-i", str(inventory), "--list"]
    answer = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=False)
    if answer.returncode != 0:
        raise NotConvertible(f"ansible-inventory cannot read {inventory}: {answer.stderr.strip()}")
    groups = json.loads(answer.stdout)
    found = groups.get("_meta", {}).get("hostvars", {})
    roles = {role: set(groups.get(group, {}).get("hosts", ())) for group, role in _ROLE_OF_GROUP.items()}
    return {
        name: {
            "address": str(variables.get("ansible_host", name)),
            "roles": [role for role, hosts in roles.items() if name in hosts],
        }
        for name, variables in found.items()
    }


def _old_document(text: str | bytes) -> dict[str, Any]:
    try:
        old = json.loads(text)
    except ValueError as error:
        raise NotConvertible(f"it is not JSON: {error}") from None
    if not isinstance(old, dict) or not isinstance(old.get("services"), dict) or not old["services"]:
        raise NotConvertible("it is not the old document: it has no services.")
    if not all(isinstance(entry, dict) and "primary_vm" in entry for entry in old["services"].values()):
        raise NotConvertible("it is not the old document: a service has no primary_vm.")
    return old


def _service(
    name: str, where: str, entry: Mapping[str, Any], name_of: Mapping[str, str], notes: list[str]
) -> dict[str, Any]:
    known = _KNOWN.get(name)
    if known is None:
        names = ", ".join((*_KNOWN, *OLD_SERVICE_NAMES))
        raise NotConvertible(f"{where}: the old document does not say what {name} is; known are {names}.")
    unit = _UNIT_IN_CHECK.search(str(entry.get("check_command", "")))
    if unit is None:
        notes.append(f"{name}: its check_command names no unit; {known.unit} is assumed.")
    activate = _playbook(name, entry, notes)
    check = {"kind": "http", "path": known.path} if known.path else {"kind": "tcp"}
    probed = f"http {known.path}" if known.path else "tcp"
    notes.append(f"{name}: port {known.port}, probed by {probed}, cold standby are assumed.")
    if name == "frontend":
        notes.append("frontend: no front door; set services.frontend.front_door to give clients one address.")
    return {
        "order": [_vm(where, a, name_of) for a in (entry["primary_vm"], *entry.get("secondary_vms", ()))],
        "unit": unit.group(1).removesuffix(".service") if unit else known.unit,
        "port": known.port,
        "check": check,
        "activate": activate,
        "deactivate": activate.replace("activate_", "deactivate_", 1),
    }


def _playbook(name: str, entry: Mapping[str, Any], notes: list[str]) -> str:
    """The play's file in the old activate_command: the one named activate_*, not inventories or variables."""
    found = [PurePosixPath(path).name for path in _PLAY_IN_COMMAND.findall(str(entry.get("activate_command", "")))]
    play = next((file for file in found if file.startswith("activate_")), None)
    if play is None:
        notes.append(f"{name}: its activate_command names no activate_*.yml; activate_{name}.yml is assumed.")
    return play or f"activate_{name}.yml"


def _vm(where: str, address: str, name_of: Mapping[str, str]) -> str:
    if address not in name_of:
        raise NotConvertible(f"{where}: no VM is known by {address}; known are {', '.join(sorted(name_of))}.")
    return name_of[address]


def _rotation(old: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    said = old.get("round_robin", {})
    strange = sorted({*old} - {"services", "round_robin"})
    if strange:
        notes.append(f"not carried over: {', '.join(strange)}.")
    excluded: Iterable[str] = said.get("exclude_services", ())
    return {
        "enabled": said.get("enabled", False),
        "interval_hours": said.get("interval_hours", 24),
        "exclude_services": [OLD_SERVICE_NAMES.get(name, name) for name in excluded],
    }
