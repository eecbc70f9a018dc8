"""docs/from-the-guide.md promises nothing that is not there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from orchestrator.cli.main import cli
from orchestrator.domain.policy import Policy

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "from-the-guide.md").read_text(encoding="utf-8")
HEAD = ["the guide", "what does it now", "better, because"]
OTHER_PROGRAMS = ("ansible", "consul", "rabbitmqctl")
# A field of the answer in JSON, the Python package, users of the broker.
WORDS = {"healthy", "orchestrator", "orch", "guest"}


def rows() -> Iterator[list[str]]:
    """Yield the cells of every row under a head."""
    for line in PAGE.splitlines():
        if line.startswith("| "):
            cells = [cell.strip() for cell in line.strip("|").split(" | ")]
            if cells != HEAD:
                yield cells


def promised() -> list[str]:
    """Return what stands in code font in the columns on orch, each once."""
    return sorted({span for cells in rows() for cell in cells[1:] for span in re.findall(r"`([^`]+)`", cell)})


def orch_command_problem(words: list[str]) -> str | None:
    """Say what is wrong with the words after `orch`, or None."""
    command: click.Command = cli
    while isinstance(command, click.Group):
        name = words.pop(0)
        inner = command.get_command(click.Context(command), name)
        if inner is None:
            return f"there is no verb {name}"
        command = inner
    try:
        _, left, _ = command.make_parser(click.Context(command)).parse_args(words)
    except click.UsageError as error:
        return error.message
    return f"nothing takes {left}" if left else None


def playbook_problem(words: list[str]) -> str | None:
    """Say what is wrong with the words after `ansible-playbook`, or None."""
    play = ROOT / "ansible" / words[0]
    if not play.is_file():
        return f"there is no playbook {words[0]}"
    told = dict(word.split("=", 1) for word in words if "=" in word)
    text = play.read_text(encoding="utf-8")
    strange = [name for name in told if name not in text]
    tags = [words[n + 1] for n, word in enumerate(words) if word == "--tags"]
    strange += [tag for tag in tags if f"tags: [{tag}]" not in text and f"tags: {tag}" not in text]
    return f"{words[0]} knows nothing of {strange}" if strange else None


def unit_problem(words: list[str]) -> str | None:
    """Say which unit after `journalctl` is none of orch's, or None."""
    units = [word for word in words if word != "-u"]
    unknown = [unit for unit in units if not (ROOT / "deploy" / "systemd" / f"{unit}.service").is_file()]
    return f"there are no units {unknown}" if unknown else None


def make_problem(words: list[str]) -> str | None:
    """Say which target `make` does not have, or None."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    unknown = [word for word in words if not re.search(rf"^{word}:", makefile, re.MULTILINE)]
    return f"there are no targets {unknown}" if unknown else None


def file_problem(path: str) -> str | None:
    """Say that a file is not in the checkout, or on no VM as docs/architecture.md tells, or None."""
    if path.startswith("/"):
        known = f"`{path}`" in (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
        return None if known else f"docs/architecture.md does not tell what {path} is"
    return None if (ROOT / path).exists() else f"there is no {path} in the checkout"


def fields_of_the_policy() -> set[str]:
    """Return the name of every value and section of the policy."""
    schema = Policy.model_json_schema()
    return {name for model in (schema, *schema["$defs"].values()) for name in model["properties"]}


def problem_with(span: str) -> str | None:
    """Say what is wrong with what the page promises, or None."""
    program, *words = shlex.split(span)
    checks = {
        "orch": orch_command_problem,
        "ansible-playbook": playbook_problem,
        "journalctl": unit_problem,
        "make": make_problem,
    }
    if program in checks and words:
        return checks[program](words)
    if "/" in program:
        return file_problem(program)
    known = program in OTHER_PROGRAMS if words else program in WORDS | fields_of_the_policy()
    return None if known else "the test does not know what it is"


@pytest.mark.parametrize("span", promised())
def test_what_the_page_names_exists(span: str) -> None:
    assert problem_with(span) is None


@pytest.mark.parametrize(
    "span",
    [
        "orch surgeon",
        "orch commands forget ID",
        "orch status --fast",
        "orch failback backend now",
        "make backups",
        "ansible-playbook playbooks/forget_everything.yml",
        "ansible-playbook playbooks/deactivate_backend.yml -e everywhere=true",
        "ansible-playbook playbooks/site.yml --tags secrets",
        "journalctl -u orch-metrics",
        "deploy/keys.sh",
        "/etc/orch/ca.pem",
        "redis-cli ping",
        "primary_vm",
    ],
)
def test_what_does_not_exist_would_be_found(span: str) -> None:
    assert problem_with(span) is not None


def test_every_row_says_what_does_it_now_and_why_that_is_better_or_that_it_is_not_there_yet() -> None:
    for cells in rows():
        assert len(cells) == len(HEAD), cells
        assert cells[1], cells
        assert cells[2] or cells[1].startswith("not yet"), cells


def test_every_playbook_that_a_worker_runs_has_its_row() -> None:
    plays = {f"ansible/playbooks/{path.name}" for path in (ROOT / "ansible" / "playbooks").glob("*activate_*.yml")}
    assert plays <= set(promised())


def test_the_readme_leads_to_it() -> None:
    assert "docs/from-the-guide.md" in (ROOT / "README.md").read_text(encoding="utf-8")
