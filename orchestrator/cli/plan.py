"""`orch plan`: the leader's own decide() on the present view, with nothing written."""

from __future__ import annotations

import click

from orchestrator.cli import report
from orchestrator.cli.app import App, json_option
from orchestrator.cli.fleet import read_fleet


@click.command()
@json_option
@click.pass_obj
def plan(app: App) -> None:
    """Say what the leader would do now, and why not more.

    How long a failback's grace has lasted is read from the journal. Writes nothing.
    """
    fleet = read_fleet(app)
    planned = report.plan(app.decide(fleet.view, fleet.memory, fleet.policy, fleet.at))
    if app.as_json:
        app.answer(planned)
        return
    from orchestrator.cli import render

    app.show(render.plan(planned))
