"""Whatever stands in a file that a person wrote: it is taken, or every fault of it is said in a sentence."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import yaml
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.cli.old_config import NotConvertible, converted, vms_of_policy
from orchestrator.cli.policy_file import Faults, canonical_json, canonical_yaml, policy_of
from orchestrator.domain.policy import Policy
from orchestrator.settings import SettingsError, load_settings
from tests.fuzz.fleet import DOCUMENT, POLICY
from tests.fuzz.strange import bounded, expect_sentence, values

# What YAML makes something else of than text, rightly or not.
TAGGED = (
    *("!!bool maybe", "!!int ''", "!!int _", "!!int x", "!!float x", "!!timestamp x", "!!binary é", "!!null x"),
    *("0x_", "0b_", "1:99", "2001-99-99", "0001-01-01T00:00:00+23:00", "9999-12-31T23:59:59-23:00", "1" * 5000),
    *("&a [*a]", "*nowhere", "{? [1, 2] : 3}", "{? {a: 1} : 3}", "!!set {a, b}", "!!python/object:os.system x"),
    *("{<<: 3}", "{<<: [1]}", "{<<: {a: 1}, a: 2}", "!!omap [a]", "!!pairs [1]", "%", "\t", "|", "!", "@", '"\\ud800"'),
    *('"\\uD83D"', "[" * 2000, "{a: {a: {", "- - - -", "é\x07", "~", "yes", "1e400", ".nan", "-.inf", "2001-01-01"),
)
OLD: dict[str, Any] = {
    "services": {
        was: {
            "primary_vm": POLICY.vms[POLICY.services[name].order[0]].address,
            "secondary_vms": [POLICY.vms[POLICY.services[name].order[1]].address],
            "check_command": f"systemctl is-active {POLICY.services[name].unit}",
            "activate_command": f"ansible-playbook -i hosts playbooks/{POLICY.services[name].activate}",
        }
        for was, name in (("mysql", "database"), ("frontend", "frontend"), ("backend", "backend"))
    },
    "round_robin": {"enabled": True, "interval_hours": 24, "exclude_services": ["mysql"]},
}
SETTINGS: dict[str, Any] = {
    "vm": "backend-server",
    "consul": {"host": "127.0.0.1", "port": 8500, "token_dir": "/etc/orch/consul"},
    "amqp": {
        **{
            "hosts": ["10.0.0.21"],
            "port": 5671,
            "ca_file": "/etc/ca",
            "vhost": "orch",
            "requesters": ["by_hand"],
        },
        "controller": {"user": "orch_controller", "password_file": "/etc/p"},
    },
    "state_dir": "/var/lib/orch",
    "health_ports": {"controller": 9701, "worker": 9702, "guard": 9703},
    "database": {"socket": "/run/mysqld/mysqld.sock", "user": "root", "port": 3306},
}
_SCRATCH = tempfile.TemporaryDirectory()


@st.composite
def yaml_policies(draw: st.DrawFn) -> str:
    """Return the policy in YAML with one line's value made something else, or a line put in or taken away."""
    lines = yaml.safe_dump(DOCUMENT, sort_keys=False).splitlines()
    at = draw(st.integers(0, len(lines) - 1))
    odd = draw(st.sampled_from(TAGGED) | st.text(max_size=6))
    name, colon, _ = lines[at].partition(":")
    changed = draw(st.sampled_from(([f"{name}{colon or ':'} {odd}"], [lines[at], f"{name}: {odd}"], [odd], [])))
    return "\n".join([*lines[:at], *changed, *lines[at + 1 :]])


def expect_policy_or_faults(text: str | bytes) -> None:
    """What is taken comes back from what is written of it; what is not is told, each fault in a line."""
    found = policy_of(text)
    if isinstance(found, Faults):
        assert found.sentences
        for sentence in found.sentences:
            expect_sentence(sentence)
    else:
        assert policy_of(canonical_json(found)) == policy_of(canonical_yaml(found)) == found


@bounded(60)
@given(text=values(DOCUMENT))
def test_a_policy_in_json_is_taken_or_its_faults_are_said(text: bytes) -> None:
    expect_policy_or_faults(text)


@bounded(60)
@given(text=yaml_policies())
def test_a_policy_in_yaml_is_taken_or_its_faults_are_said(text: str) -> None:
    expect_policy_or_faults(text)


@bounded(80)
@given(text=values(OLD), in_force=st.sampled_from((None, POLICY)))
def test_an_old_document_is_converted_or_refused(text: bytes, in_force: Policy | None) -> None:
    try:
        policy, notes = converted(text, vms_of_policy(POLICY), in_force)
    except NotConvertible as refused:
        expect_sentence(str(refused))
    else:
        assert policy_of(canonical_yaml(policy)) == policy
        for note in notes:
            note.encode()


@bounded(50)
@given(text=values(SETTINGS))
def test_the_settings_of_a_vm_are_taken_or_their_faults_are_said(text: bytes) -> None:
    path = Path(_SCRATCH.name) / "orch.json"
    path.write_bytes(text)
    try:
        load_settings(path)
    except SettingsError as refused:
        expect_sentence(str(refused))


def test_what_the_changes_are_made_from_is_right() -> None:
    assert isinstance(policy_of(json.dumps(DOCUMENT)), Policy)
    assert isinstance(policy_of(yaml.safe_dump(DOCUMENT)), Policy)
    assert converted(json.dumps(OLD), vms_of_policy(POLICY), POLICY)[0].services == POLICY.services
    (Path(_SCRATCH.name) / "right.json").write_text(json.dumps(SETTINGS))
    assert load_settings(Path(_SCRATCH.name) / "right.json").vm == "backend-server"
