"""What else goes wrong in a trial: the leader, a worker or every broker fails during the failover.

An accident is prepared on the settled fleet; what that returns is called once the trial's own fault is done, with its
time, waits for the moment that hurts and strikes. Daemons that are killed stay down until mended, so that it is the
other one that has to go on.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from deploy.machines.lab import Lab
from deploy.machines.places import LabError
from deploy.trials.status import fleet_status, witness_of
from deploy.trials.trial import Noted, Strike

BLOCKS_FOR_S = 5
SEEN_WITHIN_S = 30.0


def brokers_stopped(lab: Lab) -> Strike:
    """Stop RabbitMQ on all its VMs before the fault."""
    brokers = lab.fleet.members("brokers")
    for vm in brokers:
        lab.fault("stop", vm, "messaging")
    return lambda _: {"brokers_stopped": list(brokers)}


def leader_killed_with_the_fault(lab: Lab) -> Strike:
    """Kill the leader before it has decided: all that a failover takes comes after its replacement."""
    leader = leader_of(lab)
    kill = lab.arm_kill(leader, "orch-controller")
    return lambda fault_at: {"killed": leader, "killed_after_s": kill() - fault_at}


def leader_killed_after_deciding(lab: Lab) -> Strike:
    """Kill the leader the moment its decision is in KV: another has to finish what it began."""
    leader = leader_of(lab)
    kill = lab.arm_kill(leader, "orch-controller")

    def strike(fault_at: float) -> Noted:
        wait_in_kv(lab, "orch/services/backend/assignment", lambda values: any_since(values, fault_at))
        return {"killed": leader, "killed_after_s": kill() - fault_at}

    return strike


def worker_killed_in_its_play(lab: Lab) -> Strike:
    """Kill the worker that has begun the first task of the activate play, with the play itself."""
    kills = {vm: lab.arm_kill(vm, "orch-worker") for vm in lab.fleet.members("workers")}

    def strike(fault_at: float) -> Noted:
        values = wait_in_kv(lab, "orch/commands/", lambda values: running_play(values, fault_at) is not None)
        command = running_play(values, fault_at) or {}
        victim = str(command["worker"])
        return {"killed": victim, "killed_after_s": kills[victim]() - fault_at, "killed_in": command["task"]}

    return strike


def leader_of(lab: Lab) -> str:
    """Return the VM whose controller leads; LabError while none does."""
    leader = fleet_status(lab).get("leader")
    if not leader:
        raise LabError("no controller leads")
    return str(leader)


# --- PURE: what is asked of the records -----------------------------------------------------------------------


def any_since(assignments: Mapping[str, Any], fault_at: float) -> bool:
    """Say whether one of the assignments was made after the fault."""
    return any(value["since"] >= fault_at for value in assignments.values())


def running_play(commands: Mapping[str, Any], fault_at: float) -> dict[str, Any] | None:
    """Return the activate command made since the fault that is running a task, or None."""
    for value in commands.values():
        is_new = value["created"] >= fault_at and value["play"] == "activate"
        if is_new and value["state"] == "running" and value.get("first_task") and value.get("worker"):
            return dict(value)
    return None


def trouble_with_the_play(commands: Mapping[str, Any], fault_at: float, noted: Mapping[str, Any]) -> list[str]:
    """Return why the killed worker's play was not finished once, by another worker, after the kill; [] is as asked."""
    made = [one for one in commands.values() if one["created"] >= fault_at and one["play"] == "activate"]
    if [one["state"] for one in made] != ["succeeded"]:
        return [f"activate commands ended as {sorted(one['state'] for one in made)}, not as one that succeeded"]
    command, troubles = made[0], []
    if command["worker"] == noted["killed"]:
        troubles.append(f"{command['worker']} finished the play although it was killed")
    if command["claimed"] < fault_at + noted["killed_after_s"]:
        troubles.append("the play was taken over before its first run had ended")
    return troubles


def values_in(answer: str) -> tuple[str, dict[str, Any]]:
    """Read `curl -D -` of a recursive read of KV: its index, and the JSON values by key."""
    head, _, body = answer.replace("\r\n", "\n").partition("\n\n")
    headers = dict(line.lower().split(": ", 1) for line in head.splitlines() if ": " in line)
    values = {}
    for row in json.loads(body) if body.strip() else []:
        try:
            values[row["Key"]] = json.loads(base64.b64decode(row["Value"] or ""))
        except ValueError:
            continue
    return headers.get("x-consul-index", "0"), values


# --- waiting ----------------------------------------------------------------------------------------------------


def wait_in_kv(lab: Lab, prefix: str, is_so: Callable[[Mapping[str, Any]], bool]) -> dict[str, Any]:
    """Return the values under the prefix the moment they are so, by blocking queries; LabError after 30 s."""
    deadline, index, witness = time.monotonic() + SEEN_WITHIN_S, "0", witness_of(lab)
    while time.monotonic() < deadline:
        query = f"kv/{prefix}?recurse=1&index={index}&wait={BLOCKS_FOR_S}s"
        answer = lab.ask_consul(witness, query, "-D", "-", timeout_s=2 * BLOCKS_FOR_S)
        if answer.returncode != 0:
            raise LabError(f"Consul on {witness} does not tell what is under {prefix}")
        index, values = values_in(answer.stdout)
        if is_so(values):
            return values
    raise LabError(f"what the trial waited for under {prefix} was not seen within {SEEN_WITHIN_S:g} s")
