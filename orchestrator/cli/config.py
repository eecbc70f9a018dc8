"""`orch config`: the fleet's policy, from files to `orch/config` and back."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path

import click

from orchestrator.cli.app import App, json_option
from orchestrator.cli.exits import Exit, Stop, refuse
from orchestrator.cli.policy_file import Faults, canonical_json, canonical_yaml, policy_of
from orchestrator.domain import keys
from orchestrator.domain.policy import Policy
from orchestrator.store.port import CasPut, KvPair, TxnOutcome

FILE = click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path)


@click.group()
def config() -> None:
    """Validate, show, compare, write and import the fleet's policy."""


@config.command()
@click.argument("file", type=FILE)
@json_option
@click.pass_obj
def validate(app: App, file: Path) -> None:
    """Check a policy document (YAML or JSON; - is stdin).

    Asks no Consul. Exits 8 when it is not valid, and says every fault with its place.
    """
    policy = _policy_in(app, file)
    if app.as_json:
        app.answer({"valid": True, "faults": []})
    app.say(f"{file} is valid: {_counted(policy)}.")


@config.command()
@json_option
@click.pass_obj
def show(app: App) -> None:
    """Show the policy in KV, every default spelled out."""
    _, pair = app.port.kv_get(keys.CONFIG)
    if pair is None:
        raise refuse("there is no policy yet; write one with `orch config apply FILE`.")
    policy = policy_of(pair.value)
    if isinstance(policy, Faults):
        raise _broken(app, f"the policy in {keys.CONFIG}", policy)
    if app.as_json:
        app.answer(policy.model_dump(mode="json", exclude_none=True))
    app.say(canonical_yaml(policy).rstrip("\n"))


@config.command()
@click.argument("file", type=FILE)
@json_option
@click.pass_obj
def diff(app: App, file: Path) -> None:
    """Compare a policy document with the one in KV.

    Exits 0 when they say the same, 4 when they differ.
    """
    wanted = _policy_in(app, file)
    _, pair = app.port.kv_get(keys.CONFIG)
    lines = difference(pair, wanted, str(file))
    if app.as_json:
        app.answer({"differs": bool(lines), "diff": lines})
    _show_difference(app, lines)
    if lines:
        raise click.exceptions.Exit(int(Exit.FAILED))
    app.say(f"{file} says what is in force.")


@config.command()
@click.argument("file", type=FILE)
@json_option
@click.pass_obj
def apply(app: App, file: Path) -> None:
    """Validate a policy document and put it in force.

    Shows what changes. Written by compare-and-set: of two operators at the same time, one is refused.
    """
    wanted = _policy_in(app, file)
    _, pair = app.port.kv_get(keys.CONFIG)
    lines = difference(pair, wanted, str(file))
    if lines:
        put = CasPut(keys.CONFIG, canonical_json(wanted).encode(), pair.modify_index if pair else 0)
        if app.port.txn((put,)) is TxnOutcome.LOST:
            raise refuse("somebody else changed the policy meanwhile; look at `orch config diff` and apply again.")
    if app.as_json:
        app.answer({"changed": bool(lines), "diff": lines})
    _show_difference(app, lines)
    app.say(f"in force: {_counted(wanted)}." if lines else "in force already; nothing was written.")


@config.command(name="import")
@click.argument("file", type=FILE)
@click.option(
    "--inventory",
    type=click.Path(exists=True, path_type=Path),
    help="Ansible inventory that names the VMs [the policy in KV].",
)
@click.option("--output", "-o", type=click.Path(dir_okay=False, path_type=Path), help="Write here instead of stdout.")
@json_option
@click.pass_obj
def import_(app: App, file: Path, inventory: Path | None, output: Path | None) -> None:
    """Convert the old system's JSON document into a policy.

    Changes nothing in force: `orch config apply` does. What had to be assumed is said in comments at the top.
    """
    from orchestrator.cli.old_config import NotConvertible, converted, vms_of_inventory, vms_of_policy

    try:
        vms = vms_of_inventory(inventory) if inventory else vms_of_policy(_policy_in_force(app))
        policy, notes = converted(_text_of(file), vms)
    except NotConvertible as problem:
        raise Stop(Exit.BROKEN_INPUT, f"{file}: {problem}") from None
    if app.as_json:
        app.answer({"policy": policy.model_dump(mode="json", exclude_none=True), "notes": list(notes)})
        return
    text = "".join(f"# {note}\n" for note in (f"Imported from {file.name}.", *notes)) + canonical_yaml(policy)
    if output is None:
        app.say(text.rstrip("\n"))
        return
    output.write_text(text, encoding="utf-8")
    app.say(f"{output} is written: {_counted(policy)}. `orch config diff {output}` shows what it would change.")


def difference(pair: KvPair | None, wanted: Policy, name: str) -> list[str]:
    """Return the unified diff from what is in KV to the wanted policy, both in the canonical form; empty when they
    say the same. A policy in KV that cannot be read differs in every line."""
    before = ""
    if pair is not None:
        there = policy_of(pair.value)
        before = canonical_yaml(there) if isinstance(there, Policy) else pair.value.decode(errors="replace")
    lines = difflib.unified_diff(
        before.splitlines(), canonical_yaml(wanted).splitlines(), keys.CONFIG, name, lineterm="", n=2
    )
    return list(lines)


def _show_difference(app: App, lines: list[str]) -> None:
    if lines and not app.as_json:
        from orchestrator.cli import render

        app.show(render.difference(lines))


def _policy_in(app: App, file: Path) -> Policy:
    policy = policy_of(_text_of(file))
    if isinstance(policy, Faults):
        raise _broken(app, str(file), policy)
    return policy


def _policy_in_force(app: App) -> Policy | None:
    _, pair = app.port.kv_get(keys.CONFIG)
    policy = policy_of(pair.value) if pair else None
    return policy if isinstance(policy, Policy) else None


def _broken(app: App, name: str, faults: Faults) -> Stop:
    if not app.as_json:
        for sentence in faults.sentences:
            click.echo(f"  {sentence}", err=True)
    count = len(faults.sentences)
    said = f"{name} is not a valid policy: {count} fault{'s' if count != 1 else ''}."
    return Stop(Exit.BROKEN_INPUT, said, {"valid": False, "faults": list(faults.sentences)})


def _text_of(file: Path) -> bytes:
    return sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()


def _counted(policy: Policy) -> str:
    return f"{len(policy.services)} services on {len(policy.vms)} VMs"
