"""The command as a whole: its verbs, its exit codes, its page, its completion, its daemons."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest

from orchestrator import __version__
from orchestrator.cli.exits import MEANINGS, OF_STATE, SHORT, Exit, in_one_line
from orchestrator.cli.main import VERBS, cli
from orchestrator.cli.policy_page import page
from orchestrator.cli.reference import reference
from orchestrator.domain.policy import Policy
from orchestrator.domain.records import CommandState, RequestState
from tests.unit.cli.world import World

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", VERBS)
def test_the_line_in_the_list_of_verbs_is_the_first_line_of_the_verbs_own_help(name: str) -> None:
    verb = cli.get_command(click.Context(cli), name)
    assert verb is not None
    assert VERBS[name][1] == (verb.help or "").splitlines()[0]


def test_every_exit_code_has_a_meaning() -> None:
    assert list(MEANINGS) == list(SHORT) == list(Exit)


@pytest.mark.parametrize("page", ["README.md", "docs/architecture.md"])
def test_the_exit_codes_on_other_pages_are_those_of_the_table(page: str) -> None:
    assert in_one_line() in " ".join((ROOT / page).read_text(encoding="utf-8").split())


def test_every_final_state_has_an_exit_code() -> None:
    final = {RequestState.SUCCEEDED, RequestState.FAILED, RequestState.REFUSED}
    final |= {RequestState.SUPERSEDED, RequestState.CANCELLED}
    assert {state.value for state in final} == set(OF_STATE)
    assert {state.value for state in CommandState} - {"pending", "running"} <= set(OF_STATE)


def test_the_page_in_docs_is_what_the_verbs_say() -> None:
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == reference()


def test_the_page_on_the_policy_is_what_its_model_says() -> None:
    assert (ROOT / "docs" / "policy.md").read_text(encoding="utf-8") == page()


def test_the_page_on_the_policy_explains_every_value() -> None:
    rows = [line.split("|") for line in page().splitlines() if line.startswith("| `")]
    schema = Policy.model_json_schema()
    names = {name for model in (schema, *schema["$defs"].values()) for name in model["properties"]}
    sections = {"vms", "services", "check", "front_door", "failback", "rotation", "flapping", "load", "dispatch"}
    sections |= {"replication", "cluster", "notifications"}
    assert {row[1].strip(" `") for row in rows} == names - sections
    assert all(row[-2].strip() for row in rows)


def test_the_version_is_printed(world: World) -> None:
    assert world.orch("--version").stdout == f"orch, version {__version__}\n"


def test_version_and_help_import_no_heavy_library() -> None:
    code = (
        "import sys\n"
        "from click.testing import CliRunner\n"
        "from orchestrator.cli.main import cli\n"
        "assert CliRunner().invoke(cli, ['--help']).exit_code == 0\n"
        "print([m for m in ('rich', 'pydantic', 'consul', 'yaml', 'pika', 'ansible') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "[]\n"


def test_a_consul_address_that_is_none_is_wrong_usage(world: World) -> None:
    assert world.orch("--consul", "here", "status").exit_code == 2


def test_the_consul_agent_is_taken_from_the_settings_file(world: World, tmp_path: Path) -> None:
    settings = tmp_path / "orch.json"
    settings.write_text(json.dumps({"consul": {"host": "10.1.2.3", "port": 8501}}), encoding="utf-8")
    world.consul.set_stopped("messaging-server", True)
    assert "Consul at 10.1.2.3:8501 cannot be reached" in world.orch("--settings", str(settings), "status").stderr


def test_a_settings_file_that_is_no_json_is_exit_8(world: World, tmp_path: Path) -> None:
    settings = tmp_path / "orch.json"
    settings.write_text("{", encoding="utf-8")
    assert world.orch("--settings", str(settings), "status").exit_code == 8


def test_a_settings_file_that_cannot_be_read_is_exit_8(world: World, tmp_path: Path) -> None:
    result = world.orch("--settings", str(tmp_path), "status")
    assert (result.exit_code, result.stderr) == (8, f"orch: {tmp_path} cannot be read: is a directory.\n")


@pytest.mark.parametrize("daemon", ["controller", "worker", "guard"])
def test_a_daemon_without_settings_is_exit_8_and_one_sentence(world: World, tmp_path: Path, daemon: str) -> None:
    result = world.orch("--settings", str(tmp_path / "none.json"), daemon)
    assert (result.exit_code, len(result.stderr.splitlines())) == (8, 1)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_there_is_a_completion_script_for_each_shell(world: World, shell: str) -> None:
    result = world.orch("completion", shell)
    assert result.exit_code == 0
    assert "_ORCH_COMPLETE" in result.stdout


def test_services_and_vms_are_completed_from_the_policy(world: World) -> None:
    from click.shell_completion import ShellComplete

    from orchestrator.cli.app import App

    app = App(open_port=lambda host, port, token: world.port())
    complete = ShellComplete(cli, {"obj": app}, "orch", "_ORCH_COMPLETE")
    assert [item.value for item in complete.get_completions(["failover"], "b")] == ["backend"]
    assert [item.value for item in complete.get_completions(["maintenance", "on"], "m")] == ["messaging-server"]


def test_requests_and_commands_are_completed_the_newest_first(world: World) -> None:
    from click.shell_completion import ShellComplete

    from orchestrator.cli.app import App

    world.orch("failover", "backend", "--no-wait")
    for command_id in ("1700000000100-backend-a", "1700000000200-backend-b"):
        world.put_command(id=command_id)
    app = App(open_port=lambda host, port, token: world.port())
    complete = ShellComplete(cli, {"obj": app}, "orch", "_ORCH_COMPLETE")
    offered = [item.value for item in complete.get_completions(["commands", "show"], "17")]
    assert offered == ["1700000000200-backend-b", "1700000000100-backend-a"]
    assert [i.value for i in complete.get_completions(["follow"], "")] == [r.id for r in world.requests()]


def test_completion_is_silent_when_consul_does_not_answer(world: World) -> None:
    from click.shell_completion import ShellComplete

    from orchestrator.cli.app import App

    world.consul.set_stopped("messaging-server", True)
    app = App(open_port=lambda host, port, token: world.port())
    complete = ShellComplete(cli, {"obj": app}, "orch", "_ORCH_COMPLETE")
    assert complete.get_completions(["failover"], "") == []
