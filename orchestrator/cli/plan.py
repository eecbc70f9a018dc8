"""`orch plan`: the leader's own decide() on the present view, with nothing written."""

from __future__ import annotations

import click

from orchestrator.cli import report
from orchestrator.cli.app import App, json_option
from orchestrator.cli.fleet import read_fleet
from orchestrator.domain.decision import Memory


@click.command()
@json_option
@click.pass_obj
def plan(app: App) -> None:
    """Say what the leader would do now, and why not more.

    It is asked without the leader's memory: a failback's grace looks as if it began now. Writes nothing.
    """
    fleet = read_fleet(app)
    planned = report.plan(app.decide(fleet.view, Memory(), fleet.policy, fleet.at))
    if app.as_json:
        app.answer(planned)
        return
    from orchestrator.cli import render

    app.show(render.plan(planned))
