"""Everything on a VM is restarted by the one play that does it on all of them, and no request notices."""

from __future__ import annotations

import time
from pathlib import Path

from deploy.machines.lab import Lab
from deploy.machines.playbook import run_playbook
from deploy.trials.books import unlike_each_other, unlike_the_ledger
from deploy.trials.status import settle
from tests.lab.fleet import HOME, SECOND, URL, fleet_status, ledger, reasons, traffic, wait_client, wait_written

VM = "database-server"
UNITS = ("consul", "rabbitmq-server", "mariadb", "consul-template", "orch-proxy@messaging", "orch-guard")


def started(lab: Lab) -> dict[str, str]:
    """Return when each unit on the VM was started, by the VM's monotonic clock."""
    shown = ["systemctl", "show", "--property=ActiveEnterTimestampMonotonic", "--value", *UNITS]
    return dict(zip(UNITS, lab.run(VM, shown, timeout_s=20).stdout.split(), strict=True))


def test_a_vm_is_restarted_without_a_failed_request(fleet: Lab, tmp_path: Path) -> None:
    before, since = started(fleet), time.time()
    with ledger(fleet, tmp_path) as writers, traffic(fleet, URL["frontend"], tmp_path) as client:
        run_playbook(fleet.places, "rolling_restart.yml", {"target_hosts": VM}, lambda *_: None)
        wait_written(writers, time.time())
        wait_client(client, time.time())
        failed = [sample for sample in [*client.samples(), *writers.samples()] if not sample.ok]
    settle(fleet)
    assert failed == []
    assert unlike_the_ledger(fleet, writers) == []
    assert unlike_each_other(fleet, (HOME["database"], SECOND["database"]), writers) == []
    after = started(fleet)
    assert [unit for unit in UNITS if after[unit] == before[unit]] == [], "everything was restarted"
    told = " ".join(reasons(fleet, since))
    assert f"from {VM} to {SECOND['database']}" in told
    assert f"from {SECOND['database']} to {VM}" in told
    seen = fleet_status(fleet)
    assert seen["services"]["database"]["active"] == VM
    assert seen["vms"][VM]["maintenance"] is None
