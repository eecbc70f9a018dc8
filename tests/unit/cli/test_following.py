"""`--wait` and `orch follow`: progress, an honest exit status, and nothing undone by leaving."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.domain import keys
from orchestrator.domain.records import CommandState, HistoryEntry, RequestState
from tests.unit.cli.world import NOW, World

ID = "1700000000000-backend-cli0001"


def ended(world: World, state: RequestState, outcome: str = "") -> Callable[[], None]:
    return lambda: world.change_request(
        state=state, outcome=outcome, times={**world.requests()[-1].times, "finished": NOW + 2.5}
    )


def test_a_move_is_followed_from_the_request_to_its_end(world: World, golden: Callable[[str, str], None]) -> None:
    def change(**changes: Any) -> Callable[[], None]:
        return lambda: world.change_request(**changes)

    def command(**changes: Any) -> Callable[[], None]:
        return lambda: world.put_command(**changes) and None

    run = {"claimed": NOW + 0.2, "worker": "frontend-server", "attempt": 1, "state": CommandState.RUNNING}
    decided = {"decided": NOW + 0.05}
    assigned = decided | {"assigned": NOW + 1.4}
    done = run | {"state": CommandState.SUCCEEDED, "first_task": NOW + 0.5, "finished": NOW + 1.3}
    world.steps = [
        change(state=RequestState.RUNNING, target="messaging-server", times=decided),
        command(),
        command(**run),
        command(**run, first_task=NOW + 0.5, task="start node-app"),
        command(**done),
        change(epoch=2, times=assigned),
        change(times=assigned | {"locked": NOW + 1.6, "endpoints": NOW + 1.7}),
        ended(world, RequestState.SUCCEEDED, "backend is active on messaging-server at epoch 2."),
    ]
    result = world.orch("failover", "backend", "--wait")
    assert result.exit_code == 0
    golden("follow", result.stdout)


@pytest.mark.parametrize(
    ("state", "code"),
    [
        (RequestState.SUCCEEDED, 0),
        (RequestState.REFUSED, 3),
        (RequestState.FAILED, 4),
        (RequestState.SUPERSEDED, 5),
        (RequestState.CANCELLED, 5),
    ],
)
def test_the_exit_status_is_what_became_of_the_request(world: World, state: RequestState, code: int) -> None:
    world.steps = [ended(world, state, "so it is.")]
    result = world.orch("failover", "backend", "--wait")
    assert result.exit_code == code
    assert result.stdout.splitlines()[-1].endswith("after 2.5 s: so it is.")


def test_a_failed_play_shows_the_end_of_its_output(world: World) -> None:
    def fail() -> None:
        world.put_command(state=CommandState.FAILED, tail=("TASK [start]", "fatal: no such unit"), finished=NOW + 2)
        ended(world, RequestState.FAILED, "the play failed.")()

    world.steps = [fail]
    result = world.orch("failover", "backend", "--wait")
    assert result.exit_code == 4
    assert result.stdout.splitlines()[-3:] == [
        "    TASK [start]",
        "    fatal: no such unit",
        "failover of backend failed after 2.5 s: the play failed.",
    ]


def test_the_json_answer_of_a_waiting_is_the_final_records(world: World) -> None:
    world.steps = [ended(world, RequestState.FAILED, "no.")]
    result = world.orch("failover", "backend", "--wait", "--json")
    found = json.loads(result.stdout)
    assert (result.exit_code, found["exit"], found["requests"][0]["state"]) == (4, 4, "failed")


def test_when_the_time_is_over_the_request_goes_on(world: World) -> None:
    result = world.orch("failover", "backend", "--wait", "--timeout", "30")
    assert result.exit_code == 6
    assert result.stderr == (
        f"orch: it has not ended within the time limit; the request goes on: `orch follow {ID}` to see how it ends.\n"
    )
    assert [r.state for r in world.requests()] == [RequestState.PENDING]


@pytest.mark.parametrize("seconds", ["nan", "0", "-1", "soon"])
def test_a_time_limit_that_is_none_is_wrong_usage(world: World, seconds: str) -> None:
    assert world.orch("failover", "backend", "--wait", "--timeout", seconds).exit_code == 2
    assert world.requests() == []


def test_ctrl_c_stops_the_waiting_and_says_that_the_request_goes_on(world: World) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    world.steps = [interrupt]
    result = world.orch("failover", "backend", "--wait")
    assert result.exit_code == 6
    assert "you stopped waiting; the request goes on: `orch follow" in result.stderr
    assert [r.state for r in world.requests()] == [RequestState.PENDING]


def test_an_election_of_consul_meanwhile_is_waited_out(world: World) -> None:
    def quorum(there_is: bool) -> Callable[[], None]:
        def change() -> None:
            world.consul.quorum = there_is

        return change

    world.steps = [quorum(False), lambda: None, quorum(True), ended(world, RequestState.SUCCEEDED, "done.")]
    assert world.orch("failover", "backend", "--wait").exit_code == 0


def test_waiting_is_the_default_on_a_terminal_only(world: World) -> None:
    assert world.orch("failover", "backend").stdout.startswith("failover of backend asked for; `orch follow")
    world.on_terminal = True
    world.steps = [ended(world, RequestState.SUCCEEDED, "done.")]
    result = world.orch("rotate", "frontend")
    assert result.exit_code == 0
    assert "rotation of frontend done after 2.5 s: done." in result.stdout


def test_of_several_requests_the_worst_gives_the_exit_status(world: World) -> None:
    def end() -> None:
        for request, state in zip(world.requests(), (RequestState.FAILED, RequestState.SUCCEEDED), strict=True):
            world.put(keys.request(request.id), request.with_(state=state))

    world.steps = [end]
    assert world.orch("rotate", "--all", "--wait").exit_code == 4


def test_a_request_can_be_followed_again_later(world: World) -> None:
    world.orch("failover", "backend", "--no-wait")
    ended(world, RequestState.SUCCEEDED, "done.")()
    result = world.orch("follow", ID)
    assert (result.exit_code, result.stdout.splitlines()[-1]) == (0, "failover of backend done after 2.5 s: done.")


def test_following_a_request_that_never_was_is_refused(world: World) -> None:
    result = world.orch("follow", "x")
    assert (result.exit_code, result.stderr) == (
        3,
        "orch: refused: there is no request x; `orch history` shows what there was.\n",
    )


def test_of_a_request_that_was_cleared_away_the_journal_tells_the_end(world: World) -> None:
    entry = HistoryEntry(id="1", at=NOW, service="backend", kind="done", reason="It is done.", request_id="old")
    world.put(keys.history("1"), entry)
    result = world.orch("follow", "old")
    assert (result.exit_code, result.stderr) == (
        3,
        "orch: request old has been cleared away; its last entry: It is done.\n",
    )
