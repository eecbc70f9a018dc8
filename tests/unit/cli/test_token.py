"""By which token `orch` talks to Consul, and what it says where that is not enough."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.cli.app import App
from orchestrator.store.port import Port, Refused, UnknownToken
from tests.unit.cli.world import World


@pytest.fixture
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without any token, on a VM where no token may be read; returns the folder of that VM's tokens."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "tokens").mkdir()
    return tmp_path / "tokens"


def taken_by(world: World, tokens: Path) -> list[str | None]:
    """Run a verb; return the tokens that Consul was asked with."""
    taken: list[str | None] = []

    def open_port(host: str, port: int, token: str | None) -> Port:
        taken.append(token)
        return world.port()

    settings = tokens.parent / "orch.json"
    settings.write_text(json.dumps({"consul": {"token_dir": str(tokens)}}))
    assert world.orch("--settings", str(settings), "status", open_port=open_port).exit_code == 0
    return taken


def test_of_several_tokens_the_user_s_own_comes_before_the_vm_s(
    world: World, nobody: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert taken_by(world, nobody) == [None]
    (nobody / "worker").write_text("the worker's\n")
    assert taken_by(world, nobody) == ["the worker's"]
    (nobody / "operator").write_text("the operator's\n")
    assert taken_by(world, nobody) == ["the operator's"]
    own = nobody.parent / "config" / "orch" / "consul-token"
    own.parent.mkdir(parents=True)
    own.write_text("my own\n")
    assert taken_by(world, nobody) == ["my own"]
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", "in the environment")
    assert taken_by(world, nobody) == ["in the environment"]
    # As Consul's own tool has it.
    named = nobody.parent / "named"
    named.write_text("in a file\n")
    monkeypatch.setenv("CONSUL_HTTP_TOKEN_FILE", str(named))
    assert taken_by(world, nobody) == ["in a file"]


def test_a_token_s_file_that_is_not_there_is_exit_8(
    world: World, nobody: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONSUL_HTTP_TOKEN_FILE", str(nobody / "none"))
    result = world.orch("status", open_port=App().open_port)
    assert result.exit_code == 8
    assert f"{nobody}/none, which CONSUL_HTTP_TOKEN_FILE names, cannot be read: no such file" in result.stderr


@pytest.mark.parametrize(
    ("problem", "sentence"),
    [
        (Refused("403 Permission denied: token lacks 'key:write'"), "refused by Consul: 403 Permission denied"),
        (UnknownToken("Consul does not know the token"), "refused: Consul does not know the token (an agent that"),
    ],
)
def test_without_the_right_it_is_exit_3_and_said_which_token_has_it(
    world: World, problem: Exception, sentence: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise problem

    port = world.port()
    port.kv_put = fail  # type: ignore[method-assign,assignment]
    result = world.orch("pause", open_port=lambda host, number, token: port)
    assert result.exit_code == 3
    assert result.stderr.startswith(f"orch: {sentence}")
    assert "root has it on every VM (sudo)" in result.stderr
    assert "CONSUL_HTTP_TOKEN_FILE" in result.stderr
