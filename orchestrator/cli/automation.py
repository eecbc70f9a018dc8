"""`orch pause`, `resume` and `maintenance`: the operator's own keys."""

from __future__ import annotations

import click

from orchestrator.cli.app import App, json_option
from orchestrator.cli.exits import refuse
from orchestrator.cli.fleet import Fleet, read_fleet
from orchestrator.cli.moves import ask, wait_options
from orchestrator.cli.names import complete_services, complete_vms
from orchestrator.cli.report import age, record
from orchestrator.domain import keys
from orchestrator.domain.records import Maintenance, Paused, RequestKind
from orchestrator.domain.view import Kept


@click.command()
@click.option("--reason", default="", help="Why; shown by `orch status`.")
@json_option
@click.pass_obj
def pause(app: App, reason: str) -> None:
    """Switch all automatic moves off.

    Requests of operators are still carried out; nothing moves by itself until `orch resume`.
    """
    _, pair = app.port.kv_get(keys.PAUSED)
    if pair is not None:
        try:
            before = Paused.from_json(pair.value)
        except ValueError:
            before = None
        if before is not None:
            since = age(app.now() - before.at)
            _done(app, f"automation is paused already, for {since} by {before.by}.", record(before))
            return
    paused = Paused(by=app.who(), at=app.now(), reason=reason)
    app.port.kv_put(keys.PAUSED, paused.to_json().encode())
    _done(app, "automation is paused: nothing moves by itself until `orch resume`.", record(paused))


@click.command()
@click.argument("service", shell_complete=complete_services, required=False)
@wait_options
@json_option
@click.pass_obj
def resume(app: App, service: str | None, wait: bool | None, timeout_s: float) -> None:
    """End the pause, or acknowledge the hold of a service.

    With SERVICE: automatic moves of it become possible again before its anti-flapping hold is over.
    """
    if service is not None:
        ask(app, RequestKind.ACKNOWLEDGE, (service,), wait=wait, timeout_s=timeout_s)
        return
    _, pair = app.port.kv_get(keys.PAUSED)
    if pair is None:
        _done(app, "automation was not paused.", None)
        return
    app.port.kv_delete(keys.PAUSED)
    _done(app, "automation goes on.", None)


@click.group()
def maintenance() -> None:
    """Take a VM out as a target, or put it back."""


@maintenance.command()
@click.argument("vm", shell_complete=complete_vms)
@click.option("--reason", default="", help="Why; shown by `orch status`.")
@json_option
@click.pass_obj
def on(app: App, vm: str, reason: str) -> None:
    """Take the VM out: nothing is moved to it until `maintenance off`."""
    fleet = read_fleet(app)
    _check_vm(vm, fleet)
    before = fleet.view.vms[vm].maintenance
    if before is not None:
        since = age(app.now() - before.at)
        _done(app, f"{vm} is in maintenance already, for {since} by {before.by}.", record(before))
        return
    entry = Maintenance(by=app.who(), at=app.now(), reason=reason)
    app.port.kv_put(keys.maintenance(vm), entry.to_json().encode())
    _done(app, f"{vm} is in maintenance: nothing is moved to it.", record(entry))
    for name in _active_on(vm, fleet):
        app.warn(f"{name} is active on {vm} and stays there; `orch failover {name}` moves it away.")


@maintenance.command()
@click.argument("vm", shell_complete=complete_vms)
@json_option
@click.pass_obj
def off(app: App, vm: str) -> None:
    """Put the VM back: it can be a target again."""
    fleet = read_fleet(app)
    _check_vm(vm, fleet)
    _, pair = app.port.kv_get(keys.maintenance(vm))
    if pair is None:
        _done(app, f"{vm} was not in maintenance.", None)
        return
    app.port.kv_delete(keys.maintenance(vm))
    _done(app, f"{vm} is out of maintenance.", None)


def _check_vm(vm: str, fleet: Fleet) -> None:
    if vm not in fleet.policy.vms:
        raise refuse(f"{vm} is not a VM of this fleet; its VMs are {', '.join(fleet.policy.vms)}.")


def _active_on(vm: str, fleet: Fleet) -> list[str]:
    seen = fleet.view.services.values()
    return [s.name for s in seen if isinstance(s.assignment, Kept) and s.assignment.value.active == vm]


def _done(app: App, sentence: str, entry: object) -> None:
    if app.as_json:
        app.answer({"sentence": sentence, "record": entry})
    app.say(sentence)
