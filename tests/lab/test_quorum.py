"""Two VMs lost at once: no quorum, so nothing moves; clients go on being served; all is well after mending."""

from __future__ import annotations

import time
from pathlib import Path

from deploy.machines.lab import Lab
from deploy.trials.outage import outage_from
from deploy.trials.trial import FRONTEND_URL, settle
from tests.lab.fleet import HOME, epochs, orch, reasons, service, traffic, wait_client

WITHOUT_QUORUM_S = 10.0


def test_without_quorum_nothing_moves_and_clients_are_served(fleet: Lab, tmp_path: Path) -> None:
    before = epochs(fleet)
    with traffic(fleet, FRONTEND_URL, tmp_path) as client:
        at = time.time()
        # The frontend needs neither of them: what serves without data is left alone in a minority.
        fleet.fault("cut", "messaging-server")
        fleet.fault("cut", "database-server")
        wait_client(client, at + WITHOUT_QUORUM_S, within_s=WITHOUT_QUORUM_S + 20)
        told = orch(fleet, "status", vm="frontend-server", check=False)
        assert told.returncode == 7
        fleet.mend()
        settle(fleet)
        wait_client(client, time.time())
        assert outage_from(client.samples(), at).failed == 0
    assert epochs(fleet) == before, reasons(fleet, at)
    assert {name: service(fleet, name)["active"] for name in HOME} == HOME
