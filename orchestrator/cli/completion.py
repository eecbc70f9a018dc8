"""`orch completion`: the script that makes a shell complete verbs, services and VMs."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from orchestrator.cli.app import App, json_option
from orchestrator.cli.exits import Exit, Stop

HOW = {
    "bash": 'eval "$(orch completion bash)"            # in ~/.bashrc',
    "zsh": 'eval "$(orch completion zsh)"             # in ~/.zshrc',
    "fish": "orch completion fish > ~/.config/fish/completions/orch.fish",
}


@click.command(epilog="\b\n" + "\n".join(HOW.values()))
@click.argument("shell", type=click.Choice(list(HOW)), metavar="bash|zsh|fish")
@json_option
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script for a shell."""
    kind = get_completion_class(shell)
    if kind is None:
        raise Stop(Exit.USAGE, f"there is no completion for {shell}.")
    script = kind(ctx.find_root().command, {}, "orch", "_ORCH_COMPLETE").source()
    app = ctx.ensure_object(App)
    if app.as_json:
        app.answer({"shell": shell, "script": script})
    app.say(script)
