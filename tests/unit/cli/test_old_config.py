"""`orch config import`: the old system's JSON document becomes a policy."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.cli.policy_file import policy_of
from orchestrator.domain.policy import Policy
from tests.unit.cli.world import World

AWS = "ansible-playbook -i /home/ubuntu/aws/ansible/inventory/hosts.yml /home/ubuntu/aws/ansible/playbooks/"
OLD = {
    "services": {
        "mysql": {
            "primary_vm": "10.0.10.169",
            "secondary_vms": ["10.0.0.22"],
            "check_command": "systemctl is-active mysql",
            "activate_command": f"{AWS}activate_database.yml",
        },
        "rabbitmq": {
            "primary_vm": "10.0.0.21",
            "secondary_vms": ["10.0.8.49"],
            "check_command": "systemctl is-active rabbitmq-server",
            "activate_command": f"{AWS}activate_messaging.yml",
        },
        "frontend": {
            "primary_vm": "10.0.8.49",
            "secondary_vms": ["10.0.0.22"],
            "check_command": "systemctl is-active --quiet nginx.service",
            "activate_command": f"{AWS}activate_frontend.yml",
        },
        "backend": {
            "primary_vm": "10.0.0.22",
            "secondary_vms": ["10.0.0.21"],
            "check_command": "curl -f localhost:3000/health",
            "activate_command": "/opt/start.sh",
        },
    },
    "round_robin": {"enabled": True, "interval_hours": 12, "exclude_services": ["mysql"]},
}
HOSTS = """
frontend-server ansible_host=10.0.8.49
backend-server ansible_host=10.0.0.22
messaging-server ansible_host=10.0.0.21
database-server ansible_host=10.0.10.169
[controllers]
messaging-server
frontend-server
[workers]
messaging-server
"""


def old_file(folder: Path, document: object = OLD) -> str:
    file = folder / "config.json"
    file.write_text(json.dumps(document), encoding="utf-8")
    return str(file)


def test_the_old_document_becomes_a_valid_policy_with_its_assumptions_said(
    world: World, tmp_path: Path, golden: Callable[[str, str], None]
) -> None:
    result = world.orch("config", "import", old_file(tmp_path))
    assert result.exit_code == 0
    golden("imported", result.stdout)
    assert isinstance(policy_of(result.stdout), Policy)


def test_an_inventory_names_the_vms_and_their_roles(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text(HOSTS, encoding="utf-8")
    result = World().orch("--json", "config", "import", old_file(tmp_path), "--inventory", str(hosts))
    vms = json.loads(result.stdout)["policy"]["vms"]
    assert vms["messaging-server"] == {"address": "10.0.0.21", "roles": ["controller", "worker"]}
    assert vms["frontend-server"]["roles"] == ["controller"]


def test_the_policy_can_be_written_to_a_file(world: World, tmp_path: Path) -> None:
    output = tmp_path / "policy.yml"
    result = world.orch("config", "import", old_file(tmp_path), "--output", str(output))
    assert (result.exit_code, world.orch("config", "validate", str(output)).exit_code) == (0, 0)


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ([], "it is not the old document: it has no services."),
        ({"services": {"mysql": {}}}, "it is not the old document: a service has no primary_vm."),
        (
            {"services": {"mysql": {"primary_vm": "10.9.9.9"}}},
            "services.mysql: no VM is known by 10.9.9.9; known are 10.0.0.21, 10.0.0.22, 10.0.10.169, 10.0.8.49, "
            "backend-server, database-server, frontend-server, messaging-server.",
        ),
        (
            {"services": {"redis": {"primary_vm": "10.0.0.21"}}},
            "services.redis: the old document does not say what redis is; known are database, messaging, frontend, "
            "backend, mysql, rabbitmq.",
        ),
    ],
)
def test_what_cannot_be_converted_is_exit_8_with_the_reason(
    world: World, tmp_path: Path, document: object, problem: str
) -> None:
    file = old_file(tmp_path, document)
    result = world.orch("config", "import", file)
    assert (result.exit_code, result.stderr) == (8, f"orch: {file}: {problem}\n")


def test_without_policy_and_inventory_nobody_knows_who_an_address_is(tmp_path: Path) -> None:
    result = World().orch("config", "import", old_file(tmp_path))
    assert result.exit_code == 8
    assert "give --inventory" in result.stderr
