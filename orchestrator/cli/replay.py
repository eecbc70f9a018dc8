"""`orch replay`: recorded inputs through today's decide()."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.app import App, json_option
from orchestrator.cli.exits import Exit, Stop

if TYPE_CHECKING:
    from orchestrator.recorder import Replayed


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--quiet", "-q", is_flag=True, help="Print only the cycles whose outcome differs.")
@json_option
@click.pass_obj
def replay(app: App, file: Path, quiet: bool) -> None:
    """Feed recorded inputs to decide() and print what it says.

    FILE holds lines of a controller's recorder (/var/lib/orch on the controllers). Exits 4 when an outcome is not
    the recorded one. Reads no Consul.
    """
    from orchestrator.recorder import replay as cycles_of

    differing = total = 0
    kept: list[dict[str, Any]] = []
    try:
        for cycle in cycles_of(file):
            total += 1
            differing += not cycle.agrees
            if quiet and cycle.agrees:
                continue
            if app.as_json:
                kept.append(_as_json(cycle))
            else:
                _print(app, cycle)
    except (ValueError, OSError) as error:
        raise Stop(Exit.BROKEN_INPUT, f"{file}: {error}") from None
    if app.as_json:
        app.answer({"total": total, "differing": differing, "cycles": kept})
    if differing:
        app.warn(f"{differing} of {total} outcomes differ from the recorded ones.")
        raise click.exceptions.Exit(int(Exit.FAILED))
    app.say(f"{total} cycles, all as recorded.")


def _as_json(cycle: Replayed) -> dict[str, Any]:
    compared = {"recorded": cycle.recorded, "replayed": cycle.replayed}
    return {"line": cycle.line, "now": cycle.now, "agrees": cycle.agrees, **compared}


def _print(app: App, cycle: Replayed) -> None:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(cycle.now))
    app.say(f"{cycle.line:>6}  {when}  {cycle.replayed['sentence']}")
    for name, was in cycle.recorded.items():
        if cycle.replayed.get(name) != was:
            app.say(f"        {name} was recorded as {was}")
            app.say(f"        {name} is now         {cycle.replayed.get(name)}")
