"""Which VMs there are and what runs on them, read from the project's own inventory and group variables.

One place for each fact: names and addresses stand in `ansible/inventory/hosts`, services and their units in
`ansible/inventory/group_vars` (or `ansible/group_vars`), variable `orch_services`. The reference fleet is the
fallback for a checkout that has neither yet.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from deploy.machines.places import CHECKOUT, LabError

INVENTORY = CHECKOUT / "ansible" / "inventory" / "hosts"
GROUP_VARS = (CHECKOUT / "ansible" / "inventory" / "group_vars", CHECKOUT / "ansible" / "group_vars")
REFERENCE_ADDRESSES = {
    "frontend-server": "10.0.8.49",
    "backend-server": "10.0.0.22",
    "messaging-server": "10.0.0.21",
    "database-server": "10.0.10.169",
}
REFERENCE_UNITS = {
    "database": "mariadb",
    "messaging": "rabbitmq-server",
    "frontend": "nginx",
    "backend": "node-app",
}
PREFIX_LENGTH = 16
CLIENT_ADDRESS = "10.0.200.1"


@dataclass(frozen=True)
class Vm:
    """A machine of the fleet: its name and its address in the lab's one network segment."""

    name: str
    address: str


@dataclass(frozen=True)
class Fleet:
    """The VMs in the inventory's order, the unit of each service, and who belongs to which group."""

    vms: tuple[Vm, ...]
    groups: dict[str, tuple[str, ...]]

    @cached_property
    def units(self) -> dict[str, str]:
        """Return the unit of each service. Read when first asked for: most verbs of the lab never do."""
        return {**REFERENCE_UNITS, **declared_units()}

    def vm(self, name: str) -> Vm:
        """Return a VM by its name; LabError with the names that exist."""
        for vm in self.vms:
            if vm.name == name:
                return vm
        raise LabError(f"there is no VM {name!r}; the fleet has {', '.join(vm.name for vm in self.vms)}")

    def unit(self, service: str) -> str:
        """Return the systemd unit of a service; any other word is taken as a unit's own name."""
        unit = self.units.get(service, service)
        if not re.fullmatch(r"[A-Za-z0-9@_.:\\-]+", unit) or unit.startswith("-"):
            raise LabError(f"{service!r} is neither a service ({', '.join(self.units)}) nor the name of a systemd unit")
        return unit if re.search(r"\.(service|socket|timer|target)$", unit) else f"{unit}.service"

    def members(self, group: str) -> tuple[str, ...]:
        return self.groups.get(group, ())


def parse_inventory(text: str) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    """Return addresses by VM and VMs by group from an INI inventory (`name ansible_host=…`, `[group]`)."""
    addresses: dict[str, str] = {}
    groups: dict[str, list[str]] = {}
    section = ""
    for raw in text.splitlines():
        line = raw.split("#", 1)[0].strip()
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not section.endswith(":vars"):
            name, *settings = line.split()
            if section.endswith(":children"):
                continue
            groups.setdefault(section, []).append(name)
            for setting in settings:
                key, _, value = setting.partition("=")
                if key == "ansible_host":
                    addresses[name] = str(ipaddress.ip_address(value))
    return addresses, {group: tuple(names) for group, names in groups.items()}


def declared_units() -> dict[str, str]:
    """Return unit by service from `orch_units` and `orch_services` of the group variables, as far as they stand."""
    import yaml

    units: dict[str, str] = {}
    for folder in GROUP_VARS:
        for file in sorted(folder.rglob("*.y*ml")) if folder.is_dir() else []:
            document = yaml.safe_load(file.read_text())
            if not isinstance(document, dict):
                continue
            services = document.get("orch_services") or {}
            named = {name: settings.get("unit") for name, settings in services.items()}
            for name, unit in {**named, **(document.get("orch_units") or {})}.items():
                if isinstance(unit, str) and "{" not in unit:
                    units[name] = unit
    return units


def read_fleet(inventory: Path = INVENTORY) -> Fleet:
    """Read the fleet from the checkout."""
    addresses: dict[str, str] = dict(REFERENCE_ADDRESSES)
    groups: dict[str, tuple[str, ...]] = {"controllers": ("messaging-server", "frontend-server")}
    if inventory.is_file():
        found, found_groups = parse_inventory(inventory.read_text())
        addresses, groups = found or addresses, found_groups or groups
    return Fleet(tuple(Vm(name, address) for name, address in addresses.items()), groups)
