"""What `--json` promises: whatever becomes of a verb, stdout holds one JSON document, and a failed one says why."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from orchestrator.cli.exits import Exit
from orchestrator.cli.main import VERBS, cli
from orchestrator.domain.decision import Memory
from orchestrator.domain.policy import Policy
from orchestrator.domain.records import RequestState
from orchestrator.recorder import Inputs, line_of
from tests.unit.cli.test_old_config import OLD
from tests.unit.cli.world import NOW, POLICY, World

COMMAND = "1700000000100-backend-activate-e1"
TEMPLATES = Path(__file__).resolve().parents[3] / "templates"
# They need settings of a VM; test_backup.py has what `backup` answers there.
OF_A_VM = {("controller",), ("worker",), ("guard",), ("backup", "make"), ("backup", "list"), ("backup", "restore")}


def leaves(command: click.Command, *path: str) -> Iterator[tuple[str, ...]]:
    """Return every verb that does something, by its words."""
    if not isinstance(command, click.Group):
        yield path
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        inner = command.get_command(context, name)
        assert inner is not None
        yield from leaves(inner, *path, name)


# Words of the verb, then what follows them; FILE_* are files of the fixture below.
WELL = {
    ("status",): "",
    ("why",): "backend",
    ("plan",): "",
    ("history",): "",
    ("failover",): "backend --dry-run",
    ("failback",): "backend --no-wait",
    ("rotate",): "--all --no-wait",
    ("clone",): "backend --no-wait",
    ("follow",): "REQUEST",
    ("pause",): "",
    ("resume",): "",
    ("maintenance", "on"): "backend-server",
    ("maintenance", "off"): "backend-server",
    ("commands", "list"): "",
    ("commands", "show"): COMMAND,
    ("commands", "logs"): COMMAND,
    ("commands", "cancel"): COMMAND,
    ("config", "validate"): "FILE_SAME",
    ("config", "show"): "",
    ("config", "diff"): "FILE_SAME",
    ("config", "apply"): "FILE_OTHER",
    ("config", "import"): "FILE_OLD",
    ("notify", "test"): "ops",
    ("playbooks", "status"): "",
    ("playbooks", "release"): "",
    ("playbooks", "sync"): "--if-source",
    ("doctor",): "--here",
    ("replay",): "FILE_RECORD",
    ("completion",): "bash",
}
NOT_WELL = {
    ("status",): ("--colour", Exit.USAGE),
    ("why",): ("mail", Exit.REFUSED),
    ("plan",): ("now", Exit.USAGE),
    ("history",): ("mail", Exit.REFUSED),
    ("failover",): ("", Exit.USAGE),
    ("failback",): ("backend", Exit.REFUSED),
    ("rotate",): ("", Exit.USAGE),
    ("clone",): ("backend", Exit.REFUSED),
    ("follow",): ("REQUEST_FAILED", Exit.FAILED),
    ("pause",): ("--colour", Exit.USAGE),
    ("resume",): ("backend --timeout nan", Exit.USAGE),
    ("maintenance", "on"): ("mars", Exit.REFUSED),
    ("maintenance", "off"): ("mars", Exit.REFUSED),
    ("commands", "list"): ("--service mail", Exit.REFUSED),
    ("commands", "show"): ("none", Exit.REFUSED),
    ("commands", "logs"): ("none", Exit.REFUSED),
    ("commands", "cancel"): ("none", Exit.REFUSED),
    ("config", "validate"): ("FILE_OLD", Exit.BROKEN_INPUT),
    ("config", "show"): ("--colour", Exit.USAGE),
    ("config", "diff"): ("FILE_OTHER", Exit.FAILED),
    ("config", "apply"): ("FILE_OLD", Exit.BROKEN_INPUT),
    ("config", "import"): ("FILE_SAME", Exit.BROKEN_INPUT),
    ("notify", "test"): ("nobody", Exit.REFUSED),
    ("playbooks", "status"): ("--colour", Exit.USAGE),
    ("playbooks", "release"): ("", Exit.BROKEN_INPUT),
    ("playbooks", "sync"): ("", Exit.BROKEN_INPUT),
    ("doctor",): ("", Exit.BROKEN_INPUT),
    ("backup", "make"): ("consul", Exit.BROKEN_INPUT),
    ("backup", "list"): ("", Exit.BROKEN_INPUT),
    ("backup", "restore"): ("consul-20231114T221320Z", Exit.BROKEN_INPUT),
    ("replay",): ("FILE_CHANGED_RECORD", Exit.FAILED),
    ("controller",): ("", Exit.BROKEN_INPUT),
    ("worker",): ("", Exit.BROKEN_INPUT),
    ("guard",): ("", Exit.BROKEN_INPUT),
    ("completion",): ("tcsh", Exit.USAGE),
}


@pytest.fixture
def files(world: World, tmp_path: Path) -> dict[str, str]:
    """What the words in capitals stand for, with the records that they need."""
    policy = Policy.model_validate(POLICY)
    inputs = Inputs(NOW, world.consul.peek_list("orch/"), world.port().checks()[1], policy, Memory())
    record = json.loads(line_of(inputs, inputs.decided()))
    changed = record | {"outcome": record["outcome"] | {"sentence": "Nobody knows."}}
    documents = {
        "FILE_SAME": POLICY,
        "FILE_OTHER": POLICY | {"drain_s": 3},
        "FILE_OLD": OLD,
        "FILE_RECORD": record,
        "FILE_CHANGED_RECORD": changed,
        "FILE_SETTINGS": {"templates_dir": str(TEMPLATES)},
    }
    for name, document in documents.items():
        (tmp_path / name).write_text(json.dumps(document), encoding="utf-8")
    return {name: str(tmp_path / name) for name in documents}


def run(world: World, files: dict[str, str], *words: str) -> tuple[int, Any]:
    """Run the verb; return its exit status and its answer."""
    world.put_command()
    if words[-1].startswith("REQUEST"):
        assert world.orch("failover", "backend", "--no-wait").exit_code == 0
        ended = RequestState.FAILED if words[-1] == "REQUEST_FAILED" else RequestState.SUCCEEDED
        world.change_request(state=ended, outcome="it is over.")
        words = (*words[:-1], world.requests()[-1].id)
    given = [files.get(word, word) for word in words]
    result = world.orch(*given, settings_file=Path(files["FILE_SETTINGS"]))
    return result.exit_code, json.loads(result.stdout)


def test_every_verb_is_asked_below() -> None:
    every = set(leaves(cli))
    assert set(NOT_WELL) == every
    assert set(WELL) == every - OF_A_VM
    assert {verb[0] for verb in every} == set(VERBS)


@pytest.mark.parametrize("verb", WELL, ids=" ".join)
@pytest.mark.parametrize("before", [True, False])
def test_a_verb_that_succeeds_answers_in_json(
    world: World, files: dict[str, str], tmp_path: Path, verb: tuple[str, ...], before: bool
) -> None:
    if verb == ("failback",):
        world.activate("backend", "messaging-server", epoch=2)
    if verb == ("clone",):
        world.with_a_diverged_copy()
    if verb == ("notify", "test"):
        world.with_a_sink({"name": "ops", "kind": "command", "command": ["/bin/true"]})
    if verb[0] in ("doctor", "playbooks"):
        (tmp_path / "ansible").mkdir()
        settings = {"vm": "frontend-server", "amqp": {"hosts": ["10.0.0.21"]}, "ansible_dir": str(tmp_path / "ansible")}
        Path(files["FILE_SETTINGS"]).write_text(json.dumps(settings))
        world.with_playbooks("d1" * 32)
    rest = WELL[verb].split()
    code, _ = run(world, files, *(("--json", *verb, *rest) if before else (*verb, "--json", *rest)))
    assert code == 0


@pytest.mark.parametrize("verb", NOT_WELL, ids=" ".join)
def test_a_verb_that_does_not_succeed_says_how_it_ended_and_why(
    world: World, files: dict[str, str], verb: tuple[str, ...]
) -> None:
    rest, expected = NOT_WELL[verb]
    code, answer = run(world, files, "--json", *verb, *rest.split())
    assert (code, answer["exit"], answer["outcome"]) == (expected, expected, expected.name.lower())
    assert answer["reason"]


@pytest.mark.parametrize("words", [("--json", "config"), ("--json", "fly"), ("--colour", "--json", "status")])
def test_wrong_usage_is_answered_in_json_wherever_it_is_found(world: World, words: tuple[str, ...]) -> None:
    result = world.orch(*words)
    assert (result.exit_code, json.loads(result.stdout)["outcome"]) == (2, "usage")


def test_without_json_wrong_usage_prints_nothing_on_stdout(world: World) -> None:
    assert world.orch("failover").stdout == ""
