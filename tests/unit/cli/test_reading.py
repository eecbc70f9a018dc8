"""`orch why`, `plan`, `history`, `commands`: what is and what was."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from orchestrator.cli.fleet import Fleet, look
from orchestrator.domain import keys
from orchestrator.domain.decision import Decision, Delete, Diagnosis, Memory, Outcome
from orchestrator.domain.records import CommandState, HistoryEntry, MoveKind, Request, RequestKind, RequestState
from orchestrator.store.port import KvPair, Unknown
from tests.fakes.fake_consul import FakePort
from tests.unit.cli.world import NOW, World

Golden = Callable[[str, str], None]
COMMAND = "1700000000100-backend-activate-e1"
DISPLACED = Outcome(
    decisions=(),
    diagnoses=(
        Diagnosis(
            "displaced",
            "backend",
            "backend is healthy on messaging-server, not where it is designated.",
            not_actionable_because="backend is failing its check on backend-server",
        ),
    ),
    memory=Memory(),
    sentence="backend is healthy on messaging-server, not where it is designated.",
)


def failed_over(world: World) -> None:
    """Let backend have failed over to messaging-server a minute ago, its home still failing."""
    request = Request(
        id="1699999940000-backend-failover",
        kind=RequestKind.FAILOVER,
        service="backend",
        target="messaging-server",
        reason="backend fails its check on backend-server",
        state=RequestState.SUCCEEDED,
        outcome="backend is active on messaging-server at epoch 2.",
        created=NOW - 60,
        updated=NOW - 58,
        epoch=2,
        times={
            "decided": NOW - 60,
            "assigned": NOW - 60,
            "locked": NOW - 58.4,
            "endpoints": NOW - 58.3,
            "finished": NOW - 58,
        },
    )
    world.put(keys.request(request.id), request)
    world.activate(
        "backend",
        "messaging-server",
        epoch=2,
        designated="backend-server",
        kind=MoveKind.FAILOVER,
        since=NOW - 60,
        reason="backend fails its check on backend-server",
        request_id=request.id,
    )
    world.fail("backend", "backend-server")
    world.put_command(
        id="1699999940000-backend-activate-e2",
        request_id=request.id,
        epoch=2,
        state=CommandState.SUCCEEDED,
        created=NOW - 60,
        claimed=NOW - 59.8,
        first_task=NOW - 59.5,
        finished=NOW - 58.5,
        worker="frontend-server",
        attempt=1,
    )
    entry = HistoryEntry(
        id="1699999940000-backend-failover",
        at=NOW - 60,
        service="backend",
        kind="failover",
        reason="backend fails over from backend-server to messaging-server.",
        epoch=2,
    )
    world.put(keys.history(entry.id), entry)


def journal(world: World, *services: str) -> None:
    for number, service in enumerate(services):
        at = NOW + number
        entry = HistoryEntry(
            id=f"{int(at * 1000)}-{service}", at=at, service=service, kind="failover", reason=f"{number}."
        )
        world.put(keys.history(entry.id), entry)


def test_why_tells_the_chain_from_observation_to_decision(world: World, golden: Golden) -> None:
    failed_over(world)
    world.outcome = DISPLACED
    result = world.orch("why", "backend")
    assert result.exit_code == 0
    golden("why", result.stdout)


def test_why_answers_in_json_with_the_records(world: World) -> None:
    failed_over(world)
    found = world.answer("why", "backend")
    assert (found["request"]["id"], found["commands"][0]["state"], found["checks"][0]["status"]) == (
        "1699999940000-backend-failover",
        "succeeded",
        "critical",
    )


def test_why_tells_the_last_start_of_each_hot_standby(world: World) -> None:
    failed = Request(
        id="1700000000000-backend-standby-messaging-server",
        kind=RequestKind.STANDBY,
        service="backend",
        target="messaging-server",
        reason="backend does not run on messaging-server, where it stands by hot",
        state=RequestState.FAILED,
        outcome="the play activate_backend.yml failed: rc 2",
        created=NOW - 40,
        updated=NOW - 30,
    )
    world.put(keys.request(failed.id), failed)
    (line,) = world.answer("why", "backend")["chain"]["What was done for its hot standbys"]
    assert line.strip() == (
        "40 s ago  started on messaging-server (backend does not run on messaging-server, where it stands by hot): "
        "failed, the play activate_backend.yml failed: rc 2"
    )


def test_why_of_an_unknown_service_is_refused(world: World) -> None:
    assert world.orch("why", "mail").exit_code == 3


def test_a_plan_says_what_would_be_done_and_what_not_and_writes_nothing(world: World, golden: Golden) -> None:
    world.outcome = replace(
        DISPLACED,
        decisions=(Decision("failover", "frontend", "frontend fails over.", (Delete("orch/rotate/frontend", 7),)),),
        wake_at=NOW + 60,
    )
    golden("plan", world.orch("plan").stdout)


def test_a_plan_writes_nothing(world: World) -> None:
    world.fail("backend", "backend-server")
    index = world.consul.index
    found = world.answer("plan")
    assert found["decisions"] != []
    assert world.consul.index == index


def test_the_history_of_a_service_holds_only_its_entries_the_newest_last(world: World) -> None:
    journal(world, "backend", "frontend", "backend")
    assert world.orch("history", "backend").stdout == (
        "2023-11-14 22:13:20  backend     failover      0.\n2023-11-14 22:13:22  backend     failover      2.\n"
    )


def test_the_history_is_limited_to_the_newest(world: World) -> None:
    journal(world, "backend", "frontend", "backend")
    assert [entry["reason"] for entry in world.answer("history", "-n", "2")] == ["1.", "2."]


def test_the_history_of_a_service_that_the_fleet_had_is_shown_and_of_one_it_never_had_refused(world: World) -> None:
    entry = HistoryEntry(id="1699999990000-mail", at=NOW - 10, kind="failover", service="mail", reason="it was here")
    world.put(keys.history(entry.id), entry)
    assert "it was here" in world.orch("history", "mail").stdout
    refused = world.orch("history", "post")
    assert (refused.exit_code, refused.stderr) == (
        3,
        "orch: refused: post is not a service of this fleet; its services are backend, frontend.\n",
    )
    assert world.orch("history", "frontend").exit_code == 0


def test_commands_of_a_service_that_the_fleet_never_had_are_refused(world: World) -> None:
    world.put_command(service="mail")
    assert world.orch("commands", "list", "--service", "mail").exit_code == 0
    assert world.orch("commands", "list", "--service", "post").exit_code == 3
    assert world.orch("commands", "list", "--service", "frontend").stdout == "there are no commands.\n"


def test_an_unreadable_entry_is_warned_of_and_the_others_are_shown(world: World) -> None:
    journal(world, "backend")
    world.put(keys.history("broken"), b"{")
    result = world.orch("history")
    assert (result.exit_code, len(result.stdout.splitlines())) == (0, 1)
    assert "orch/history/broken cannot be read" in result.stderr


def test_a_followed_history_prints_new_entries_once(world: World) -> None:
    def end() -> None:
        raise KeyboardInterrupt

    journal(world, "backend")
    world.steps = [lambda: journal(world, "backend", "frontend"), lambda: None, end]
    result = world.orch("--json", "history", "--follow")
    assert [json.loads(line)["reason"] for line in result.stdout.splitlines()] == ["0.", "1."]


def test_commands_are_listed_with_what_they_do_now(world: World, golden: Golden) -> None:
    world.put_command(state=CommandState.RUNNING, task="start node-app", worker="frontend-server")
    world.put_command(id="1700000000200-x", state=CommandState.SUPERSEDED, reason="epoch 2 has come")
    golden("commands", world.orch("commands", "list").stdout)


def test_one_command_is_shown_field_by_field(world: World, golden: Golden) -> None:
    world.put_command(state=CommandState.FAILED, claimed=NOW, finished=NOW + 2, worker="frontend-server", rc=2)
    golden("command", world.orch("commands", "show", COMMAND).stdout)


def test_the_logs_are_the_end_of_the_output_with_a_word_on_where_the_rest_is(world: World) -> None:
    world.put_command(tail=("TASK [start]", "ok"), worker="frontend-server", attempt=1)
    result = world.orch("commands", "logs", COMMAND)
    assert (result.exit_code, result.stdout) == (0, "TASK [start]\nok\n")
    assert result.stderr == (
        "orch: this is the end of it; the whole output is on frontend-server in "
        f"/var/lib/orch/artefacts/{COMMAND}/artifacts/1/stdout.\n"
    )


def test_the_logs_on_the_workers_own_vm_are_the_whole_output(world: World, tmp_path: Path) -> None:
    settings = tmp_path / "orch.json"
    settings.write_text(json.dumps({"state_dir": str(tmp_path)}), encoding="utf-8")
    output = tmp_path / "artefacts" / COMMAND / "artifacts" / "2" / "stdout"
    output.parent.mkdir(parents=True)
    output.write_text("PLAY [all]\nTASK [start]\nok\n", encoding="utf-8")
    world.put_command(tail=("ok",), worker="frontend-server", attempt=2)
    result = world.orch("--settings", str(settings), "commands", "logs", COMMAND)
    assert (result.stdout, result.stderr) == ("PLAY [all]\nTASK [start]\nok\n", "")


def test_a_running_command_is_asked_to_be_cancelled(world: World) -> None:
    world.put_command(state=CommandState.RUNNING)
    assert world.orch("commands", "cancel", COMMAND).exit_code == 0
    assert world.answer("commands", "show", COMMAND)["cancel_requested"] is True


def test_a_command_that_has_ended_is_not_cancelled(world: World) -> None:
    world.put_command(state=CommandState.SUCCEEDED)
    result = world.orch("commands", "cancel", COMMAND)
    assert (result.exit_code, result.stderr) == (3, f"orch: refused: command {COMMAND} has ended already: succeeded.\n")


def test_an_unknown_command_is_refused(world: World) -> None:
    assert [world.orch("commands", verb, "x").exit_code for verb in ("show", "logs", "cancel")] == [3, 3, 3]


def test_how_long_a_grace_still_takes_is_read_from_the_journal(world: World) -> None:
    world.activate("backend", "messaging-server", designated="backend-server", epoch=2)
    world.register("backend", "backend-server")

    def note(entry_id: str, kind: str, ago_s: float) -> None:
        entry = HistoryEntry(
            id=entry_id, at=NOW - ago_s, service="backend", kind=kind, reason="r", epoch=2, vm="backend-server"
        )
        world.put(keys.history(entry_id), entry)

    note("1699999900000-backend-grace", "grace", 100)
    note("1699999920000-backend-failed", "failed", 80)
    note("1699999958000-backend-grace", "grace", 42)
    assert "backend has recovered on backend-server; failback in 18 s." in world.orch("plan").stdout
    note("1699999970000-backend-failed", "failed", 30)
    assert "failback in 60 s" in world.orch("plan").stdout


class _HangsOnce(FakePort):
    """The first read goes to a Raft leader whose VM has just died."""

    hangs = True

    def kv_list(self, prefix: str, *, index: int = 0, wait_s: float = 0.0) -> tuple[int, tuple[KvPair, ...]]:
        if self.hangs:
            self.hangs = False
            raise Unknown("no answer in time")
        return super().kv_list(prefix, index=index, wait_s=wait_s)


def test_a_read_that_hung_on_a_dead_raft_leader_is_asked_again(world: World) -> None:
    fleet = look(_HangsOnce(world.consul, "messaging-server"), NOW)
    assert isinstance(fleet, Fleet)
    assert fleet.leader == "messaging-server"
