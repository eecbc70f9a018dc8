"""Our own daemons, the broker and Consul fail: no service moves for it, and no failover is lost."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from deploy.machines.lab import Lab
from deploy.trials.accidents import (
    leader_killed_after_deciding,
    leader_of,
    trouble_with_the_play,
    worker_killed_in_its_play,
)
from deploy.trials.outage import outage_from
from deploy.trials.status import WITNESS, settle, wait_until
from deploy.trials.timeline import command_of, kv_below, kv_of, request_since
from deploy.trials.trial import BACKEND_URL
from tests.lab.fleet import (
    BROKERS,
    BY_HAND,
    CONTROLLERS,
    HOME,
    MOVED_WITHIN_S,
    SECOND,
    epochs,
    history,
    publish,
    reasons,
    traffic,
    unit_state,
    wait_client,
    wait_served_by,
)
from tests.lab.notices import Desk, paged, people_are_told, said_by_controllers

LEADER = "the leader's VM"
RUNS_AGAIN_WITHIN_S = 60.0
# The pause before the fifth try and any later one is a minute.
TOLD_WITHIN_S = 90.0


def main_pid(lab: Lab, vm: str, unit: str) -> str:
    """Return the unit's main process on the VM; 0 where none runs."""
    return str(lab.run(vm, ["systemctl", "show", "--property=MainPID", "--value", unit], timeout_s=20).stdout.strip())


@pytest.mark.parametrize(
    ("daemon", "where"),
    [
        ("orch-guard", HOME["frontend"]),
        ("orch-guard", HOME["backend"]),
        ("consul-template", HOME["frontend"]),
        ("orch-controller", LEADER),
        ("orch-worker", CONTROLLERS[0]),
    ],
)
def test_a_daemon_that_dies_or_restarts_moves_no_service_and_costs_no_request(
    fleet: Lab, tmp_path: Path, daemon: str, where: str
) -> None:
    before = epochs(fleet)
    with traffic(fleet, BACKEND_URL, tmp_path) as client:
        at = time.time()
        for end in (["kill", "--signal=KILL"], ["restart"]):
            # The one that was killed has been replaced as the leader.
            vm = leader_of(fleet) if where == LEADER else where
            former = main_pid(fleet, vm, daemon)
            assert former != "0"
            fleet.run(vm, ["systemctl", *end, daemon], timeout_s=60)
            wait_until(
                f"another {daemon} runs on {vm}",
                lambda vm=vm, former=former: main_pid(fleet, vm, daemon) not in ("0", former),
                RUNS_AGAIN_WITHIN_S,
            )
            wait_until("a controller leads", lambda: bool(leader_of(fleet)), RUNS_AGAIN_WITHIN_S)
            wait_client(client, time.time() + 2.0)
            assert unit_state(fleet, vm, daemon) == "active"
        failed = outage_from(client.samples(), at).failed
    assert failed == 0
    settle(fleet)
    assert epochs(fleet) == before


def final_request(lab: Lab, fault_at: float) -> dict[str, Any]:
    """Wait until every request since the fault is final; return the one that moved the backend."""
    wait_until(
        "every request is final",
        lambda: all(
            value["state"] not in ("pending", "running")
            for key, value in kv_of(lab, WITNESS).items()
            if key.startswith("orch/requests/") and value["created"] >= fault_at
        ),
        MOVED_WITHIN_S,
        0.3,
    )
    request = request_since(kv_of(lab, WITNESS), "backend", fault_at)
    assert request is not None
    return request


def test_the_leader_killed_in_the_middle_of_a_failover_is_replaced_and_people_are_told_once_they_can_be(
    fleet: Lab, tmp_path: Path
) -> None:
    with Desk(fleet, tmp_path / "mute.jsonl", mute=True) as mute, people_are_told(fleet):
        strike = leader_killed_after_deciding(fleet)
        fault = fleet.fault("kill", HOME["backend"], "backend")
        killed = strike(fault.at)["killed"]
        wait_served_by(fleet, "backend", SECOND["backend"])
        wait_until("the other controller leads", lambda: leader_of(fleet) != killed, RUNS_AGAIN_WITHIN_S)
        assert final_request(fleet, fault.at)["state"] == "succeeded"
        # All of that while nobody took what was posted, or answered to it; which held up no other sink either.
        (moved,) = [entry for entry in history(fleet, fault.at) if entry["kind"] == "failover"]
        wait_until("the command was told", lambda: moved["reason"] in paged(fleet), TOLD_WITHIN_S)
        wait_until("the mute one has it", lambda: mute.received() != [], TOLD_WITHIN_S)
        wait_until(
            "the webhook was tried",
            lambda: "desk could not be told (try 1)" in said_by_controllers(fleet, fault.at),
            TOLD_WITHIN_S,
        )
        with Desk(fleet, tmp_path / "desk.jsonl") as desk:
            wait_until(
                "the webhook was told that it is done",
                lambda: "succeeded" in [notice["kind"] for notice in desk.received()],
                TOLD_WITHIN_S,
            )
            first, *_ = desk.received()
            assert {name: first[name] for name in ("id", "kind", "service", "vm", "reason")} == {
                "id": moved["id"],
                "kind": "failover",
                "service": "backend",
                "vm": SECOND["backend"],
                "reason": moved["reason"],
            }


def test_a_worker_killed_in_the_middle_of_a_play_is_replaced_and_the_play_runs_once_at_a_time(fleet: Lab) -> None:
    strike = worker_killed_in_its_play(fleet)
    fault = fleet.fault("kill", HOME["backend"], "backend")
    noted = strike(fault.at)
    wait_served_by(fleet, "backend", SECOND["backend"])
    request = final_request(fleet, fault.at)
    kv = kv_of(fleet, WITNESS)
    assert trouble_with_the_play(kv_below(kv, "orch/commands/"), fault.at, noted) == []
    assert command_of(kv, request["id"])["attempt"] == 2


def told_in_json(lab: Lab, vm: str, *words: str) -> dict[str, Any]:
    """Run a tool of RabbitMQ's on the VM; returns what it tells."""
    return dict(json.loads(lab.run(vm, [*words, "--formatter", "json"], timeout_s=60).stdout))


def test_with_one_broker_of_the_cluster_killed_a_message_is_still_carried_out(fleet: Lab) -> None:
    brokers = sorted(f"rabbit@{vm}" for vm in BROKERS)
    assert sorted(told_in_json(fleet, BROKERS[0], "rabbitmqctl", "cluster_status")["running_nodes"]) == brokers
    replicas = quorum_of_the_queue(fleet)
    assert sorted(replicas) == brokers
    (leader,) = [node for node, state in replicas.items() if state == "leader"]
    fleet.fault("kill", leader.removeprefix("rabbit@"), "messaging")
    publish(fleet, json.dumps({**BY_HAND, "failed_instance": HOME["backend"], "timestamp": time.time()}))
    wait_served_by(fleet, "backend", SECOND["backend"])


def quorum_of_the_queue(lab: Lab) -> dict[str, str]:
    """Return the state of each replica of the queue of commands, by node."""
    words = [*("rabbitmq-queues", "-q", "quorum_status", "failover_commands"), "--vhost", "orch", "--formatter", "json"]
    rows = json.loads(lab.run(BROKERS[0], words, timeout_s=60).stdout)
    return {row["Node Name"]: row["Raft State"] for row in rows}


def test_without_any_broker_the_backend_still_fails_over(fleet: Lab) -> None:
    for vm in BROKERS:
        fleet.fault("stop", vm, "messaging")
    fleet.fault("kill", HOME["backend"], "backend")
    wait_served_by(fleet, "backend", SECOND["backend"])


def test_consul_agents_restarted_one_by_one_move_nothing_and_cost_no_request(fleet: Lab, tmp_path: Path) -> None:
    before = epochs(fleet)
    # Those where the sessions of the services are bound to checks of the agent's come twice.
    vms = [*(vm.name for vm in fleet.fleet.vms), *HOME.values()]
    with traffic(fleet, BACKEND_URL, tmp_path) as client:
        at = time.time()
        for vm in vms:
            fleet.run(vm, ["systemctl", "restart", "consul"], timeout_s=60)
            wait_until(f"{vm} is back", lambda vm=vm: knows_all_as_alive(fleet, vm), 60, 0.3)
            for name, home in HOME.items():
                wait_served_by(fleet, name, home)
        settle(fleet)
        wait_client(client, time.time())
        assert outage_from(client.samples(), at).failed == 0
    assert epochs(fleet) == before, reasons(fleet, at)


def knows_all_as_alive(lab: Lab, vm: str) -> bool:
    """Say whether the VM's Consul agent runs and sees every VM."""
    members = lab.run(vm, ["consul", "members"], check=False, timeout_s=20).stdout
    return bool(members.count("alive") == len(lab.fleet.vms))
