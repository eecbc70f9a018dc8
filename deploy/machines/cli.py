"""The command line of the lab. `exec` must be quick, so what a verb needs is imported by the verb."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from deploy.machines.places import LabError

if TYPE_CHECKING:
    from deploy.machines.lab import Lab

# After `--` (or the first word that is no option) everything belongs to the command.
PASS_ON = {"ignore_unknown_options": True, "allow_interspersed_args": False}


class _Lab(click.Group):
    """The verbs in the order in which one needs them; a LabError is one plain sentence and exit status 2."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except LabError as problem:
            click.echo(f"lab: {problem}", err=True)
            ctx.exit(2)


def _open(say: Callable[[str], None] | None = None) -> Lab:
    from deploy.machines.lab import Lab

    return Lab.open(say=say) if say else Lab.open()


def _progress() -> Callable[[str], None]:
    """Return a way to say what is being done, with the seconds since the start."""
    started = time.monotonic()
    on_terminal = sys.stderr.isatty()

    def say(text: str) -> None:
        stamp = f"{time.monotonic() - started:6.1f} s"
        click.echo(f"{click.style(stamp, dim=True) if on_terminal else stamp}  {text}", err=True)

    return say


@click.group(cls=_Lab, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Four systemd machines on this host, with the names and addresses of the reference fleet.

    ORCH_LAB_NAME names the lab (default: orch), so that two can live on one host.
    """


@main.command()
@click.option("--fresh", is_flag=True, help="Deploy anew, whatever state was kept from an earlier deployment.")
@click.option("--bare", is_flag=True, help="Machines only: the image is there, nothing is deployed.")
def up(fresh: bool, bare: bool) -> None:
    """Bring the lab up, deployed and healthy."""
    lab = _open(_progress())
    lab.up(fresh=fresh, bare=bare)
    _print_status(lab.status())


@main.command()
def down() -> None:
    """Remove the lab: no process, mount, namespace or file of it stays (the caches do)."""
    _open(_progress()).down()


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def status(as_json: bool) -> None:
    """Tell what is up; ends with 1 while the lab is not."""
    seen = _open().status()
    if as_json:
        click.echo(json.dumps(seen, indent=2))
    else:
        _print_status(seen)
    sys.exit(0 if seen["up"] else 1)


def _print_status(seen: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not seen["vms"]:
        console.print(f"The lab [bold]{seen['lab']}[/] is down. `deploy/lab up` brings it up.")
        return
    word = "up" if seen["up"] else f"not up ({seen['phase']})"
    table = Table(title=f"lab {seen['lab']}: {word}, {seen['mode']}", title_justify="left")
    for column in ("VM", "address", "system", "failed units", "faults"):
        table.add_column(column)
    for name, vm in seen["vms"].items():
        colour = {"running": "green", "degraded": "yellow"}.get(vm["system"], "red")
        system = f"[{colour}]{vm['system']}[/]"
        table.add_row(name, vm["address"], system, " ".join(vm["failed_units"]), ", ".join(vm["faults"]))
    console.print(table)
    if seen["ui"]:
        console.print(f"Consul UI: {seen['ui']} (log in with what is in /etc/orch/consul/ui on any VM)")


@main.command(name="exec", context_settings=PASS_ON)
@click.argument("vm")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_(vm: str, command: tuple[str, ...]) -> None:
    """Run COMMAND as root inside VM: its input, output and exit status are the command's."""
    machine = _open().machine(vm)
    argv = machine.entering(_words(command))
    machine.cgroup.enter("exec")
    os.execvpe(argv[0], argv, machine.environment())


@main.command()
@click.argument("vm")
def shell(vm: str) -> None:
    """Open a root shell inside VM."""
    machine = _open().machine(vm)
    argv = machine.entering(["/bin/bash", "-l"])
    machine.cgroup.enter("exec")
    os.execvpe(argv[0], argv, machine.environment())


@main.command(context_settings=PASS_ON)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def client(command: tuple[str, ...]) -> None:
    """Run COMMAND as the outside client: this host's files and programs, the lab's network."""
    lab = _open()
    lab.require_network()
    argv = lab.client_command(_words(command))
    os.execvp(argv[0], argv)


@main.command(context_settings=PASS_ON)
@click.argument("vm")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def ssh(vm: str, command: tuple[str, ...]) -> None:
    """Log in to VM over SSH as its operator, from the outside client."""
    lab = _open()
    lab.require_network()
    argv = lab.ssh_command(vm, _words(command))
    os.execvp(argv[0], argv)


@main.command()
@click.argument("kind")
@click.argument("vm")
@click.argument("service", required=False)
@click.option("--latency-ms", type=click.FloatRange(0, 60_000), help="slow: one-way delay on the VM's link.")
@click.option("--loss-percent", type=click.FloatRange(0, 100), help="slow: share of packets lost, each way.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def fault(
    kind: str, vm: str, service: str | None, latency_ms: float | None, loss_percent: float | None, as_json: bool
) -> None:
    """Do harm: KIND is kill, crash, stop (of a SERVICE or systemd unit), poweroff, poweron, cut, freeze, thaw
    or slow (of a whole VM). Prints the wall-clock time at which it took effect."""
    options = {
        name: value for name, value in (("latency_ms", latency_ms), ("loss_percent", loss_percent)) if value is not None
    }
    done = _open().fault(kind, vm, service, **options)
    if as_json:
        click.echo(json.dumps({"kind": done.kind, "vm": done.vm, "unit": done.unit, "at": done.at, **done.detail}))
    else:
        click.echo(f"{done.at:.6f}  {done.describe()} on {done.vm}")


@main.command()
@click.argument("vm", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def mend(vm: str | None, as_json: bool) -> None:
    """Undo the faults of VM, or of all VMs."""
    undone = _open().mend(vm)
    if as_json:
        click.echo(json.dumps([{"kind": fault.kind, "vm": fault.vm, "unit": fault.unit} for fault in undone]))
    else:
        click.echo("\n".join(f"mended: {fault.describe()} on {fault.vm}" for fault in undone) or "nothing to mend")


@main.command()
@click.argument("vm")
def replace(vm: str) -> None:
    """Put a new machine in the place of VM: the same name and address, an empty disk, other host keys.

    Nothing is deployed there: that is what playbooks/replace_vm.yml is for.
    """
    lab = _open(_progress())
    lab.replace(vm)
    _print_status(lab.status())


@main.command()
def tools() -> None:
    """Find or build consul and consul-template; print where they are."""
    from deploy.machines.tools import find_tools

    found = find_tools(_progress())
    click.echo(f"{found.consul}\n{found.consul_template}")


def _words(command: tuple[str, ...]) -> list[str]:
    """Drop the `--` that separates the lab's words from the command's, where click has left it."""
    return list(command[1:] if command and command[0] == "--" else command)
