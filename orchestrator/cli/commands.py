"""`orch commands`: the runs of playbooks, seen through their records in KV."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.cli.app import App, json_option
from orchestrator.cli.exits import refuse
from orchestrator.cli.fleet import check_service, records_under
from orchestrator.cli.names import complete_commands, complete_services
from orchestrator.cli.report import record
from orchestrator.domain import keys
from orchestrator.domain.records import Command

DEFAULT_STATE_DIR = "/var/lib/orch"


@click.group()
def commands() -> None:
    """List, show and cancel commands (runs of playbooks)."""


@commands.command(name="list")
@click.option("--service", shell_complete=complete_services, help="Only those of this service.")
@click.option("--limit", "-n", type=click.IntRange(min=1), default=20, show_default=True, help="The newest so many.")
@json_option
@click.pass_obj
def list_(app: App, service: str | None, limit: int) -> None:
    """List commands, the newest last."""
    _, pairs = app.port.kv_list(keys.COMMANDS)
    found, unreadable = records_under(keys.COMMANDS, Command, pairs)
    check_service(app, service, {c.service for c in found})
    rows = [record(c) for c in found if service is None or c.service == service][-limit:]
    for bad in unreadable:
        app.warn(f"{bad.key} cannot be read: {bad.problem}")
    if app.as_json:
        app.answer(rows)
    elif rows:
        from orchestrator.cli import render

        app.show(render.commands(rows, app.now()))
    else:
        app.say("there are no commands.")


@commands.command()
@click.argument("command_id", metavar="ID", shell_complete=complete_commands)
@json_option
@click.pass_obj
def show(app: App, command_id: str) -> None:
    """Show one command, field by field."""
    found = _read(app, command_id)
    if app.as_json:
        app.answer(record(found))
        return
    from orchestrator.cli import render

    app.show(render.command(record(found)))


@commands.command()
@click.argument("command_id", metavar="ID", shell_complete=complete_commands)
@json_option
@click.pass_obj
def logs(app: App, command_id: str) -> None:
    """Print the output of a command's play.

    In full on the VM whose worker ran it; elsewhere the end of it, which is in the record.
    """
    found = _read(app, command_id)
    full = output_file(app, found)
    whole = _lines_of(full)
    here = whole is not None
    lines = list(found.tail) if whole is None else whole
    if app.as_json:
        app.answer({"id": found.id, "worker": found.worker, "file": str(full), "complete": here, "lines": lines})
        return
    for line in lines:
        app.say(line)
    if found.worker is None:
        app.warn("no worker has run it yet.")
    elif not here:
        app.warn(f"this is the end of it; the whole output is on {found.worker} in {full}.")


@commands.command()
@click.argument("command_id", metavar="ID", shell_complete=complete_commands)
@json_option
@click.pass_obj
def cancel(app: App, command_id: str) -> None:
    """Ask for a command to be cancelled.

    A pending one is not run, a running play is stopped; the request it belongs to then ends as cancelled.
    """
    from orchestrator.store.records import update_record

    found = _read(app, command_id)
    if update_record(app.port, keys.command(command_id), Command, _with_cancellation) is None:
        found = _read(app, command_id)
        raise refuse(f"command {found.id} has ended already: {found.state.value}.")
    if app.as_json:
        app.answer({"id": found.id, "cancel_requested": True})
    app.say(f"cancellation of {found.playbook} on {found.target} asked for; `orch commands show {found.id}` tells.")


def output_file(app: App, command: Command) -> Path:
    """Return where the worker that ran the command keeps the whole output of its last attempt (ansible-runner's
    layout: `artifacts/<ident>/stdout` in the private data folder, which `execute.play` names after the command)."""
    state_dir = str(app.local_settings().get("state_dir") or DEFAULT_STATE_DIR)
    return Path(state_dir) / "artefacts" / command.id / "artifacts" / str(command.attempt) / "stdout"


def _lines_of(file: Path) -> list[str] | None:
    """Read the file; None where it is not here, or not for us to read (it is the worker's, mode 0600)."""
    try:
        return file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None


def _with_cancellation(command: Command) -> Command | None:
    return None if command.is_final else command.with_(cancel_requested=True)


def _read(app: App, command_id: str) -> Command:
    _, pair = app.port.kv_get(keys.command(command_id))
    if pair is None:
        raise refuse(f"there is no command {command_id}; `orch commands list` shows those that are kept.")
    from orchestrator.store.records import problem_in

    try:
        return Command.from_json(pair.value)
    except ValueError as error:
        raise refuse(f"{pair.key} cannot be read: {problem_in(error)}") from None
