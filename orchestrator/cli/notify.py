"""`orch notify`: the sinks of the policy, tried from here."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.cli.app import App, json_option
from orchestrator.cli.exits import Exit, Stop, refuse
from orchestrator.cli.fleet import read_fleet
from orchestrator.cli.names import complete_sinks


@click.group()
def notify() -> None:
    """Try the sinks that are told of what happens."""


@notify.command()
@click.argument("sink", shell_complete=complete_sinks)
@json_option
@click.pass_obj
def test(app: App, sink: str) -> None:
    """Send one sample to a sink of the policy in force, and say what came of it.

    To be run on a controller's VM as the daemon's user, who may read the sink's secrets:
    `sudo -u orch-controller orch notify test SINK`. Tries once; exits 4 where the sample was not delivered.
    """
    from orchestrator.domain.ids import timed_id
    from orchestrator.domain.records import HistoryEntry
    from orchestrator.notify.delivery import deliver
    from orchestrator.notify.notice import Notice, Templates, Undelivered
    from orchestrator.settings import DEFAULT_TEMPLATES

    known = {each.name: each for each in read_fleet(app).policy.notifications}
    if sink not in known:
        there_are = f"its sinks are {', '.join(known)}" if known else "it has none (docs/operations.md, Notifications)"
        raise refuse(f"{sink} is not a sink of the policy in force; {there_are}.")
    at = app.now()
    entry = HistoryEntry(
        id=timed_id(at, "fleet", "sample"),
        at=at,
        kind="sample",
        reason=f"A sample that {app.who()} asked for: nothing has happened.",
    )
    templates = Templates(Path(app.local_settings().get("templates_dir") or DEFAULT_TEMPLATES))
    facts = {"sink": sink, "kind": known[sink].kind}
    try:
        said = deliver(known[sink], Notice(entry, sink, is_sample=True), templates)
    except Undelivered as problem:
        raise Stop(
            Exit.FAILED, f"the sample was not delivered to {sink}: {problem}.", {**facts, "delivered": False}
        ) from None
    if app.as_json:
        app.answer({**facts, "delivered": True, "said": said})
    app.say(f"the sample was delivered to {sink}: {said}.")
