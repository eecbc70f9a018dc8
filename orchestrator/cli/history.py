"""`orch history`: the journal that the leader keeps, each entry with its reason."""

from __future__ import annotations

import click

from orchestrator.cli.app import App, json_option
from orchestrator.cli.fleet import check_service, records_under
from orchestrator.cli.names import complete_services
from orchestrator.cli.report import record
from orchestrator.domain import keys
from orchestrator.domain.records import HistoryEntry
from orchestrator.store.port import KvPair, Unknown

BLOCK_S = 30.0
RETRY_S = 1.0


@click.command()
@click.argument("service", shell_complete=complete_services, required=False)
@click.option("--limit", "-n", type=click.IntRange(min=1), default=30, show_default=True, help="The newest so many.")
@click.option("--follow", "-f", is_flag=True, help="Stay, and print new entries (Ctrl-C ends it).")
@json_option
@click.pass_obj
def history(app: App, service: str | None, limit: int, follow: bool) -> None:
    """Show the journal, the newest entry last.

    With --json: a list; with --follow, one JSON document a line.
    """
    index, pairs = app.port.kv_list(keys.HISTORY)
    every = entries_of(app, pairs, None)
    check_service(app, service, {entry.service for entry in every})
    mine = [entry for entry in every if service is None or entry.service == service]
    entries = mine[-limit:]
    if app.as_json and not follow:
        app.answer([record(entry) for entry in entries])
        return
    if not entries and not follow:
        app.say("the journal is empty." if service is None else f"the journal has nothing about {service}.")
        return
    _print(app, entries)
    if follow:
        try:
            _follow(app, service, index, {entry.id for entry in mine})
        except KeyboardInterrupt:
            return


def entries_of(app: App, pairs: tuple[KvPair, ...], service: str | None) -> list[HistoryEntry]:
    """Return the readable entries, oldest first, and warn of the others."""
    entries, unreadable = records_under(keys.HISTORY, HistoryEntry, pairs)
    for bad in unreadable:
        app.warn(f"{bad.key} cannot be read: {bad.problem}")
    return [entry for entry in entries if service is None or entry.service == service]


def _print(app: App, entries: list[HistoryEntry]) -> None:
    from orchestrator.cli import render

    for entry in entries:
        if app.as_json:
            app.answer_line(record(entry))
        else:
            app.show(render.history_line(record(entry)))


def _follow(app: App, service: str | None, index: int, said: set[str]) -> None:
    while True:
        try:
            found, pairs = app.port.kv_list(keys.HISTORY, index=index, wait_s=BLOCK_S)
        except Unknown as unknown:
            app.warn(f"Consul does not answer ({unknown}); asking again")
            app.sleep(RETRY_S)
            continue
        index = found if found >= index else 0
        new = [entry for entry in entries_of(app, pairs, service) if entry.id not in said]
        said.update(entry.id for entry in new)
        _print(app, new)
