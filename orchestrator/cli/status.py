"""`orch status`: the fleet at a glance, once or for as long as somebody watches."""

from __future__ import annotations

from typing import Any

import click

from orchestrator.cli import report
from orchestrator.cli.app import App, json_option
from orchestrator.cli.fleet import Fleet, NoPolicy, look
from orchestrator.store.port import Unknown

# A change in KV is shown at once; checks are read anew at least this often.
REFRESH_S = 1.0


@click.command()
@click.option("--watch", "-w", is_flag=True, help="Stay, and show every change (Ctrl-C ends it).")
@json_option
@click.pass_obj
def status(app: App, watch: bool) -> None:
    """Show the fleet: services, VMs, moves, diagnoses.

    Exits 0 whenever the fleet could be read; `healthy` in the JSON answer says whether all is well.
    """
    if watch:
        _watch(app)
        return
    found = _report(app, look(app.port, app.now()))
    if app.as_json:
        app.answer(found)
        return
    from orchestrator.cli import render

    app.show(render.status(found))


def _report(app: App, fleet: Fleet | NoPolicy) -> dict[str, Any]:
    if isinstance(fleet, NoPolicy):
        return {**report.EMPTY_STATUS, "at": app.now(), "problem": fleet.sentence}
    return report.status(fleet, app.decide(fleet.view, fleet.memory, fleet.policy, fleet.at))


def _watch(app: App) -> None:
    """Show each new state: redrawn in place on a terminal; piped, printed anew (one JSON document a line)."""
    index, last = 0, None
    try:
        with _Screen(app) as draw:
            while True:
                fleet, index = _look_patiently(app, index)
                found = _report(app, fleet) if fleet is not None else None
                if found is not None and (draw.redraws_ages or _without_times(found) != last):
                    last = _without_times(found)
                    draw(found)
    except KeyboardInterrupt:
        return


def _look_patiently(app: App, index: int) -> tuple[Fleet | NoPolicy | None, int]:
    """Read after the next change; None while Consul does not answer (it is asked again, as somebody is watching)."""
    try:
        fleet = look(app.port, app.now(), index=index, wait_s=REFRESH_S if index else 0.0)
    except Unknown as unknown:
        if index == 0:
            raise
        app.warn(f"Consul does not answer ({unknown}); asking again")
        app.sleep(REFRESH_S)
        return None, index
    if isinstance(fleet, NoPolicy):
        app.sleep(REFRESH_S)
        return fleet, index
    return fleet, fleet.index if fleet.index >= index else 0


def _without_times(found: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if name != "at"}


class _Screen:
    """Where `--watch` draws; a context manager, since a terminal must be put right afterwards."""

    def __init__(self, app: App) -> None:
        from orchestrator.cli import render

        self._app, self._render, self._live = app, render.status, None if app.as_json else render.live(app)
        self.redraws_ages = self._live is not None

    def __enter__(self) -> _Screen:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, found: dict[str, Any]) -> None:
        if self._live is not None:
            self._live.update(self._render(found), refresh=True)
        elif self._app.as_json:
            self._app.answer_line(found)
        else:
            self._app.show(self._render(found))
            self._app.say("")
