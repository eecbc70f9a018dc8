"""`orch config import`: the old system's JSON document becomes a policy."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli import inventory
from orchestrator.cli.policy_file import policy_of
from orchestrator.domain import keys
from orchestrator.domain.policy import Policy
from tests.unit.cli.world import POLICY, World

AWS = "ansible-playbook -i /home/ubuntu/aws/ansible/inventory/hosts.yml /home/ubuntu/aws/ansible/playbooks/"
OLD: dict[str, Any] = {
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


@pytest.fixture
def hosts(tmp_path: Path) -> str:
    """An inventory that names the VMs."""
    file = tmp_path / "hosts"
    file.write_text(HOSTS, encoding="utf-8")
    return str(file)


def changed(**changes: Any) -> dict[str, Any]:
    """Return the old document with changed sections."""
    document: dict[str, Any] = json.loads(json.dumps(OLD))
    return document | changes


def with_backend(**changes: Any) -> dict[str, Any]:
    """Return the old document with another backend."""
    document = changed()
    document["services"]["backend"] |= changes
    return document


def imported(world: World, folder: Path, document: object) -> tuple[dict[str, Any], str]:
    """Return the policy and the notes."""
    answer = world.answer("config", "import", old_file(folder, document))
    return answer["policy"], "\n".join(answer["notes"])


def test_where_nothing_is_in_force_the_old_document_becomes_a_policy_with_its_assumptions_said(
    tmp_path: Path, hosts: str, golden: Callable[[str, str], None]
) -> None:
    result = World().orch("config", "import", old_file(tmp_path), "--inventory", hosts)
    assert result.exit_code == 0
    golden("imported", result.stdout)
    assert isinstance(policy_of(result.stdout), Policy)


def test_what_the_fleet_has_in_force_stays_but_for_order_and_rotation(
    world: World, tmp_path: Path, golden: Callable[[str, str], None]
) -> None:
    in_force = json.loads(json.dumps(POLICY)) | {"failback": {"grace_s": 90}}
    in_force["services"]["frontend"] |= {"front_door": {"kind": "vip", "address": "10.0.0.100"}, "standby": "hot"}
    world.put(keys.CONFIG, json.dumps(in_force).encode())
    document = with_backend(secondary_vms=["10.0.8.49", "10.0.0.21"])
    golden("imported_over", world.orch("config", "import", old_file(tmp_path, document)).stdout)
    policy, notes = imported(world, tmp_path, document)
    assert policy["services"]["backend"]["order"] == ["backend-server", "frontend-server", "messaging-server"]
    assert policy["services"]["frontend"]["front_door"]["address"] == "10.0.0.100"
    assert (policy["services"]["frontend"]["standby"], policy["failback"]["grace_s"]) == ("hot", 90)
    assert policy["rotation"] == {"enabled": True, "interval_hours": 12, "exclude_services": []}
    assert "database: left out: the fleet has no plays for it" in notes


def test_the_guides_document_changes_nothing_that_the_fleet_has(world: World, tmp_path: Path) -> None:
    document = changed(round_robin={"enabled": True, "interval_hours": 24, "exclude_services": []})
    output = str(tmp_path / "policy.yml")
    assert world.orch("config", "import", old_file(tmp_path, document), "-o", output).exit_code == 0
    assert world.orch("config", "diff", output).exit_code == 0


def test_a_service_that_the_fleet_gets_later_is_imported_then(world: World, tmp_path: Path) -> None:
    in_force = json.loads(json.dumps(POLICY))
    in_force["services"]["database"] = POLICY["services"]["backend"] | {"unit": "mariadb", "port": 3306}
    world.put(keys.CONFIG, json.dumps(in_force).encode())
    policy, notes = imported(world, tmp_path, OLD)
    assert policy["services"]["database"]["order"] == ["database-server", "backend-server"]
    assert policy["services"]["database"]["unit"] == "mariadb"
    assert policy["rotation"]["exclude_services"] == ["database"]
    assert "database: its check_command asks for the unit mysql; its unit stays mariadb." in notes


@pytest.mark.parametrize(
    ("document", "note"),
    [
        (with_backend(weight=3), "nothing here corresponds to it: services.backend.weight."),
        (changed(redis={}), "nothing here corresponds to it: redis."),
        (changed(round_robin={"enabld": True}), "nothing here corresponds to it: round_robin.enabld."),
        (changed(round_robin={}), "round_robin says nothing of enabled: true stays as it is in force."),
        (changed(services={"backend": OLD["services"]["backend"]}, round_robin={}), "frontend: it is not in the old"),
        (with_backend(check_command="systemctl is-active app"), "asks for the unit app; its unit stays node-app."),
        (with_backend(activate_command="activate_it.yml"), "names activate_it.yml; its play stays activate_backend"),
        (OLD, "backend: its check_command (curl -f localhost:3000/health) is not taken over"),
        (OLD, "backend: its activate_command (/opt/start.sh) is not taken over"),
        (OLD, "round_robin.exclude_services: database left out, as the service is."),
    ],
)
def test_whatever_is_not_taken_over_is_said(world: World, tmp_path: Path, document: object, note: str) -> None:
    assert note in imported(world, tmp_path, document)[1]


def test_an_inventory_names_the_vms_and_their_roles(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text(HOSTS, encoding="utf-8")
    result = World().orch("--json", "config", "import", old_file(tmp_path), "--inventory", str(hosts))
    vms = json.loads(result.stdout)["policy"]["vms"]
    assert vms["messaging-server"] == {"address": "10.0.0.21", "roles": ["controller", "worker"]}
    assert vms["frontend-server"]["roles"] == ["controller"]


def test_what_is_quoted_in_a_note_stays_in_its_line(world: World, tmp_path: Path) -> None:
    file = old_file(tmp_path, with_backend(check_command="first\nsecond: line"))
    assert isinstance(policy_of(world.orch("config", "import", file).stdout), Policy)


def test_the_policy_can_be_written_to_a_file(world: World, tmp_path: Path) -> None:
    output = tmp_path / "policy.yml"
    result = world.orch("config", "import", old_file(tmp_path), "--output", str(output))
    assert (result.exit_code, world.orch("config", "validate", str(output)).exit_code) == (0, 0)


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ([], "it is not the old document: it has no services."),
        ({}, "it is not the old document: it has no services."),
        ({"services": {"mysql": {}}}, "services.mysql.primary_vm: is missing."),
        (
            {"services": {"mysql": {"primary_vm": "10.9.9.9"}}},
            "services.mysql: no VM is known by 10.9.9.9; known are 10.0.0.21, 10.0.0.22, 10.0.10.169, 10.0.8.49, "
            "backend-server, database-server, frontend-server, messaging-server.",
        ),
        (with_backend(secondary_vms="1"), "services.backend.secondary_vms: should be a list (it is '1')."),
        (with_backend(secondary_vms=None), "services.backend.secondary_vms: should be a list (it is empty)."),
        (with_backend(primary_vm=["a"]), "services.backend.primary_vm: should be a valid string (it is a list)."),
        (changed(services=[1]), "services: should be a mapping (it is a list)."),
        (changed(round_robin=[]), "round_robin: should be a mapping (it is a list)."),
        (changed(round_robin=None), "round_robin: should be a mapping (it is empty)."),
        (
            changed(round_robin={"exclude_services": [["mysql"]]}),
            "round_robin.exclude_services.0: should be a valid string (it is a list).",
        ),
        (
            changed(round_robin={"exclude_services": "mysql"}),
            "round_robin.exclude_services: should be a list (it is 'mysql').",
        ),
        (
            changed(round_robin={"exclude_services": ["backnd"]}),
            "round_robin.exclude_services names backnd; its services are mysql, rabbitmq, frontend, backend.",
        ),
        (
            {"services": {name: {"primary_vm": "10.0.0.21"} for name in ("mysql", "database")}},
            "services.mysql and services.database are one service here, database: leave one out.",
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


def test_where_nothing_is_in_force_a_service_of_another_kind_cannot_be_converted(tmp_path: Path, hosts: str) -> None:
    file = old_file(tmp_path, {"services": {"redis": {"primary_vm": "10.0.0.21"}}})
    result = World().orch("config", "import", file, "--inventory", hosts)
    said = "the old document does not say what redis is; known are database, messaging, frontend, backend, mysql, "
    assert (result.exit_code, result.stderr) == (8, f"orch: {file}: services.redis: {said}rabbitmq.\n")


def test_with_an_inventory_no_consul_is_needed_and_that_is_said(world: World, tmp_path: Path, hosts: str) -> None:
    world.consul.set_stopped("messaging-server", True)
    notes = world.answer("config", "import", old_file(tmp_path), "--inventory", hosts)["notes"]
    assert notes[0] == "Consul cannot be reached, so that what is in force is not taken into account."


def test_a_policy_in_force_that_is_invalid_is_no_ground_to_import_on(world: World, tmp_path: Path, hosts: str) -> None:
    world.put(keys.CONFIG, b"vms: {}")
    assert world.orch("config", "import", old_file(tmp_path)).exit_code == 8
    notes = world.answer("config", "import", old_file(tmp_path), "--inventory", hosts)["notes"]
    assert notes[0] == "the policy in orch/config is not valid and is not taken into account."


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "line 1, column 2: not JSON: Expecting property name enclosed in double quotes"),
        ('{"services": {}, "services": {}}', "'services' stands twice in one mapping"),
        ("[" * 100_000, "the document is nested too deeply to be one"),
    ],
)
def test_what_is_no_json_is_exit_8_with_the_place(world: World, tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "config.json"
    file.write_text(text, encoding="utf-8")
    result = world.orch("config", "import", str(file))
    assert (result.exit_code, result.stderr) == (8, f"orch: {file}: {problem}\n")


def test_a_file_that_is_not_there_is_exit_8(world: World, tmp_path: Path, hosts: str) -> None:
    missing = str(tmp_path / "none")
    for arguments in ((missing,), (old_file(tmp_path), "--inventory", missing)):
        result = world.orch("config", "import", *arguments)
        assert (result.exit_code, result.stderr) == (8, f"orch: {missing} cannot be read: no such file or directory.\n")


def test_a_file_that_cannot_be_written_is_exit_8(world: World, tmp_path: Path) -> None:
    result = world.orch("config", "import", old_file(tmp_path), "--output", str(tmp_path))
    assert (result.exit_code, result.stderr) == (8, f"orch: {tmp_path} cannot be written: is a directory.\n")


def test_json_is_answered_and_the_file_is_written_too(world: World, tmp_path: Path) -> None:
    output = tmp_path / "policy.yml"
    answer = world.answer("config", "import", old_file(tmp_path), "--output", str(output))
    assert answer["written"] == str(output)
    assert isinstance(policy_of(output.read_text(encoding="utf-8")), Policy)


def test_an_inventory_that_names_no_vm_is_exit_8(world: World, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.write_text("", encoding="utf-8")
    result = world.orch("config", "import", old_file(tmp_path), "--inventory", str(empty))
    assert (result.exit_code, result.stderr) == (8, f"orch: {empty} names no VM: it is empty, or no inventory.\n")


def test_an_inventory_that_is_not_read_in_time_is_exit_8(
    world: World, tmp_path: Path, hosts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inventory, "TIMEOUT_S", 0.01)
    result = world.orch("config", "import", old_file(tmp_path), "--inventory", hosts)
    assert result.exit_code == 8
    assert "name the inventory's own file" in result.stderr
