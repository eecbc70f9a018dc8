"""`orch doctor`: its answer, its exit status, and that what it could not find out is never well."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from orchestrator.doctor.facts import Asked, FileFacts, Question, QueueFacts, VmFacts
from orchestrator.store.port import Unknown
from tests.unit.cli.world import NOW, VMS, World
from tests.unit.doctor.build import OFF, ON, answered

UNITS = {
    vm: {"consul": ON, "consul-template": ON, "orch-guard": ON} | {f"orch-{role}": ON for role in entry["roles"]}
    for vm, entry in VMS.items()
}
SERVING = {"backend-server": {"node-app": ON, "nginx": OFF}, "frontend-server": {"node-app": OFF, "nginx": ON}}
RELEASED = "d1" * 32
LOOSE = FileFacts(path="/etc/orch/amqp/worker_password", mode=0o664, owner="orch", group="orch")
LOST = Asked(facts=None, problem="ssh: connect to host 10.0.0.22 port 22: Connection timed out", sent=NOW, answered=NOW)


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    file = tmp_path / "orch.json"
    file.write_text(json.dumps({"vm": "messaging-server", "amqp": {"hosts": ["10.0.0.21"]}}))
    return file


def examined(world: World, settings: Path, *words: str, **changes: Any) -> Result:
    """Run the doctor on a fleet whose VMs are well, but for `changes` (VM with _ for - -> what asking it came to)."""
    asked: list[Question] = []
    world.with_playbooks(RELEASED)

    def ask_vms(_: object, questions: Mapping[str, Question]) -> Iterator[tuple[str, Asked]]:
        asked.extend(questions.values())
        for vm in questions:
            units = UNITS[vm] | SERVING.get(vm, {"node-app": OFF, "nginx": OFF})
            well = answered(vm, units=units, playbooks=RELEASED, releases=(RELEASED,))
            yield vm, changes.get(vm.replace("-", "_"), well[vm])

    queues = changes.get("queues", QueueFacts(waiting=0, dead=0))
    result = world.orch("doctor", *words, settings_file=settings, ask_vms=ask_vms, ask_queues=lambda _: queues)
    if asked:
        assert asked[0].vms == {vm: entry["address"] for vm, entry in VMS.items()}
        assert asked[0].units == ("node-app", "nginx")
    return result


def test_a_fleet_that_is_well_is_exit_0_and_each_answer_is_told_as_it_comes(world: World, settings: Path) -> None:
    result = examined(world, settings)
    assert (result.exit_code, result.stdout) == (0, "all is well\n")
    assert result.stderr.splitlines()[0] == "frontend-server has answered (0.6 s)"
    assert json.loads(examined(world, settings, "--json").stdout) == {
        "exit": 0,
        "outcome": "done",
        "reason": "all is well",
        "findings": [],
    }


def test_warnings_alone_are_exit_9_and_each_says_what_to_do(world: World, settings: Path) -> None:
    result = examined(world, settings, queues=QueueFacts(waiting=0, dead=2))
    assert result.exit_code == 9
    first, second = result.stdout.splitlines()
    assert first == "warning queue: 2 message(s) in failover_commands.dead that no worker could read"
    assert "journal of orch-worker" in second


def test_an_error_is_exit_10_and_the_worst_comes_first(world: World, settings: Path) -> None:
    backend = answered("backend-server", secrets=(LOOSE,))["backend-server"]
    result = examined(world, settings, "--json", backend_server=backend, queues=QueueFacts(waiting=0, dead=2))
    told = json.loads(result.stdout)
    assert (result.exit_code, told["exit"], told["reason"]) == (10, 10, "1 error, 1 warning")
    assert [(one["severity"], one["subject"]) for one in told["findings"]] == [
        ("error", "backend-server"),
        ("warning", "queue"),
    ]
    assert all(one["wrong"] and one["todo"] for one in told["findings"])
    assert result.stderr == ""


def test_a_vm_that_could_not_be_asked_is_exit_10(world: World, settings: Path) -> None:
    result = examined(world, settings, backend_server=LOST)
    assert result.exit_code == 10
    assert "could not find out: it could not be asked: ssh: connect to host" in result.stdout


def test_without_consul_it_says_so_and_that_it_does_not_know_whom_to_ask(
    world: World, settings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Away:
        def __getattr__(self, name: str) -> Any:
            raise Unknown("connection refused")

    result = world.orch("doctor", settings_file=settings, open_port=lambda *_: Away())
    assert result.exit_code == 10
    assert "error   fleet: Consul at 127.0.0.1:8500 cannot be reached" in result.stdout
    assert "unknown fleet" in result.stdout


def test_where_no_settings_are_it_is_refused(world: World, tmp_path: Path) -> None:
    result = world.orch("doctor", settings_file=tmp_path / "none.json")
    assert result.exit_code == 8
    assert "`orch doctor` is for the VMs of the fleet" in result.stderr


def test_it_changes_nothing(world: World, settings: Path) -> None:
    world.with_playbooks(RELEASED)
    before = [pair.key for pair in world.consul.peek_list("")]
    examined(world, settings, backend_server=LOST)
    assert [pair.key for pair in world.consul.peek_list("")] == before


def test_here_answers_with_facts_and_refuses_a_question_of_another_format(
    world: World, settings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from click.testing import CliRunner

    from orchestrator.cli.main import cli

    def here(question: str) -> Result:
        return CliRunner().invoke(cli, ["--settings", str(settings), "doctor", "--here"], input=question)

    facts = VmFacts.model_validate_json(here(Question(units=("no-such-unit",)).model_dump_json()).stdout)
    assert (facts.vm, facts.format) == ("messaging-server", 1)
    assert facts.started <= facts.ended
    assert "/" in [disk.path for disk in facts.disks]
    refused = here('{"format": 2}')
    assert refused.exit_code == 3
    assert "the question has format 2, this orch knows 1" in refused.stderr
