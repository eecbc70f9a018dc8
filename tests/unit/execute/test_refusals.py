"""A worker runs a command with the playbooks that it was decided for, and understands all of it, or leaves it alone."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from orchestrator.decide.plays import wait_for
from orchestrator.domain import keys
from orchestrator.domain.records import FORMAT, Command, CommandState, Installed
from orchestrator.domain.wire import message_of, parse_message
from orchestrator.execute.releases import Found
from orchestrator.execute.room import no_room_in
from orchestrator.worker_steps import PLAYBOOKS_LOOKED_AT_EVERY_S
from tests.simulation.world import policy_document
from tests.unit.execute.build import a_command
from tests.unit.execute.test_worker_steps import A, B, Desk, Fleet

WANTED, OTHER = "d1" * 32, "d2" * 32
COMMAND = a_command(playbooks=WANTED)


def has(desk: Desk, *digests: str) -> None:
    """From now on the VM has these playbooks, the first ones current."""
    found = Found(digests[0] if digests else None, {digest: Path("/opt/orch/releases") for digest in digests})
    desk.worker._look_at_playbooks = lambda: found


@pytest.fixture
def fleet() -> Fleet:
    """Two workers: A has other playbooks than B."""
    fleet = Fleet()
    fleet.consul.port(A).kv_put(keys.CONFIG, json.dumps(policy_document("cold", 5.0, 86400.0)).encode())
    has(fleet.a, OTHER)
    has(fleet.b, OTHER, WANTED)
    return fleet


def offered_to_both(fleet: Fleet) -> Command:
    """Have each worker look at the command until there is nothing left to do; return what became of it."""
    fleet.a.deliver(fleet.create(COMMAND))
    fleet.a.cycle()
    fleet.b.cycle()
    fleet.consul.now += 0.5
    fleet.b.cycle()
    fleet.b.cycle()
    return fleet.command(COMMAND)


def test_a_worker_without_the_playbooks_says_so_and_leaves_the_command_to_one_that_has_them(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    delivery = fleet.a.deliver(fleet.create(COMMAND))
    with caplog.at_level(logging.INFO):
        fleet.a.cycle()
    reason = "it has not the playbooks d1d1d1d1d1d1 that the command was decided for"
    assert caplog.messages[-1] == (
        f"Command {COMMAND.id} is left to another worker: messaging-server refuses it, since {reason}."
    )
    refused = fleet.command(COMMAND)
    assert (refused.state, refused.refusals) == (CommandState.PENDING, {A: reason})
    fleet.b.cycle()
    fleet.consul.now += 0.5
    fleet.b.cycle()
    (order,) = fleet.b.plays.orders
    assert order.playbooks == WANTED
    assert fleet.command(COMMAND).worker == B
    fleet.b.plays.end(COMMAND.id)
    fleet.b.cycle()
    fleet.a.cycle()
    assert fleet.command(COMMAND).state is CommandState.SUCCEEDED
    assert (fleet.a.plays.orders, fleet.a.mailbox.acked) == ([], [delivery])


def test_a_command_whose_playbooks_no_worker_has_ends_with_what_to_do(fleet: Fleet) -> None:
    has(fleet.b, OTHER)
    ended = offered_to_both(fleet)
    assert (ended.state, set(ended.refusals)) == (CommandState.FAILED, {A, B})
    assert ended.reason == (
        f"Command {COMMAND.id} is given up: no worker can run it ("
        "frontend-server: it has not the playbooks d1d1d1d1d1d1 that the command was decided for; "
        "messaging-server: it has not the playbooks d1d1d1d1d1d1 that the command was decided for); "
        "see `orch playbooks status`, then run site.yml."
    )


def test_a_worker_that_has_refused_takes_the_command_once_it_has_the_playbooks(fleet: Fleet) -> None:
    fleet.a.deliver(fleet.create(COMMAND))
    fleet.a.cycle()
    fleet.a.cycle()
    assert fleet.a.plays.orders == []
    has(fleet.a, WANTED)
    fleet.a.cycle()
    assert fleet.command(COMMAND).worker == A


def test_a_worker_whose_disk_is_full_leaves_commands_to_another_and_takes_them_again_once_there_is_room(
    fleet: Fleet,
) -> None:
    has(fleet.a, WANTED)
    fleet.a.worker._look_for_obstacle = lambda: "the disk is full"
    fleet.a.deliver(fleet.create(COMMAND))
    fleet.a.cycle()
    assert (fleet.a.plays.orders, fleet.command(COMMAND).refusals) == ([], {A: "the disk is full"})
    fleet.a.worker._look_for_obstacle = lambda: ""
    fleet.a.cycle()
    assert fleet.command(COMMAND).worker == A


def test_a_command_that_no_worker_can_run_ends_with_the_reason_of_each(fleet: Fleet) -> None:
    has(fleet.b, OTHER)
    fleet.a.worker._look_for_obstacle = lambda: "the disk is full"
    ended = offered_to_both(fleet)
    assert ended.state is CommandState.FAILED
    assert "messaging-server: the disk is full)" in ended.reason


def test_a_disk_without_room_for_a_play_is_told_from_one_with_room(tmp_path: Path) -> None:
    assert no_room_in(tmp_path) == ""
    assert no_room_in(tmp_path, needed=2**62).startswith(f"the disk of {tmp_path} is full (")
    assert no_room_in(tmp_path / "gone") == f"{tmp_path}/gone cannot be used: No such file or directory"


def test_a_command_that_names_no_playbooks_is_run_with_those_that_are_there(fleet: Fleet) -> None:
    fleet.a.deliver(fleet.create(a_command()))
    fleet.a.cycle()
    (order,) = fleet.a.plays.orders
    assert order.playbooks is None


def test_a_command_whose_play_runs_goes_on_whatever_becomes_of_the_playbooks(fleet: Fleet) -> None:
    has(fleet.a, WANTED)
    fleet.a.deliver(fleet.create(COMMAND))
    fleet.a.cycle()
    has(fleet.a, OTHER)
    fleet.a.cycle()
    fleet.b.cycle()
    assert COMMAND.id in fleet.a.plays.running
    assert fleet.command(COMMAND).refusals == {}


def test_what_is_left_by_a_worker_that_died_needs_its_playbooks_too(fleet: Fleet) -> None:
    has(fleet.b, OTHER)
    left = COMMAND.with_(state=CommandState.RUNNING, attempt=1, worker=A)
    fleet.create(left)
    fleet.b.cycle()
    assert (fleet.b.plays.orders, set(fleet.command(COMMAND).refusals)) == ([], {B})


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"format": FORMAT + 1}, f"a newer orch wrote it (format {FORMAT + 1}; this one knows {FORMAT})"),
        ({"leaves_too": "backend-server"}, "a newer orch wrote it (this one does not know leaves_too)"),
        ({"play": "prepare"}, "play: Input should be 'activate'"),
    ],
    ids=["format", "field", "value"],
)
def test_a_command_that_a_newer_orch_wrote_is_left_to_a_newer_worker(
    fleet: Fleet, caplog: pytest.LogCaptureFixture, change: dict[str, object], why: str
) -> None:
    record = json.dumps(json.loads(COMMAND.to_json()) | change).encode()
    fleet.consul.port(A).kv_put(keys.command(COMMAND.id), record)
    has(fleet.a, WANTED)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            fleet.consul.now += 0.5
            fleet.a.cycle()
    (said,) = caplog.messages
    assert said.startswith(f"Command {COMMAND.id} is left to another worker: its record cannot be read here: {why}")
    assert fleet.a.plays.orders == []
    pair = fleet.consul.peek(keys.command(COMMAND.id))
    assert pair is not None
    assert pair.value == record, "what it cannot read it does not touch"


def test_a_record_of_before_there_were_formats_is_understood(fleet: Fleet) -> None:
    fields = json.loads(a_command().to_json())
    del fields["format"], fields["refusals"]
    fleet.consul.port(A).kv_put(keys.command(COMMAND.id), json.dumps(fields).encode())
    fleet.a.cycle()
    fleet.consul.now += 0.5
    fleet.a.cycle()
    assert [order.command_id for order in fleet.a.plays.orders] == [COMMAND.id]


def test_a_message_says_its_format_and_the_playbooks_and_one_of_a_newer_format_is_refused() -> None:
    fields = json.loads(message_of(COMMAND, 1.0))
    assert (fields["format"], fields["playbooks"]) == (FORMAT, WANTED)
    assert parse_message(json.dumps(fields).encode()).id == COMMAND.id
    with pytest.raises(ValueError, match="a newer orch wrote it"):
        parse_message(json.dumps(fields | {"format": FORMAT + 1}).encode())


def test_whoever_waits_for_a_command_is_told_who_refused_it_and_why() -> None:
    from types import SimpleNamespace

    from orchestrator.domain.policy import DispatchPolicy

    case = SimpleNamespace(policy=SimpleNamespace(dispatch=DispatchPolicy()))
    wait = wait_for(case, COMMAND.with_(refusals={A: "it has not the playbooks d1d1"}))  # type: ignore[arg-type]
    assert wait.words.endswith("; messaging-server refused it: it has not the playbooks d1d1")
    assert wait.why.startswith("no worker took its command within ")
    assert wait.why.endswith("; messaging-server refused it: it has not the playbooks d1d1")


def installed(fleet: Fleet, vm: str) -> Installed | None:
    pair = fleet.consul.peek(keys.installed(vm))
    return Installed.from_json(pair.value) if pair is not None else None


def test_a_worker_keeps_in_kv_which_playbooks_it_has(fleet: Fleet) -> None:
    fleet.consul.now += PLAYBOOKS_LOOKED_AT_EVERY_S
    fleet.b.cycle()
    told = installed(fleet, B)
    assert told is not None
    assert (told.vm, told.current, told.kept) == (B, OTHER, (WANTED, OTHER))
    index = fleet.consul.peek(keys.installed(B)).modify_index  # type: ignore[union-attr]
    fleet.consul.now += PLAYBOOKS_LOOKED_AT_EVERY_S
    fleet.b.cycle()
    assert fleet.consul.peek(keys.installed(B)).modify_index == index  # type: ignore[union-attr]
    has(fleet.b)
    fleet.consul.now += PLAYBOOKS_LOOKED_AT_EVERY_S
    fleet.b.cycle()
    told = installed(fleet, B)
    assert told is not None
    assert (told.current, told.kept) == (None, ())
