"""What operators do: move, rotate, pause, take a VM out, publish by hand; and what they are told."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from deploy.machines.lab import Lab
from deploy.trials.planned import PLANNED, Planned, run_planned
from deploy.trials.policy import apply_policy, policy_now
from deploy.trials.status import WITNESS, fleet_status, settle, wait_until
from tests.lab.fleet import (
    BY_HAND,
    HOME,
    HOME_WITHIN_S,
    SECOND,
    URL,
    answer,
    epochs,
    kv_get,
    kv_put,
    orch,
    publish,
    reasons,
    service,
    traffic,
    wait_client,
    wait_served_by,
)

CHECK_LOAD = "/usr/local/lib/orch/check-load"


@pytest.mark.parametrize("planned", PLANNED, ids=lambda planned: planned.name.replace(" ", "-"))
def test_a_planned_move_there_and_back_costs_no_request(fleet: Lab, planned: Planned) -> None:
    counted = run_planned(fleet, planned, requests=400)
    assert (counted.failed, counted.troubles) == (0, ())


@pytest.mark.parametrize("name", ["backend", "frontend"])
def test_a_key_written_by_consuls_own_tool_forces_a_rotation_that_costs_no_request(
    fleet: Lab, tmp_path: Path, name: str
) -> None:
    since = time.time()
    with traffic(fleet, URL[name], tmp_path) as client:
        kv_put(fleet, f"orch/rotate/{name}", "now")
        wait_served_by(fleet, name, SECOND[name])
        assert service(fleet, name)["designated"] == SECOND[name]
        assert kv_get(fleet, f"orch/rotate/{name}") is None
        assert any(f"orch/rotate/{name}" in reason for reason in reasons(fleet, since))
        settle(fleet)
        orch(fleet, "failback", name, "--wait")
        settle(fleet)
        wait_client(client, time.time())
    assert [sample for sample in client.samples() if not sample.ok] == []


def test_an_overloaded_vm_is_no_target_of_a_rotation(fleet: Lab) -> None:
    vm, before = SECOND["backend"], epochs(fleet)
    fleet.run(vm, ["mv", CHECK_LOAD, f"{CHECK_LOAD}.kept"])
    try:
        fleet.run(vm, ["tee", CHECK_LOAD], text_input="#!/bin/sh\necho too much\nexit 1\n")
        fleet.run(vm, ["chmod", "755", CHECK_LOAD])
        wait_until("its load shows", lambda: load_of(fleet, vm) == "warning", 60, 0.3)
        refused = orch(fleet, "rotate", "backend", "--wait", check=False)
        assert refused.returncode == 3, refused.stdout + refused.stderr
        assert f"{vm} is overloaded" in refused.stdout + refused.stderr
    finally:
        fleet.run(vm, ["mv", "-f", f"{CHECK_LOAD}.kept", CHECK_LOAD])
    wait_until("its load is well again", lambda: load_of(fleet, vm) == "passing", 60, 0.3)
    assert epochs(fleet) == before


def load_of(lab: Lab, vm: str) -> str:
    """Return the status of the VM's check `load` in Consul's catalog."""
    told = lab.ask_consul(WITNESS, f"health/node/{vm}", "-m", "5")
    return next((check["Status"] for check in json.loads(told.stdout or "[]") if check["CheckID"] == "load"), "")


def test_a_command_published_by_hand_in_the_old_format_is_carried_out(fleet: Lab) -> None:
    publish(fleet, json.dumps({**BY_HAND, "failed_instance": HOME["backend"], "timestamp": time.time()}))
    wait_served_by(fleet, "backend", SECOND["backend"])
    # It does not change the designation: the service comes home after its grace, as it did in the old system.
    wait_served_by(fleet, "backend", HOME["backend"], within_s=HOME_WITHIN_S)


def test_a_message_that_is_no_command_is_put_aside_and_costs_nothing(fleet: Lab) -> None:
    before = epochs(fleet)
    publish(fleet, "certainly not JSON")

    def dead_letters() -> int:
        told = fleet.run("messaging-server", ["rabbitmqctl", "-q", "list_queues", "-p", "orch", "name", "messages"])
        return sum(int(row.split()[1]) for row in told.stdout.splitlines() if row.startswith("failover_commands.dead"))

    wait_until("the message is in the dead-letter queue", lambda: dead_letters() >= 1, 20, 0.5)
    assert epochs(fleet) == before


def test_while_paused_nothing_moves_by_itself_and_afterwards_it_does(fleet: Lab) -> None:
    orch(fleet, "pause", "--reason", "test of the pause")
    try:
        fleet.fault("stop", HOME["backend"], "backend")
        wait_until(
            "the failure is diagnosed and held back by the pause",
            lambda: any(found["code"] == "paused" for found in answer(fleet, "status")["diagnoses"]),
            30,
        )
        assert service(fleet, "backend")["active"] == HOME["backend"]
    finally:
        orch(fleet, "resume")
    wait_served_by(fleet, "backend", SECOND["backend"])


def test_a_vm_in_maintenance_is_no_target(fleet: Lab) -> None:
    orch(fleet, "maintenance", "on", SECOND["backend"], "--reason", "test of maintenance")
    try:
        refused = orch(fleet, "failover", "backend", "--to", SECOND["backend"], check=False)
        assert refused.returncode == 3
        assert "maintenance" in refused.stdout + refused.stderr
        rotated = orch(fleet, "rotate", "backend", "--wait", check=False)
        assert rotated.returncode == 3
    finally:
        orch(fleet, "maintenance", "off", SECOND["backend"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("failover", "backnd"), "backend"),
        (("failover", "backend", "--to", "nowhere"), "messaging-server"),
        (("failover", "backend", "--to", "backend-server"), "already active on backend-server"),
        (("failover", "backend", "--to", "database-server"), "order"),
        (("failback", "backend"), "home already"),
    ],
)
def test_bad_input_is_refused_at_once_with_what_would_be_possible(
    fleet: Lab, words: tuple[str, ...], said: str
) -> None:
    before = epochs(fleet)
    refused = orch(fleet, *words, check=False)
    assert refused.returncode in (2, 3)
    assert said in refused.stdout + refused.stderr
    assert epochs(fleet) == before


def test_a_target_that_is_down_is_refused(fleet: Lab) -> None:
    fleet.fault("cut", SECOND["backend"])
    wait_until(
        "the VM is seen down",
        # Nothing is told while Consul elects: the VM that was cut off may have been its leader.
        lambda: fleet_status(fleet).get("vms", {}).get(SECOND["backend"], {}).get("reach") == "down",
        15,
    )
    refused = orch(fleet, "failover", "backend", "--to", SECOND["backend"], check=False)
    assert refused.returncode == 3
    assert "down" in refused.stdout + refused.stderr


def test_a_service_that_flaps_is_held_until_it_is_acknowledged(fleet: Lab) -> None:
    before = policy_now(fleet)
    changed = json.loads(json.dumps(before))
    # Failovers of the tests before may be remembered still: one more is allowed, the next is one too many.
    remembered = len(json.loads(kv_get(fleet, "orch/services/backend/assignment") or "{}").get("failovers", []))
    changed["flapping"] = {"max_failovers": remembered + 1, "window_s": 600.0, "hold_s": 600.0}
    apply_policy(fleet, changed)
    try:
        fleet.fault("kill", HOME["backend"], "backend")
        wait_served_by(fleet, "backend", SECOND["backend"])
        fleet.mend()
        wait_served_by(fleet, "backend", HOME["backend"], within_s=HOME_WITHIN_S)
        fleet.fault("kill", HOME["backend"], "backend")
        wait_until("it is held", lambda: service(fleet, "backend").get("hold_until") is not None, 20)
        assert service(fleet, "backend")["active"] == HOME["backend"]
        orch(fleet, "resume", "backend")
        wait_served_by(fleet, "backend", SECOND["backend"])
    finally:
        apply_policy(fleet, before)
        fleet.mend()
        orch(fleet, "resume", "backend", check=False)


def test_why_tells_the_chain_from_observation_to_decision(fleet: Lab) -> None:
    fleet.fault("kill", HOME["backend"], "backend")
    wait_served_by(fleet, "backend", SECOND["backend"])
    told = orch(fleet, "why", "backend").stdout
    assert "fails its check on backend-server" in told
    assert SECOND["backend"] in told


def test_what_the_recorder_kept_is_replayed_to_the_same_decisions(fleet: Lab, tmp_path: Path) -> None:
    leader = answer(fleet, "status")["leader"]
    replayed = orch(fleet, "replay", "/var/lib/orch/recorder/decisions.jsonl", vm=leader, check=False)
    assert replayed.returncode == 0, replayed.stdout + replayed.stderr
