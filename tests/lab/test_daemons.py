"""Our own daemons, the broker and Consul fail: no service moves for it, and no failover is lost."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from deploy.machines.lab import Lab
from deploy.trials.outage import outage_from
from deploy.trials.timeline import kv_of
from deploy.trials.trial import BACKEND_URL, FRONTEND_URL, WITNESS, settle, wait_until
from tests.lab.fleet import (
    HOME,
    SECOND,
    answer,
    epochs,
    service,
    traffic,
    unit_state,
    wait_client,
    wait_served_by,
)

CONTROLLERS = ("messaging-server", "frontend-server")
BROKERS = ("messaging-server", "frontend-server", "database-server")


@pytest.mark.parametrize("daemon", ["orch-guard", "consul-template", "orch-controller", "orch-worker"])
def test_a_daemon_that_dies_or_restarts_moves_no_service_and_costs_no_request(
    fleet: Lab, tmp_path: Path, daemon: str
) -> None:
    before = epochs(fleet)
    vm = "frontend-server"
    with traffic(fleet, BACKEND_URL, tmp_path) as client:
        at = time.time()
        for end in (["kill", "--signal=KILL"], ["restart"]):
            fleet.run(vm, ["systemctl", *end, daemon], timeout_s=60)
            wait_until(f"{daemon} runs again", lambda: unit_state(fleet, vm, daemon) == "active", 15)
            wait_client(client, time.time() + 2.0)
        failed = outage_from(client.samples(), at).failed
    assert failed == 0
    settle(fleet)
    assert epochs(fleet) == before


def test_the_leader_killed_in_the_middle_of_a_failover_is_replaced_and_the_failover_ends_well(fleet: Lab) -> None:
    leader = answer(fleet, "status")["leader"]
    fault = fleet.fault("kill", HOME["backend"], "backend")
    fleet.fault("kill", leader, "orch-controller")
    wait_served_by(fleet, "backend", SECOND["backend"])
    wait_until("the other controller leads", lambda: answer(fleet, "status")["leader"] not in (None, leader), 15)
    wait_until(
        "every request is final",
        lambda: all(
            value["state"] not in ("pending", "running")
            for key, value in kv_of(fleet, WITNESS).items()
            if key.startswith("orch/requests/") and value["created"] >= fault.at
        ),
        30,
    )


def test_a_worker_killed_in_the_middle_of_a_play_is_replaced_and_the_play_runs_once_at_a_time(fleet: Lab) -> None:
    fault = fleet.fault("kill", HOME["backend"], "backend")

    def running() -> dict[str, object] | None:
        return next(
            (
                value
                for key, value in kv_of(fleet, WITNESS).items()
                if key.startswith("orch/commands/") and value["created"] >= fault.at and value["state"] == "running"
            ),
            None,
        )

    taken: list[dict[str, object]] = []

    def is_taken() -> bool:
        taken.extend(filter(None, [running()]))
        return bool(taken)

    wait_until("a worker runs the play", is_taken, 20, 0.02)
    first = str(taken[0]["worker"])
    fleet.fault("kill", first, "orch-worker")
    wait_served_by(fleet, "backend", SECOND["backend"], within_s=40)
    settle_commands(fleet, fault.at)
    ended = [
        value
        for key, value in kv_of(fleet, WITNESS).items()
        if key.startswith("orch/commands/") and value["created"] >= fault.at and value["play"] == "activate"
    ]
    assert [value["state"] for value in ended] == ["succeeded"]


def settle_commands(lab: Lab, since: float) -> None:
    wait_until(
        "every command is final",
        lambda: all(
            value["state"] not in ("pending", "running")
            for key, value in kv_of(lab, WITNESS).items()
            if key.startswith("orch/commands/") and value["created"] >= since
        ),
        40,
        0.3,
    )


def test_without_any_broker_the_backend_still_fails_over(fleet: Lab) -> None:
    for vm in BROKERS:
        fleet.fault("stop", vm, "messaging")
    fleet.fault("kill", HOME["backend"], "backend")
    wait_served_by(fleet, "backend", SECOND["backend"])


def test_consul_agents_restarted_one_by_one_move_nothing(fleet: Lab, tmp_path: Path) -> None:
    with traffic(fleet, FRONTEND_URL, tmp_path) as client:
        at = time.time()
        for vm in (WITNESS, "messaging-server"):
            fleet.run(vm, ["systemctl", "restart", "consul"], timeout_s=60)
            wait_until(
                f"{vm} is back",
                lambda vm=vm: (
                    fleet.run(vm, ["consul", "members"], check=False, timeout_s=20).stdout.count("alive") == 4
                ),
                30,
                0.5,
            )
        settle(fleet)
        wait_client(client, time.time())
        assert outage_from(client.samples(), at).failed == 0
    assert {name: service(fleet, name)["active"] for name in HOME} == HOME
