"""`/etc/orch/orch.json`, as docs/architecture.md shows it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from orchestrator.settings import LocalSettings, SettingsError, load_settings, read_secret

DOCS = Path(__file__).parents[2] / "docs" / "architecture.md"


def example() -> str:
    found = re.search(r"## Local settings.*?```json\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert found
    return found[1]


def test_the_example_in_the_documents_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "orch.json"
    path.write_text(example())
    settings = load_settings(path)
    assert settings.vm == "backend-server"
    assert settings.amqp.hosts == ("10.0.0.21", "10.0.8.49", "10.0.10.169")
    assert settings.health_ports.guard == 9703
    assert settings.consul_token_file("guard") == Path("/etc/orch/consul/guard")


def test_the_environment_names_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "other.json"
    path.write_text(example())
    monkeypatch.setenv("ORCH_SETTINGS", str(path))
    assert isinstance(load_settings(), LocalSettings)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "is not valid: the file: Invalid JSON"),
        ("{}", "vm: Field required"),
        (json.dumps({"vm": "a", "amqp": {"hosts": []}}), "amqp.hosts: "),
        (json.dumps({"vm": "a", "amqp": {"hosts": ["b"]}, "colour": 1}), "colour: Extra inputs"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_field(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "orch.json"
    path.write_text(text)
    with pytest.raises(SettingsError, match=re.escape(sentence)) as caught:
        load_settings(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        load_settings(tmp_path / "none.json")


def test_a_secret_is_read_without_its_newline(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text("pass word\n")
    assert read_secret(path) == "pass word"
