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
from orchestrator.store.port import CasPut, KvPair, TxnOutcome, Unknown

# Whether it is there is found out by reading it: exit 8 like any other fault of a file.
FILE = click.Path(allow_dash=True, path_type=Path)

# What a deployment applies; from there it is no change that the next deployment would undo.
DEPLOYED_FILE = Path("/etc/orch/config.yml")
REMINDER = (
    "The next deployment (site.yml) puts the policy of the inventory's group_vars in force again: to keep this one, "
    "change it there too."
)


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
    if lines:
        _show_difference(app, lines)
        raise Stop(Exit.FAILED, f"{file} differs from what is in force.", {"differs": True, "diff": lines})
    if app.as_json:
        app.answer({"differs": False, "diff": []})
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
    if lines and file != DEPLOYED_FILE:
        app.say(REMINDER)


@config.command(name="import")
@click.argument("file", type=FILE)
@click.option(
    "--inventory",
    type=click.Path(path_type=Path),
    help="Ansible inventory that names the VMs [the policy in KV].",
)
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Write here instead of stdout.")
@json_option
@click.pass_obj
def import_(app: App, file: Path, inventory: Path | None, output: Path | None) -> None:
    """Convert the old system's JSON document into a policy.

    Order and rotation are the old document's. Everything else stays as it is in force; where nothing is in force it
    is assumed as in the reference fleet. Changes nothing in force: `orch config apply` does. What was assumed, kept or
    left out is said in comments at the top.
    """
    from orchestrator.cli.inventory import UnreadableInventory, vms_of_inventory
    from orchestrator.cli.old_config import NotConvertible, converted, vms_of_policy

    in_force, doubts = _policy_in_force(app, needed=inventory is None)
    try:
        vms = vms_of_inventory(inventory) if inventory else vms_of_policy(in_force)
        policy, notes = converted(_text_of(file), vms, in_force)
    except UnreadableInventory as problem:
        raise Stop(Exit.BROKEN_INPUT, str(problem)) from None
    except NotConvertible as problem:
        raise Stop(Exit.BROKEN_INPUT, f"{file}: {problem}") from None
    notes = (*doubts, *notes)
    text = "".join(
        f"# {' '.join(note.split())}\n" for note in (f"Imported from {file.name}.", *notes)
    ) + canonical_yaml(policy)
    if output is not None:
        _write(output, text)
    if app.as_json:
        said = {"policy": policy.model_dump(mode="json", exclude_none=True), "notes": list(notes)}
        app.answer(said | ({"written": str(output)} if output else {}))
    elif output is None:
        app.say(text.rstrip("\n"))
    else:
        for note in notes:
            app.say(note)
        app.say(f"{output} is written: {_counted(policy)}. `orch config diff {output}` shows what it would change.")
        app.say(REMINDER)


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


def _policy_in_force(app: App, *, needed: bool) -> tuple[Policy | None, tuple[str, ...]]:
    """Return the policy in force for an import; where it is not needed, also why it could not be taken into account."""
    try:
        _, pair = app.port.kv_get(keys.CONFIG)
    except Unknown:
        if needed:
            raise
        return None, ("Consul cannot be reached, so that what is in force is not taken into account.",)
    policy = policy_of(pair.value) if pair else None
    if not isinstance(policy, Faults):
        return policy, ()
    if needed:
        raise _broken(app, f"the policy in {keys.CONFIG}", policy)
    return None, (f"the policy in {keys.CONFIG} is not valid and is not taken into account.",)


def _broken(app: App, name: str, faults: Faults) -> Stop:
    if not app.as_json:
        for sentence in faults.sentences:
            click.echo(f"  {sentence}", err=True)
    count = len(faults.sentences)
    said = f"{name} is not a valid policy: {count} fault{'s' if count != 1 else ''}."
    return Stop(Exit.BROKEN_INPUT, said, {"valid": False, "faults": list(faults.sentences)})


def _text_of(file: Path) -> bytes:
    try:
        return sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise Stop(Exit.BROKEN_INPUT, f"{file} cannot be read: {(error.strerror or str(error)).lower()}.") from None


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise Stop(Exit.BROKEN_INPUT, f"{file} cannot be written: {(error.strerror or str(error)).lower()}.") from None


def _counted(policy: Policy) -> str:
    return f"{len(policy.services)} services on {len(policy.vms)} VMs"
