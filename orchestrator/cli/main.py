"""`orch`: the global options, the list of verbs, and what becomes of an error.

A verb's module is imported only when the verb is used, since rich, pydantic and the Consul library cost more time
than most answers.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from orchestrator import __version__
from orchestrator.cli.app import DEFAULT_SETTINGS_FILE, App
from orchestrator.cli.exits import MEANINGS, Exit, Stop

JSON_OPTION = "--json"
_WANTS_JSON = "orch.wants_json"
WHICH_TOKEN = (
    "Use an operator's token: root has it on every VM (sudo); otherwise name its file in CONSUL_HTTP_TOKEN_FILE, "
    "or put it into ~/.config/orch/consul-token."
)
# What a shell calls the end by SIGPIPE, which Python turns into an error.
BROKEN_PIPE = 128 + signal.SIGPIPE

# name -> (where it is, the line in `orch --help`, which a test compares with the verb's own)
VERBS: Mapping[str, tuple[str, str]] = {
    "status": ("status:status", "Show the fleet: services, VMs, moves, diagnoses."),
    "why": ("why:why", "Say why a service is where it is, from observation to decision."),
    "plan": ("plan:plan", "Say what the leader would do now, and why not more."),
    "history": ("history:history", "Show the journal, the newest entry last."),
    "failover": ("moves:failover", "Move a service to another VM, which becomes its designated one."),
    "failback": ("moves:failback", "Bring a service home."),
    "rotate": ("moves:rotate", "Move a service to the next VM of its order."),
    "clone": ("moves:clone", "Replace the standby's copy of a replicated service's data."),
    "follow": ("moves:follow", "Follow a request until it has ended."),
    "pause": ("automation:pause", "Switch all automatic moves off."),
    "resume": ("automation:resume", "End the pause, or acknowledge the hold of a service."),
    "maintenance": ("automation:maintenance", "Take a VM out as a target, or put it back."),
    "commands": ("commands:commands", "List, show and cancel commands (runs of playbooks)."),
    "config": ("config:config", "Validate, show, compare, write and import the fleet's policy."),
    "backup": ("backup:backup", "Make, list and go back to backups of the database and of Consul."),
    "notify": ("notify:notify", "Try the sinks that are told of what happens."),
    "playbooks": ("playbooks:playbooks", "Say which playbooks the workers have, and have them be the same."),
    "doctor": ("doctor:doctor", "Find what is wrong with the fleet, and say what to do about it."),
    "replay": ("replay:replay", "Feed recorded inputs to decide() and print what it says."),
    "controller": ("daemons:controller", "Run the controller."),
    "worker": ("daemons:worker", "Run the worker."),
    "guard": ("daemons:guard", "Run the guard of this VM."),
    "completion": ("completion:completion", "Print the completion script for a shell."),
}


class LazyGroup(click.Group):
    """A group whose verbs are imported when used, and where errors become sentences and exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order of the table above."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the verb's module and return the verb."""
        if cmd_name not in VERBS:
            return None
        module, _, attribute = VERBS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(f"orchestrator.cli.{module}"), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of verbs and the exit codes without importing any verb."""
        with formatter.section("Verbs"):
            formatter.write_dl([(name, line) for name, (_, line) in VERBS.items()])
        with formatter.section("Exit status"):
            formatter.write_dl([(str(code.value), meaning) for code, meaning in MEANINGS.items()])

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Read the global options; wrong usage is answered in JSON too where that is asked for."""
        # Noted before anything is parsed: after wrong usage nobody knows which options were meant.
        wants_json = JSON_OPTION in args
        try:
            ctx = super().make_context(info_name, args, parent, **extra)
        except click.UsageError as wrong:
            _answer_wrong_usage(wrong, wants_json)
            raise
        ctx.meta[_WANTS_JSON] = wants_json
        return ctx

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb; an error that is nobody's bug becomes one sentence, as JSON too where asked for."""
        try:
            return self._invoke_translated(ctx)
        except Stop as stop:
            app = ctx.find_object(App)
            if app is not None and app.as_json:
                app.answer(stop.as_json())
            raise
        except click.UsageError as wrong:
            _answer_wrong_usage(wrong, ctx.meta[_WANTS_JSON])
            raise
        except BrokenPipeError:
            # Whoever read the output has seen enough (`orch history | head`). What is still buffered goes nowhere: the
            # interpreter would complain of it at its end.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            raise click.exceptions.Exit(BROKEN_PIPE) from None

    def _invoke_translated(self, ctx: click.Context) -> Any:
        from orchestrator.store.port import Refused, Unknown, UnknownToken

        try:
            return super().invoke(ctx)
        except UnknownToken as unknown:
            said = f"refused: {unknown} (an agent that has just started knows none for a second). {WHICH_TOKEN}"
            raise Stop(Exit.REFUSED, said) from None
        except Unknown as unknown:
            raise unreachable(ctx.ensure_object(App), unknown) from None
        except Refused as refused:
            hint = f" {WHICH_TOKEN}" if "Permission denied" in str(refused) else ""
            raise Stop(Exit.REFUSED, f"refused by Consul: {refused}{hint}") from None


def _answer_wrong_usage(wrong: click.UsageError, wants_json: bool) -> None:
    if wants_json:
        # Where a verb is missing click's message is the whole help.
        missing = isinstance(wrong, click.exceptions.NoArgsIsHelpError)
        reason = "a verb is missing; --help lists them." if missing else wrong.format_message()
        App().answer(Stop(Exit.USAGE, reason).as_json())


def unreachable(app: App, unknown: Exception) -> Stop:
    """Tell a Consul that does not answer from one without a leader."""
    from orchestrator.store.port import Refused, Unknown

    host, port = app.consul_address
    try:
        answers = not app.port.leader_known()
    except (Unknown, Refused):
        answers = False
    if answers:
        return Stop(
            Exit.UNREACHABLE,
            f"Consul at {host}:{port} has no leader (no quorum): nothing can be read or moved until it has one.",
        )
    return Stop(Exit.UNREACHABLE, f"Consul at {host}:{port} cannot be reached: {_shortly(unknown)}.")


def _shortly(unknown: BaseException) -> str:
    """Return the system's own error where there is one, without the layers of the HTTP library around it."""
    said, cause = str(unknown), unknown.__context__
    while cause is not None:
        if isinstance(cause, TimeoutError):
            return "no answer in time"
        if isinstance(cause, OSError) and cause.strerror:
            said = cause.strerror.lower()
        cause = cause.__context__
    return said


@click.command(
    cls=LazyGroup,
    name="orch",
    subcommand_metavar="VERB ...",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option("--consul", metavar="HOST:PORT", envvar="ORCH_CONSUL", help="The Consul agent to ask [local settings].")
@click.option(
    "--settings",
    "settings_file",
    type=click.Path(path_type=Path),
    envvar="ORCH_SETTINGS",
    help=f"The local settings file [{DEFAULT_SETTINGS_FILE}].",
)
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")
@click.version_option(__version__, prog_name="orch")
@click.pass_context
def cli(ctx: click.Context, consul: str | None, settings_file: Path | None, as_json: bool) -> None:
    """Keep the services of a small fleet of VMs running: watch, move, bring back, rotate."""
    app = ctx.ensure_object(App)
    app.consul = consul or app.consul
    app.settings_file = settings_file or app.settings_file
    app.as_json = as_json or app.as_json


def main() -> None:
    """Run `orch` (the console script)."""
    # Looking for plugins of pydantic reads the metadata of every installed package: a sixth of the start-up time.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    cli(prog_name="orch")


if __name__ == "__main__":
    main()
