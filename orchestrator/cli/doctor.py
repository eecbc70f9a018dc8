"""`orch doctor`: everything that is wrong, and what to do about it. Changes nothing."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.app import App, json_option
from orchestrator.cli.exits import Exit, Stop

if TYPE_CHECKING:
    from orchestrator.cli.fleet import Fleet
    from orchestrator.doctor.facts import Asked
    from orchestrator.doctor.findings import Finding
    from orchestrator.domain.policy import Policy
    from orchestrator.settings import LocalSettings


@click.command()
@click.option("--here", is_flag=True, help="Answer what another VM's doctor asks of this one (facts in JSON; as root).")
@json_option
@click.pass_obj
def doctor(app: App, here: bool) -> None:
    """Find what is wrong with the fleet, and say what to do about it.

    To be run on a worker's VM, as root (`sudo orch doctor`): every VM is asked by the worker's own SSH, so that the
    doctor also helps where Consul does not answer. A VM that cannot be asked is a finding. Changes nothing. Exits 0
    when all is well, 9 with warnings only, 10 with errors or where something could not be found out.
    """
    settings = app.settings_of_a_vm("doctor")
    if here:
        _answer_here(app, settings)
        return
    from orchestrator.doctor.findings import sorted_findings

    found = sorted_findings(_examine(app, settings))
    exit_code = exit_of(found)
    if app.as_json:
        outcome = {"exit": int(exit_code), "outcome": exit_code.name.lower(), "reason": in_short(found)}
        app.answer({**outcome, "findings": [_as_json(one) for one in found]})
    else:
        from orchestrator.cli import render

        app.show(render.findings([_as_json(one) for one in found]))
    if exit_code is not Exit.DONE:
        raise click.exceptions.Exit(int(exit_code))


def exit_of(found: tuple[Finding, ...]) -> Exit:
    """Return the exit status for what was found."""
    from orchestrator.doctor.findings import Severity

    if not found:
        return Exit.DONE
    return Exit.WARNINGS if all(one.severity is Severity.WARNING for one in found) else Exit.ERRORS


def in_short(found: tuple[Finding, ...]) -> str:
    """Return how many findings of each severity there are."""
    counted = Counter(one.severity.value for one in found)
    return ", ".join(f"{count} {severity}" for severity, count in counted.items()) or "all is well"


def _as_json(one: Finding) -> dict[str, Any]:
    return {"severity": one.severity.value, "subject": one.subject, "wrong": one.wrong, "todo": one.todo}


def _answer_here(app: App, settings: LocalSettings) -> None:
    from orchestrator.backup.kept import Shelf
    from orchestrator.doctor.facts import FORMAT, Question
    from orchestrator.doctor.here import facts_here

    asked = sys.stdin.read() if not sys.stdin.isatty() else ""
    try:
        question = Question.model_validate_json(asked) if asked.strip() else Question()
    except ValueError:
        raise Stop(Exit.REFUSED, "refused: what stands on stdin is no doctor's question.") from None
    if question.format != FORMAT:
        raise Stop(Exit.REFUSED, f"refused: the question has format {question.format}, this orch knows {FORMAT}.")

    def newest_backups() -> dict[str, float]:
        # The oldest come first.
        return {each.kind.value: each.at for each in Shelf(settings.backups.directory).backups()}

    click.echo(facts_here(question, settings, lambda: _trouble_with_consul(app), newest_backups).model_dump_json())


def _examine(app: App, settings: LocalSettings) -> Iterator[Finding]:
    """Ask Consul first, since it says who is to be asked; then the VMs and the brokers at the same time."""
    from concurrent.futures import ThreadPoolExecutor

    from orchestrator.doctor.findings import error, unknown
    from orchestrator.doctor.judge import judge_backups, judge_vms
    from orchestrator.doctor.judge_fleet import judge_playbooks, judge_queues
    from orchestrator.doctor.judge_network import judge_network
    from orchestrator.doctor.judge_units import judge_units
    from orchestrator.doctor.questions import questions_for

    fleet = _fleet(app)
    if isinstance(fleet, str):
        yield error("fleet", fleet, "`systemctl status consul` on each VM; of four servers three must be there.")
    else:
        yield from _judge_fleet(app, fleet)
    policy = fleet.policy if not isinstance(fleet, str) else _deployed_policy(settings)
    if policy is None:
        wrong = "Consul does not say which VMs there are, and no deployed policy is here that would"
        yield unknown("fleet", wrong, "run `orch doctor` on a controller's VM.")
        return
    with ThreadPoolExecutor(1) as pool:
        queues = pool.submit(app.ask_queues, settings.amqp)
        asked = {}
        for vm, answer in app.ask_vms(settings, questions_for(policy)):
            asked[vm] = answer
            _tell(app, vm, answer)
        yield from judge_vms(asked)
        yield from judge_backups(asked, settings.backups.max_age_h)
        yield from judge_queues(queues.result())
    if not isinstance(fleet, str):
        yield from judge_network(asked, settings.vm, fleet.view, policy)
        yield from judge_playbooks(asked, fleet.view, policy)
        for vm, answer in asked.items():
            if answer.facts is not None:
                yield from judge_units(vm, answer.facts.units, fleet.view, policy)


def _judge_fleet(app: App, fleet: Fleet) -> Iterator[Finding]:
    from orchestrator.doctor.judge_fleet import judge_checks, judge_view

    diagnoses = app.decide(fleet.view, fleet.memory, fleet.policy, fleet.at).diagnoses
    yield from judge_checks(fleet.checks)
    yield from judge_view(fleet.view, fleet.policy, fleet.leader, diagnoses)


def _tell(app: App, vm: str, answer: Asked) -> None:
    """Say that something goes on: to people only, beside the answer."""
    if not app.as_json:
        said = "has answered" if answer.facts is not None else f"could not be asked: {answer.problem}"
        click.echo(f"{vm} {said} ({answer.answered - answer.sent:.1f} s)", err=True)


def _trouble_with_consul(app: App) -> str:
    """Say what is wrong with this VM's own agent; nothing, where it knows a leader."""
    from orchestrator.store.port import Refused, Unknown

    try:
        return "" if app.port.leader_known() else "knows no leader"
    except (Refused, Unknown) as problem:
        return f"does not answer: {problem}"


def _fleet(app: App) -> Fleet | str:
    """Read the fleet, or say why it cannot be read."""
    from orchestrator.cli.fleet import NoPolicy, look
    from orchestrator.cli.main import unreachable
    from orchestrator.store.port import Refused, Unknown

    try:
        fleet = look(app.port, app.now())
    except Unknown as problem:
        return unreachable(app, problem).message.rstrip(".")
    except Refused as problem:
        return f"Consul refuses to say how the fleet is: {problem}"
    return fleet.sentence.rstrip(".") if isinstance(fleet, NoPolicy) else fleet


def _deployed_policy(settings: LocalSettings) -> Policy | None:
    """Return the policy as it was deployed here: on a controller's VM it says which VMs there are, Consul or not."""
    from orchestrator.cli.policy_file import Faults, policy_of
    from orchestrator.settings import DEFAULT_PATH

    try:
        found = policy_of(DEFAULT_PATH.with_name("config.yml").read_bytes())
    except OSError:
        return None
    return None if isinstance(found, Faults) else found
