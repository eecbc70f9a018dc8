"""`orch config`: validate, show, diff, apply."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.domain import keys
from tests.unit.cli.world import POLICY, World


@pytest.fixture
def document() -> dict[str, Any]:
    """The reference policy, to be changed."""
    copy: dict[str, Any] = json.loads(json.dumps(POLICY))
    return copy


def written(folder: Path, document: object) -> str:
    file = folder / "policy.yml"
    file.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return str(file)


def test_a_valid_document_is_valid_without_asking_consul(tmp_path: Path, document: dict[str, Any]) -> None:
    world = World()
    world.consul.set_stopped("messaging-server", True)
    result = world.orch("config", "validate", written(tmp_path, document))
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path}/policy.yml is valid: 2 services on 4 VMs.\n")


def test_every_fault_is_said_plainly_with_its_place(world: World, tmp_path: Path, document: dict[str, Any]) -> None:
    backend = document["services"]["backend"]
    backend["prot"] = 3000
    del backend["port"]
    backend["standby"] = "warm"
    backend["check"]["timeout_s"] = 3
    document["vms"]["backend-server"]["address"] = None
    document["vms"]["Mars"] = {"address": "10.0.0.9"}
    document["failback"] = {"grace_s": "soon"}
    result = world.orch("config", "validate", written(tmp_path, document))
    assert result.exit_code == 8
    assert result.stderr.splitlines() == [
        "  vms.backend-server.address: should be a valid string (it is empty)",
        "  vms.Mars.[key]: 'Mars' does not have the form ^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
        "  services.backend.port: is missing",
        "  services.backend.standby: 'warm' is not one of 'cold' or 'hot'",
        "  services.backend.check: timeout_s (3) is longer than interval_s (1): checks would overlap; "
        "make timeout_s at most interval_s",
        "  services.backend.prot: is not a known field; known here: order, unit, port, standby, check, activate, "
        "deactivate, front_door, replication, cluster",
        "  failback.grace_s: should be a valid number, unable to parse string as a number (it is 'soon')",
        f"orch: {tmp_path}/policy.yml is not a valid policy: 7 faults.",
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("services: [", "line 2, column 1: not YAML: expected the node content, but found '<stream end>'"),
        ("- a\n- b\n", "the document is a list, not a mapping with vms, services and so on"),
        ("", "the document is empty, not a mapping with vms, services and so on"),
        ("drain_s: 1\nvms: {}\ndrain_s: 2\n", "line 3: 'drain_s' stands twice in one mapping"),
        ("vms: {a: {address: 1, address: 2}}\n", "line 1: 'address' stands twice in one mapping"),
        ('{"drain_s": 1, "drain_s": 2}', "'drain_s' stands twice in one mapping"),
        ("[" * 100_000, "the document is nested too deeply to be one"),
        ("[" * 3_000 + "a: " + "]" * 3_000, "the document is nested too deeply to be one"),
    ],
)
def test_what_is_no_document_at_all_is_said_too(world: World, tmp_path: Path, text: str, fault: str) -> None:
    file = tmp_path / "policy.yml"
    file.write_text(f"{text}\n" if text else "", encoding="utf-8")
    result = world.orch("--json", "config", "validate", str(file))
    assert (result.exit_code, json.loads(result.stdout)["faults"]) == (8, [fault])


def test_times_that_contradict_each_other_are_refused_with_the_reason(
    world: World, tmp_path: Path, document: dict[str, Any]
) -> None:
    document["failback"] = {"grace_s": 1}
    result = world.orch("config", "apply", written(tmp_path, document))
    assert result.exit_code == 8
    assert "failback.grace_s (1) is shorter than the 2 s" in result.stderr


def test_the_policy_in_force_differs_from_a_changed_document_in_what_was_changed(
    world: World, tmp_path: Path, document: dict[str, Any]
) -> None:
    document["failback"] = {"grace_s": 90}
    result = world.orch("config", "diff", written(tmp_path, document))
    assert result.exit_code == 4
    assert [line for line in result.stdout.splitlines() if line[:1] in "+-"][2:] == [
        "-  grace_s: 60.0",
        "+  grace_s: 90.0",
    ]


def test_a_document_that_spells_out_a_default_does_not_differ(
    world: World, tmp_path: Path, document: dict[str, Any]
) -> None:
    document["failback"] = {"grace_s": 60}
    assert world.orch("config", "diff", written(tmp_path, document)).exit_code == 0


def test_an_applied_document_is_in_force_and_can_be_read_by_the_daemons(
    world: World, tmp_path: Path, document: dict[str, Any]
) -> None:
    from orchestrator.observe.parse import parse_policy

    document["failback"] = {"grace_s": 90}
    assert world.orch("config", "apply", written(tmp_path, document)).exit_code == 0
    kept = parse_policy(world.get(keys.CONFIG))
    assert kept.value.failback.grace_s == 90  # type: ignore[union-attr]


def test_applying_what_is_in_force_writes_nothing(world: World, tmp_path: Path, document: dict[str, Any]) -> None:
    file = written(tmp_path, document)
    index = world.consul.index
    assert world.orch("config", "apply", file).stdout == "in force already; nothing was written.\n"
    assert world.consul.index == index


def test_an_invalid_document_is_not_applied(world: World, tmp_path: Path, document: dict[str, Any]) -> None:
    before = world.get(keys.CONFIG)
    document["services"]["backend"]["order"] = ["mars"]
    result = world.orch("config", "apply", written(tmp_path, document))
    assert (result.exit_code, world.get(keys.CONFIG)) == (8, before)
    assert "service backend names mars in its order" in result.stderr


def test_the_first_policy_can_be_applied_to_an_empty_consul(tmp_path: Path, document: dict[str, Any]) -> None:
    world = World()
    assert world.orch("config", "apply", written(tmp_path, document)).exit_code == 0
    assert world.get(keys.CONFIG) is not None


def test_of_two_operators_at_the_same_time_one_is_refused(
    world: World, tmp_path: Path, document: dict[str, Any]
) -> None:
    def be_faster(node: str, operation: str, stage: str) -> None:
        world.consul.on_write = None
        world.put(keys.CONFIG, json.dumps(POLICY | {"drain_s": 2}).encode())

    document["drain_s"] = 3
    world.consul.on_write = be_faster
    result = world.orch("config", "apply", written(tmp_path, document))
    assert result.exit_code == 3
    assert "somebody else changed the policy meanwhile" in result.stderr


def test_a_shown_policy_is_a_document_that_can_be_applied(world: World, tmp_path: Path) -> None:
    file = tmp_path / "shown.yml"
    file.write_text(world.orch("config", "show").stdout, encoding="utf-8")
    assert world.orch("config", "diff", str(file)).exit_code == 0


def test_an_invalid_policy_in_kv_is_shown_with_its_faults(world: World) -> None:
    world.put(keys.CONFIG, b"vms: {}\nservices: {}\n")
    result = world.orch("config", "show")
    assert result.exit_code == 8
    assert "orch: the policy in orch/config is not a valid policy: 2 faults." in result.stderr


def test_yaml_s_own_way_of_sharing_values_is_no_key_twice(world: World, tmp_path: Path) -> None:
    file = tmp_path / "policy.yml"
    text = yaml.safe_dump(POLICY, sort_keys=False) + "failback: &times {grace_s: 60}\n"
    file.write_text(text.replace("&times {grace_s: 60}", "{<<: {grace_s: 90}, grace_s: 60}"), encoding="utf-8")
    assert world.orch("config", "diff", str(file)).exit_code == 0


@pytest.mark.parametrize("verb", ["validate", "diff", "apply"])
def test_a_file_that_is_not_there_is_exit_8(world: World, tmp_path: Path, verb: str) -> None:
    result = world.orch("config", verb, f"{tmp_path}/none.yml")
    assert (result.exit_code, result.stderr) == (
        8,
        f"orch: {tmp_path}/none.yml cannot be read: no such file or directory.\n",
    )


def test_whoever_applies_a_policy_is_reminded_of_where_the_next_deployment_takes_it_from(
    world: World, tmp_path: Path, document: dict[str, Any]
) -> None:
    document["drain_s"] = 3
    applied = world.orch("config", "apply", written(tmp_path, document))
    assert "change it there too" in applied.stdout.splitlines()[-1]
    assert "there too" not in world.orch("config", "apply", written(tmp_path, document)).stdout


def test_a_document_that_unfolds_without_end_is_named_and_not_printed(world: World, tmp_path: Path) -> None:
    lists = ["a0: &a0 [x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 6))]
    (tmp_path / "policy.yml").write_text("\n".join([*lists, "version: *a5"]), encoding="utf-8")
    result = world.orch("config", "validate", str(tmp_path / "policy.yml"))
    assert result.exit_code == 8
    assert "  version: a list is not one of 1" in result.stderr.splitlines()
    assert len(result.stderr) < 2000
