"""`orch backup`: made on a timer, listed, and gone back to. For root on a VM of the fleet."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.app import App, json_option
from orchestrator.cli.exits import Exit, Stop, refuse
from orchestrator.cli.fleet import Fleet, read_fleet
from orchestrator.domain import keys
from orchestrator.domain.view import Kept, Reach

if TYPE_CHECKING:
    from orchestrator.backup.kept import Backup, Kind
    from orchestrator.backup.turn import Turn
    from orchestrator.settings import LocalSettings

KINDS = click.Choice(["database", "consul"])


@click.group()
def backup() -> None:
    """Make, list and go back to backups of the database and of Consul."""


@backup.command()
@click.argument("kind", type=KINDS)
@click.option("--here", is_flag=True, help="Make it on this VM, whosever turn it is.")
@json_option
@click.pass_obj
def make(app: App, kind: str, here: bool) -> None:
    """Make a backup and prove that it can be gone back to.

    On the VM whose turn it is, else nothing is done (exit 0): for the database a standby that has every acknowledged
    write, else the active; for Consul the leading controller's. A server is started from the database's copy and
    checks each table. The oldest beyond the number to be kept are deleted after the new one is proved. Exits 4 where
    that fails; what was there stays.
    """
    from orchestrator.backup.kept import Kind, Shelf, surplus
    from orchestrator.backup.make import BackupFailed, Tools, carry_away, make_backup

    settings, wanted = app.settings_of_a_vm("backup"), Kind(kind)
    if not here:
        turn = _turn(wanted, read_fleet(app))
        if turn.vm != settings.vm:
            said = f"nothing to do here: {turn.vm} makes the backup of {_what(kind)}, since {turn.why}."
            _answer(app, said, {"outcome": "not here", "vm": turn.vm, "reason": turn.why})
            return
    try:
        made = make_backup(wanted, settings, app.now(), Tools())
        shelf = Shelf(settings.backups.directory)
        for old in surplus(shelf.backups(), settings.backups.keep):
            shelf.remove(old)
        carry_away(made, settings)
    except (BackupFailed, OSError) as problem:
        raise Stop(Exit.FAILED, f"the backup of {_what(kind)} failed: {problem}.") from None
    _answer(app, f"{made.id} is made, up to {made.position}: {made.proof}.", _record(made))


@backup.command(name="list")
@json_option
@click.pass_obj
def list_(app: App) -> None:
    """List the backups that this VM keeps, the newest last."""
    from orchestrator.backup.kept import Shelf

    directory = app.settings_of_a_vm("backup").backups.directory
    try:
        kept = Shelf(directory).backups()
    except OSError as error:
        raise Stop(Exit.BROKEN_INPUT, f"{directory} cannot be read ({error.strerror}); run this as root.") from None
    if app.as_json:
        app.answer([_record(each) for each in kept])
    elif not kept:
        app.say("this VM keeps no backup; `orch backup make database --here` makes one.")
    else:
        from orchestrator.cli import render

        app.show(render.backups([_record(each) for each in kept]))


@backup.command()
@click.argument("backup_id", metavar="ID")
@click.option("--yes", is_flag=True, help="What came after the backup is to be thrown away.")
@json_option
@click.pass_obj
def restore(app: App, backup_id: str, yes: bool) -> None:
    """Go back to a backup that this VM keeps; what came after it is thrown away.

    Automation must be paused (`orch pause`). The database's is put in the place of the copy on the VM where it is
    active, which is kept aside; the standby is cloned from it after `orch resume`. Consul's replaces all that Consul
    holds, on all servers. Refused (3) where that is not so, and without --yes.
    """
    from orchestrator.backup.kept import Kind, Shelf
    from orchestrator.backup.make import BackupFailed, Tools
    from orchestrator.backup.restore import restore_consul, restore_database

    settings = app.settings_of_a_vm("backup")
    shelf = Shelf(settings.backups.directory)
    kept = {each.id: each for each in shelf.backups()}
    if backup_id not in kept:
        there_are = f"it has {', '.join(kept)}" if kept else "it has none"
        raise refuse(f"this VM keeps no backup {backup_id}; {there_are}.")
    chosen, when = kept[backup_id], datetime.fromtimestamp(kept[backup_id].at, timezone.utc)
    _see_that_nothing_moves(app, chosen, settings)
    if not yes:
        raise refuse(
            f"what came after {when:%Y-%m-%d %H:%M:%S} UTC would be lost from {_what(chosen.kind.value)}; say --yes."
        )
    try:
        if chosen.kind is Kind.DATABASE:
            unit = read_fleet(app).policy.services["database"].unit
            old = restore_database(shelf.content(chosen), unit, Tools())
            said = f"the database is as of {when:%Y-%m-%d %H:%M:%S} UTC; what it held is in {old}"
        else:
            restore_consul(shelf.content(chosen), settings, Tools())
            said = f"Consul is as of {when:%Y-%m-%d %H:%M:%S} UTC"
    except BackupFailed as problem:
        raise Stop(Exit.FAILED, f"{chosen.id} is not restored: {problem}.") from None
    _answer(app, f"{said}. Look at `orch status`, then `orch resume`.", {"restored": chosen.id, "reason": said})


def _see_that_nothing_moves(app: App, chosen: Backup, settings: LocalSettings) -> None:
    """Refuse where automation would work against it, or where this is the wrong VM."""
    if chosen.kind.value == "consul" and _has_lost_everything(app, settings):
        # Consul has lost what it held: there is nothing that could move anything.
        return
    fleet = read_fleet(app)
    if fleet.view.paused is None:
        raise refuse(f"automation is not paused, and would move services meanwhile; `orch pause` before {chosen.id}.")
    if chosen.kind.value == "database":
        assignment = fleet.view.services["database"].assignment
        active = assignment.value.active if isinstance(assignment, Kept) else None
        if active != settings.vm:
            raise refuse(
                f"the database is active on {active or 'no VM'}, not here: copy the folder {chosen.id} to the same"
                " place there, and restore it there."
            )


def _has_lost_everything(app: App, settings: LocalSettings) -> bool:
    """Say whether Consul holds no policy. One that has lost its tokens, too, is asked with the backups' own."""
    from orchestrator.backup.make import Tools
    from orchestrator.backup.restore import let_in
    from orchestrator.settings import read_secret
    from orchestrator.store.port import UnknownToken

    try:
        return app.port.kv_get(keys.CONFIG)[1] is None
    except UnknownToken:
        own = settings.consul_token_file("backup")
        if own is None:
            raise
        let_in(settings, Tools())
        return app.open_port(*app.consul_address, read_secret(own)).kv_get(keys.CONFIG)[1] is None


def _turn(kind: Kind, fleet: Fleet) -> Turn:
    from orchestrator.backup.turn import turn_for_consul, turn_for_database

    if kind.value == "consul":
        if fleet.leader is None:
            raise refuse("no controller leads, so it is nobody's turn; --here makes it on this VM.")
        return turn_for_consul(fleet.leader)
    seen = fleet.view.services.get("database")
    if seen is None or not isinstance(seen.assignment, Kept):
        raise refuse("the database has no assignment that can be read; --here makes the backup of this VM's copy.")
    up = frozenset(name for name, vm in fleet.view.vms.items() if vm.reach is Reach.UP)
    return turn_for_database(seen.assignment.value, seen.sync.value if isinstance(seen.sync, Kept) else None, up)


def _what(kind: str) -> str:
    return "the database" if kind == "database" else "Consul"


def _record(made: Backup) -> dict[str, Any]:
    return made.model_dump(mode="json")


def _answer(app: App, said: str, facts: dict[str, Any]) -> None:
    if app.as_json:
        app.answer(facts)
    app.say(said)
