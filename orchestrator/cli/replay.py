"""`orch replay`: recorded inputs through today's decide()."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.app import App, json_option
from orchestrator.cli.exits import Exit, Stop

if TYPE_CHECKING:
    from orchestrator.recorder import Replayed


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
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
    for cycle in _from_file(file, cycles_of):
        total += 1
        differing += not cycle.agrees
        if quiet and cycle.agrees:
            continue
        if app.as_json:
            kept.append(_as_json(cycle))
        else:
            _print(app, cycle)
    if not total:
        raise Stop(Exit.BROKEN_INPUT, f"{file}: there is nothing to replay in it.")
    found = {"total": total, "differing": differing, "cycles": kept}
    if differing:
        raise Stop(Exit.FAILED, f"{differing} of {total} outcomes differ from the recorded ones.", found)
    if app.as_json:
        app.answer(found)
    app.say(f"{total} cycle{'s' if total != 1 else ''}, all as recorded.")


def _from_file(file: Path, cycles_of: Callable[[Path], Iterator[Replayed]]) -> Iterator[Replayed]:
    """Pass the cycles on. What goes wrong in reading them ends the verb; what goes wrong in printing them does not
    come by here."""
    cycles = cycles_of(file)
    while True:
        try:
            cycle = next(cycles)
        except StopIteration:
            return
        except OSError as error:
            said = (error.strerror or str(error)).lower()
            raise Stop(Exit.BROKEN_INPUT, f"{file} cannot be read: {said}.") from None
        except ValueError as error:
            raise Stop(Exit.BROKEN_INPUT, f"{file}: {error}") from None
        yield cycle


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
