"""Two VMs lost at once: no quorum, so nothing moves; clients go on being served; all is well after mending. All four at
once: everything comes back by itself, and nothing that was acknowledged is lost."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from deploy.machines.lab import Lab
from deploy.trials.books import left_unindexed, unlike_each_other, unlike_the_ledger
from deploy.trials.outage import outage_from
from deploy.trials.status import settle, wait_until
from deploy.trials.trial import FRONT_DOOR
from tests.lab.fleet import (
    HOME,
    SECOND,
    UNIT,
    epochs,
    has_address,
    ledger,
    orch,
    reasons,
    role_of,
    service,
    traffic,
    unit_state,
    wait_client,
    wait_served_by,
    wait_written,
)

WITHOUT_QUORUM_S = 10.0
# What needs no data: a database that cannot confirm its role lock takes no write, wherever the majority would be.
HEALTH_URL = f"{FRONT_DOOR}/api/health"
# RabbitMQ pauses itself in a minority: once there is a quorum that is a failure like any other, and it is started again
# where it is.
UNMOVED = tuple(name for name in HOME if name != "messaging")
CUT = ("messaging-server", "database-server")
UPSTREAM = "/etc/nginx/orch/backend-upstream.conf"


def what_serves(lab: Lab) -> dict[str, Any]:
    """Return what a move would change, each as the VMs themselves know it."""
    return {
        "roles": {name: role_of(lab, name, HOME["frontend"], stale=True) for name in UNMOVED},
        "address": [vm for vm in (HOME["frontend"], SECOND["frontend"]) if has_address(lab, vm)],
        "nginx": unit_state(lab, HOME["frontend"], UNIT["frontend"]),
        "upstream": lab.run(HOME["frontend"], ["cat", UPSTREAM]).stdout,
        "second backend": unit_state(lab, SECOND["backend"], UNIT["backend"]),
        "second upstream": lab.run(SECOND["frontend"], ["cat", UPSTREAM]).stdout,
    }


def unmoved(lab: Lab) -> dict[str, int]:
    """Return the epochs that must not change."""
    return {name: epoch for name, epoch in epochs(lab).items() if name in UNMOVED}


def test_without_quorum_nothing_moves_and_clients_are_served(fleet: Lab, tmp_path: Path) -> None:
    before, serving = unmoved(fleet), what_serves(fleet)
    with traffic(fleet, HEALTH_URL, tmp_path) as client:
        at = time.time()
        # Neither has frontend or backend: what serves them is left alone in a minority.
        for vm in CUT:
            fleet.fault("cut", vm)
        wait_client(client, at + WITHOUT_QUORUM_S, within_s=WITHOUT_QUORUM_S + 30)
        assert orch(fleet, "status", vm=HOME["frontend"], check=False).returncode == 7
        assert what_serves(fleet) == serving
        fleet.mend()
        settle(fleet)
        wait_client(client, time.time())
        assert outage_from(client.samples(), at).failed == 0
    assert unmoved(fleet) == before, reasons(fleet, at)
    assert what_serves(fleet) == serving
    assert {name: service(fleet, name)["active"] for name in HOME} == HOME


def test_what_fails_without_quorum_is_moved_when_there_is_one_again_and_not_before(fleet: Lab) -> None:
    serving = what_serves(fleet)
    assert None not in serving["roles"].values()
    for vm in CUT:
        fleet.fault("cut", vm)
    wait_until(
        "there is no quorum", lambda: orch(fleet, "status", vm=HOME["frontend"], check=False).returncode == 7, 30
    )
    # Nobody can say that the other half has not moved it already.
    struck = fleet.fault("kill", HOME["backend"], "backend").at
    while time.time() < struck + WITHOUT_QUORUM_S:
        assert what_serves(fleet) == serving
        time.sleep(0.5)
    for vm in CUT:
        fleet.mend(vm)
    wait_served_by(fleet, "backend", SECOND["backend"])


def test_all_vms_were_off_at_once_and_come_back_by_themselves_with_every_write(fleet: Lab, tmp_path: Path) -> None:
    vms = [vm.name for vm in fleet.fleet.vms]
    with ledger(fleet, tmp_path, confirmed=True) as writers:
        for vm in vms:
            fleet.fault("poweroff", vm)
        fleet.mend()
        settle(fleet)
        wait_written(writers, time.time())
    assert unlike_the_ledger(fleet, writers) == []
    assert left_unindexed(fleet, writers) == []
    assert unlike_each_other(fleet, (HOME["database"], SECOND["database"]), writers) == []
    assert {name: service(fleet, name)["active"] for name in HOME} == HOME
