"""Everything on every VM is restarted by the one play that does it, one VM after the other, and no request notices."""

from __future__ import annotations

import time
from pathlib import Path

from deploy.machines.lab import Lab
from deploy.machines.playbook import run_playbook
from deploy.trials.books import unlike_each_other, unlike_the_ledger
from deploy.trials.status import settle
from tests.lab.fleet import HOME, SECOND, UNIT, URL, epochs, fleet_status, ledger, traffic, wait_client, wait_written

OURS = ("consul*", "orch-*", "mariadb.service", "rabbitmq-server.service", "nginx.service", "node-app.service")


def started(lab: Lab, vm: str) -> dict[str, int]:
    """Return when each of our units that run on the VM was started, by the VM's monotonic clock, in microseconds."""
    running = ["systemctl", "list-units", "--plain", "--no-legend", "--state=running", "--type=service", *OURS]
    units = [line.split()[0] for line in lab.run(vm, running, timeout_s=20).stdout.splitlines()]
    shown = ["systemctl", "show", "--property=ActiveEnterTimestampMonotonic", "--value", *units]
    return dict(zip(units, map(int, lab.run(vm, shown, timeout_s=20).stdout.split()), strict=True))


def have_lead(lab: Lab, vm: str) -> None:
    """Have the VM's server lead Consul's."""
    peers = lab.run(vm, ["consul", "operator", "raft", "list-peers"], timeout_s=20).stdout
    _, peer, _, state, *_ = next(line.split() for line in peers.splitlines() if line.startswith(f"{vm} "))
    if state != "leader":
        words = ["consul", "operator", "raft", "transfer-leader", f"-id={peer}", "-token-file=/dev/stdin"]
        lab.run(vm, words, text_input=lab.secret("consul_management"), timeout_s=20)


def test_every_vm_is_restarted_in_turn_without_a_failed_request(fleet: Lab, tmp_path: Path) -> None:
    vms = [vm.name for vm in fleet.fleet.vms]
    before, moved = {vm: started(fleet, vm) for vm in vms}, epochs(fleet)
    # Whose turn is the last: it leads until then.
    leader, at = vms[-1], time.time()
    have_lead(fleet, leader)
    with ledger(fleet, tmp_path) as writers, traffic(fleet, URL["frontend"], tmp_path) as client:
        run_playbook(fleet.places, "rolling_restart.yml", {}, lambda *_: None)
        wait_written(writers, time.time())
        wait_client(client, time.time())
        failed = [sample for sample in [*client.samples(), *writers.samples()] if not sample.ok]
    settle(fleet)
    assert failed == []
    assert unlike_the_ledger(fleet, writers) == []
    assert unlike_each_other(fleet, (HOME["database"], SECOND["database"]), writers) == []
    after = {vm: started(fleet, vm) for vm in vms}
    assert {vm: before[vm].keys() - after[vm].keys() for vm in vms} == {vm: set() for vm in vms}, "all of it runs"
    kept = [f"{unit} on {vm}" for vm in vms for unit, at in before[vm].items() if after[vm][unit] == at]
    assert kept == [], "everything was restarted"
    assert {name: epoch - moved[name] for name, epoch in epochs(fleet).items()} == dict.fromkeys(HOME, 2), (
        "there and back"
    )
    words = ["journalctl", "--unit=consul", f"--since=@{at:.3f}", "--output=cat", "--grep=cluster leadership|Stopping"]
    said = fleet.run(leader, words, timeout_s=20).stdout
    before_it_stopped, stopping, _ = said.partition("Stopping")
    assert stopping
    assert "leadership lost" in before_it_stopped, "it hands the leadership over"
    seen = fleet_status(fleet)
    assert {name: seen["services"][name]["active"] for name in HOME} == HOME
    assert [vm for vm in vms if seen["vms"][vm]["maintenance"] is not None] == []
    # Else a VM that boots after it would not have its service come home.
    at_boot = {name: fleet.run(HOME[name], ["systemctl", "is-enabled", UNIT[name]], check=False) for name in HOME}
    assert {name: done.stdout.strip() for name, done in at_boot.items()} == dict.fromkeys(HOME, "enabled")
