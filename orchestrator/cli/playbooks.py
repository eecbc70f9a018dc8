"""`orch playbooks`: which playbooks the workers have, and that they are the same."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import click

from orchestrator import __version__
from orchestrator.cli.app import App, json_option
from orchestrator.cli.exits import Exit, Stop, refuse
from orchestrator.cli.fleet import Fleet, read_fleet
from orchestrator.domain import keys
from orchestrator.domain.records import Installed, Release
from orchestrator.domain.sentence import short_digest
from orchestrator.domain.view import Kept, Unreadable

if TYPE_CHECKING:
    from orchestrator.execute.sync import Synced

NOTHING_RELEASED = "no playbooks were released yet: run site.yml, or `orch playbooks release` on a worker's VM."


@click.group()
def playbooks() -> None:
    """Say which playbooks the workers have, and have them be the same."""


@playbooks.command()
@json_option
@click.pass_obj
def status(app: App) -> None:
    """Show which playbooks each worker has, beside the released ones.

    Exits 4 unless the current ones of every worker are the released ones.
    """
    fleet = read_fleet(app)
    release = _release_of(fleet)
    rows = {vm: _row(installed_on(fleet, vm), release) for vm in workers_of(fleet)}
    in_sync = release is not None and all(row["is_current"] for row in rows.values())
    report = {"release": _release_row(release), "workers": rows, "in_sync": in_sync}
    if app.as_json:
        app.answer(report)
    else:
        from orchestrator.cli import render

        app.show(render.playbooks(report, app.now()))
    if not in_sync:
        raise click.exceptions.Exit(int(Exit.FAILED))


@playbooks.command()
@json_option
@click.pass_obj
def release(app: App) -> None:
    """Have commands be decided for the playbooks of this VM from now on.

    The deployment does it when all workers have them. Commands that were decided before are run with theirs.
    """
    from orchestrator.execute.releases import Releases

    ansible_dir = app.settings_of_a_vm("playbooks").ansible_dir
    found = Releases(ansible_dir).look().current
    if found is None:
        raise refuse(f"the playbooks of this VM ({ansible_dir.parent}) cannot be read.")
    _, pair = app.port.kv_get(keys.RELEASE)
    is_news = pair is None or _digest_in(pair.value) != found
    if is_news:
        record = Release(digest=found, at=app.now(), by=app.who(), orch=__version__)
        app.port.kv_put(keys.RELEASE, record.to_json().encode())
    if app.as_json:
        app.answer({"digest": found, "changed": is_news})
    app.say(f"the playbooks {short_digest(found)} {'are released' if is_news else 'were released already'}.")


@playbooks.command()
@click.option(
    "--if-source",
    is_flag=True,
    help="Do nothing unless this is the VM to copy from: the leader's, else the first worker's that has the release.",
)
@json_option
@click.pass_obj
def sync(app: App, if_source: bool) -> None:
    """Copy the released playbooks from this VM to the other workers' VMs.

    To be run on a worker's VM that has them, as root; a timer does it there every hour. They are
    laid beside what is there, then switched to: plays that run are not disturbed, and none sees half of them. Exits 4
    where a VM could not be brought up to date.
    """
    from concurrent.futures import ThreadPoolExecutor

    from orchestrator.execute.environment import Places
    from orchestrator.execute.releases import Releases
    from orchestrator.execute.sync import may_run_plays, sync_vm

    settings, fleet = app.settings_of_a_vm("playbooks"), read_fleet(app)
    released = _release_of(fleet)
    if released is None:
        raise refuse(NOTHING_RELEASED)
    having = [vm for vm in workers_of(fleet) if _has(installed_on(fleet, vm), released.digest)]
    source = source_of(fleet.leader, having)
    if if_source and source not in (None, settings.vm):
        _answer_sync(app, released.digest, {}, f"{source} does it.")
        return
    ansible_dir = Releases(settings.ansible_dir).find(released.digest)
    if ansible_dir is None:
        where = f"run it on {' or '.join(having)}" if having else "no worker has them: run site.yml"
        raise refuse(f"{settings.vm} has not the released playbooks {short_digest(released.digest)}; {where}.")
    places = Places(settings.ansible_dir, settings.state_dir, settings.ssh_key_file)
    if not may_run_plays(places):
        raise refuse(f"{settings.ssh_key_file} cannot be read: run it as root.")
    workers = workers_of(fleet)
    with ThreadPoolExecutor(len(workers)) as pool:
        came = pool.map(lambda vm: sync_vm(places, ansible_dir, released.digest, vm), workers)
        done = dict(zip(workers, came, strict=True))
    _answer_sync(app, released.digest, done, "")
    failed = {vm: came.problem for vm, came in done.items() if came.problem}
    if failed:
        sentence = f"{' and '.join(failed)} could not be brought to the released playbooks."
        raise Stop(Exit.FAILED, sentence, {"problems": failed})


def _answer_sync(app: App, digest: str, done: Mapping[str, Synced], why_nothing: str) -> None:
    if app.as_json and not any(came.problem for came in done.values()):
        app.answer({"digest": digest, "workers": {vm: {"changed": came.changed} for vm, came in done.items()}})
    for vm, came in done.items():
        if came.problem:
            app.warn(f"{vm}: {came.problem}")
        else:
            app.say(f"{vm} {'has now' if came.changed else 'had already'} the playbooks {short_digest(digest)}.")
    if why_nothing:
        app.say(f"nothing to do here: {why_nothing}")


# -- who has what -------------------------------------------------------------------------------------------


def workers_of(fleet: Fleet) -> tuple[str, ...]:
    """Return the VMs of the workers."""
    return tuple(name for name, vm in fleet.policy.vms.items() if "worker" in vm.roles)


def source_of(leader: str | None, having: Collection[str]) -> str | None:
    """Return the VM to copy from: the leader's if it has the release, else the first that has it."""
    return leader if leader in having else next(iter(having), None)


def installed_on(fleet: Fleet, vm: str) -> Installed | None:
    """Return what the VM's worker has told; None where it has told nothing that can be read."""
    pair = next((pair for pair in fleet.pairs if pair.key == keys.installed(vm)), None)
    try:
        return Installed.from_json(pair.value) if pair is not None else None
    except ValueError:
        return None


def _has(installed: Installed | None, digest: str) -> bool:
    return installed is not None and digest in installed.kept


def _release_of(fleet: Fleet) -> Release | None:
    found = fleet.view.release
    if isinstance(found, Unreadable):
        raise Stop(Exit.BROKEN_INPUT, f"{found.key} cannot be read: {found.problem}; run site.yml.")
    return found.value if isinstance(found, Kept) else None


def _digest_in(value: bytes) -> str | None:
    try:
        return Release.from_json(value).digest
    except ValueError:
        return None


def _row(installed: Installed | None, release: Release | None) -> dict[str, Any]:
    wanted = release.digest if release is not None else None
    return {
        "current": installed.current if installed else None,
        "kept": list(installed.kept) if installed else [],
        "at": installed.at if installed else None,
        "is_current": installed is not None and wanted is not None and installed.current == wanted,
        "has_release": wanted is not None and _has(installed, wanted),
    }


def _release_row(release: Release | None) -> dict[str, Any] | None:
    return {"digest": release.digest, "at": release.at, "by": release.by, "orch": release.orch} if release else None
