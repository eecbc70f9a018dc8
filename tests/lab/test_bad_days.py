"""Consul itself is in trouble, or a controller's disk is full: nothing moves for it, and what fails still does."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from deploy.machines.lab import Lab
from deploy.trials.accidents import leader_of, wait_in_kv
from deploy.trials.books import unlike_the_ledger
from deploy.trials.outage import outage_from
from deploy.trials.status import settle
from deploy.trials.timeline import kv_below, kv_of
from deploy.trials.trial import FRONT_DOOR
from tests.lab.fleet import (
    HOME,
    SECOND,
    epochs,
    have_lead,
    ledger,
    reasons,
    traffic,
    wait_client,
    wait_served_by,
    wait_written,
)

# What needs no data: a database that cannot confirm its role lock takes no write.
HEALTH_URL = f"{FRONT_DOOR}/api/health"
SLOW_S, ANSWERS_AFTER_S = 10.0, 5.0
# Stands between everything on the VM and its Consul agent, and holds each answer back.
RELAY = f"""
import asyncio, os
async def pump(reader, writer, hold_s):
    while data := await reader.read(65536):
        await asyncio.sleep(hold_s)
        writer.write(data)
        await writer.drain()
    writer.close()
async def serve(reader, writer):
    answers, asks = await asyncio.open_connection("127.0.0.1", 8500)
    await asyncio.gather(pump(reader, asks, 0), pump(answers, writer, {ANSWERS_AFTER_S}), return_exceptions=True)
async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 18500)
    print("listens", flush=True)
    await server.serve_forever()
os.setuid(65533)
asyncio.run(main())
"""
# The loopback's connections are not tracked, and what is not tracked cannot be redirected.
REDIRECT = """
insert rule inet orch untracked_out tcp dport { 8500, 18500 } accept
insert rule inet orch untracked_out tcp sport { 8500, 18500 } accept
insert rule inet orch untracked_in tcp dport { 8500, 18500 } accept
insert rule inet orch untracked_in tcp sport { 8500, 18500 } accept
table ip slow_consul {
  chain output {
    type nat hook output priority -100;
    ip daddr 127.0.0.1 tcp dport 8500 meta skuid != 65533 redirect to :18500
  }
}
"""


@contextlib.contextmanager
def slow_consul(lab: Lab, vm: str) -> Iterator[None]:
    """Have the VM's Consul agent answer everybody there after `ANSWERS_AFTER_S` only."""
    run = ["systemd-run", "--quiet", "--unit=slow-consul", "python3", "-c", RELAY]
    lab.run(vm, run, timeout_s=20)
    try:
        lab.run(vm, ["nft", "-f", "-"], text_input=REDIRECT, timeout_s=20)
        # What is open already would go on as before.
        lab.run(vm, ["ss", "--kill", "-H", "dst", "127.0.0.1", "dport", "=", "8500"], timeout_s=20)
        asked_at = time.monotonic()
        assert lab.ask_consul(vm, "status/leader", "--retry", "5", "--retry-connrefused").stdout
        assert time.monotonic() - asked_at > ANSWERS_AFTER_S
        yield
    finally:
        lab.run(vm, ["nft", "delete", "table", "ip", "slow_consul"], check=False, timeout_s=20)
        lab.run(vm, ["systemctl", "reload", "orch-firewall"], timeout_s=20)
        lab.run(vm, ["systemctl", "stop", "slow-consul"], check=False, timeout_s=20)


def test_a_consul_that_answers_after_five_seconds_moves_nothing(fleet: Lab, tmp_path: Path) -> None:
    before = epochs(fleet)
    with traffic(fleet, HEALTH_URL, tmp_path) as client, ledger(fleet, tmp_path) as writers:
        at = time.time()
        with contextlib.ExitStack() as slow:
            for vm in fleet.fleet.vms:
                slow.enter_context(slow_consul(fleet, vm.name))
            wait_client(client, time.time() + SLOW_S, within_s=SLOW_S + 30)
        # Writes pause meanwhile: a guard that cannot confirm its role lock lets none in.
        wait_written(writers, time.time())
        settle(fleet)
        assert outage_from(client.samples(), at).failed == 0
    assert epochs(fleet) == before, reasons(fleet, at)
    assert unlike_the_ledger(fleet, writers) == []


def test_all_consul_agents_restarted_at_once_move_nothing(fleet: Lab, tmp_path: Path) -> None:
    before = epochs(fleet)
    with traffic(fleet, HEALTH_URL, tmp_path) as client:
        at = time.time()
        for vm in fleet.fleet.vms:
            fleet.run(vm.name, ["systemctl", "--no-block", "restart", "consul"], timeout_s=20)
        settle(fleet)
        wait_client(client, time.time())
        assert outage_from(client.samples(), at).failed == 0
    assert epochs(fleet) == before, reasons(fleet, at)


def raft_leader(lab: Lab) -> str:
    """Return the VM whose Consul server leads."""
    address = lab.ask_consul(HOME["database"], "status/leader").stdout.strip().strip('"').rpartition(":")[0]
    return next(vm.name for vm in lab.fleet.vms if vm.address == address)


def test_consuls_leader_killed_in_the_middle_of_a_failover_has_it_done_once(fleet: Lab) -> None:
    before, leader = epochs(fleet), raft_leader(fleet)
    kill = fleet.arm_kill(leader, "consul")
    at = fleet.fault("kill", HOME["backend"], "backend").at
    wait_in_kv(
        fleet, "orch/services/backend/assignment", lambda found: any(one["since"] >= at for one in found.values())
    )
    kill()
    # Only that moment is asked for, not a Consul server less for good.
    fleet.mend(leader)
    wait_served_by(fleet, "backend", SECOND["backend"])
    settled = {**before, "backend": before["backend"] + 1}
    assert {name: epoch for name, epoch in epochs(fleet).items() if settled[name] != epoch} == {}, reasons(fleet, at)
    commands = kv_below(kv_of(fleet, HOME["database"]), "orch/commands/").values()
    runs = [one["attempt"] for one in commands if one["created"] >= at and one["play"] == "activate"]
    assert runs == [1]


# What is there already can be read as before: who may log in, above all.
FILL = """
mount -t tmpfs -o size=1m,mode=0755 tmpfs "$1"
cp -a /var/lib/orch/.ssh "$1"
mount --bind "$1" /var/lib/orch
umount "$1"
"""


@contextlib.contextmanager
def full_disk(lab: Lab, vm: str) -> Iterator[None]:
    """Have no byte left for what orch's daemons write on the VM; they begin anew on it."""
    daemons = ["orch-controller", "orch-worker", "orch-guard"]
    lab.run(vm, ["systemctl", "stop", *daemons], timeout_s=60)
    lab.run(vm, ["sh", "-ec", FILL, "sh", "/mnt"], timeout_s=20)
    try:
        lab.run(vm, ["systemctl", "start", *daemons], timeout_s=60)
        lab.run(vm, ["dd", "if=/dev/zero", "of=/var/lib/orch/everything", "bs=4k"], check=False, timeout_s=20)
        assert lab.run(vm, ["stat", "-f", "-c", "%a", "/var/lib/orch"], timeout_s=20).stdout == "0\n"
        yield
    finally:
        lab.run(vm, ["systemctl", "stop", *daemons], timeout_s=60)
        lab.run(vm, ["umount", "/var/lib/orch"], timeout_s=20)
        lab.run(vm, ["systemctl", "start", *daemons], timeout_s=60)


def test_a_leader_whose_disk_is_full_still_moves_what_fails(fleet: Lab) -> None:
    leader = leader_of(fleet)
    (other,) = [vm for vm in fleet.fleet.members("controllers") if vm != leader]
    with full_disk(fleet, leader):
        # Back to it: the one with the full disk is to lead.
        have_lead(fleet, leader)
        settle(fleet)
        before, at = epochs(fleet), time.time()
        fleet.fault("kill", HOME["backend"], "backend")
        wait_served_by(fleet, "backend", SECOND["backend"])
        assert epochs(fleet)["backend"] == before["backend"] + 1, reasons(fleet, at)
    commands = kv_below(kv_of(fleet, HOME["database"]), "orch/commands/").values()
    runs = [(one["worker"], one["attempt"]) for one in commands if one["created"] >= at and one["play"] == "activate"]
    assert runs[:1] == [(other, 1)], "the worker that has no room for a play left it to the one that has"
