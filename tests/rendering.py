"""What the plays render, by Ansible's own templating with the reference inventory."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import filter_loader, init_plugin_loader, lookup_loader
from ansible.template import Templar
from ansible.vars.hostvars import HostVars
from ansible.vars.manager import VariableManager

CHECKOUT = Path(__file__).resolve().parents[1]
ANSIBLE = CHECKOUT / "ansible"
TEMPLATES = CHECKOUT / "templates"
PASSWORD = "a-password-of-the-test"
TOKENS = {
    whose: f"a-token-for-{whose}"
    for whose in ("agent", "guard", "controller", "worker", "template", "operator", "ui", "dns")
}
SECRETS = (
    "orch_amqp_controller_password",
    "orch_amqp_worker_password",
    "orch_amqp_operator_password",
    "orch_replication_password",
    "database_guard_password",
    "database_backup_password",
    "app_amqp_password",
    "app_database_password",
)


def trusted(text: str) -> Any:
    """Return text that Ansible may template; before 2.19 all is."""
    try:
        from ansible.template import trust_as_template
    except ImportError:
        return text
    return trust_as_template(text)


@cache
def _fleet() -> tuple[DataLoader, InventoryManager, VariableManager]:
    """Return the reference inventory with its group variables."""
    init_plugin_loader()
    filter_loader.add_directory(str(ANSIBLE / "filter_plugins"))
    lookup_loader.add_directory(str(ANSIBLE / "lookup_plugins"))
    loader = DataLoader()
    inventory = InventoryManager(loader=loader, sources=[str(ANSIBLE / "inventory" / "hosts")])
    return loader, inventory, VariableManager(loader=loader, inventory=inventory)


def render(path: Path, vm: str, **extra: object) -> str:
    """Render one file for one VM as the plays do; every secret is `PASSWORD` unless `extra` says otherwise."""
    return value_of(f"lookup('ansible.builtin.template', {str(path)!r}, template_vars={extra!r}) | string", vm, **extra)


def value_of(expression: str, vm: str, **extra: object) -> str:
    """Return the expression's value for one VM, as text."""
    loader, inventory, manager = _fleet()
    variables = manager.get_vars(host=inventory.get_host(vm))
    variables |= {
        "playbook_dir": str(ANSIBLE / "playbooks"),
        **dict.fromkeys(SECRETS, PASSWORD),
        "orch_erlang_cookie": "COOKIE",
        "consul_tokens": TOKENS,
        "consul_gossip_key": PASSWORD,
        "hostvars": HostVars(inventory, manager, loader),
        **extra,
    }
    return str(Templar(loader, variables=variables).template(trusted("{{ " + expression + " }}")))


def as_json(text: str) -> Any:
    """Read JSON, also where Ansible before 2.19 has turned it into Python's notation already."""
    try:
        return json.loads(text)
    except ValueError:
        return yaml.safe_load(text)
