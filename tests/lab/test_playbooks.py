"""The workers' playbooks on the four machines: edited, refused, copied from the VM that has the right ones."""

from __future__ import annotations

import json

from deploy.machines.lab import Lab
from deploy.trials.status import settle, wait_until
from tests.lab.fleet import HOME, answer, in_sync, orch, role_of, service

RIGHT, EDITED = "frontend-server", "messaging-server"
PLAYBOOK = "/opt/orch/plays/ansible/playbooks/activate_backend.yml"
COMMENT = "# edited"


def edit(lab: Lab, vm: str) -> None:
    lab.run(vm, ["sh", "-c", f"echo '{COMMENT}' >> {PLAYBOOK}"])


def unedit(lab: Lab, vm: str) -> None:
    lab.run(vm, ["sed", "-i", f"/^{COMMENT}$/d", PLAYBOOK])


def has_the_released(lab: Lab) -> dict[str, bool]:
    """Return of each worker whether it has told that its current playbooks are the released ones."""
    told = json.loads(orch(lab, "--json", "playbooks", "status", check=False).stdout)
    return {vm: row["is_current"] for vm, row in told["workers"].items()}


def test_a_command_is_run_with_the_playbooks_that_it_was_decided_for_or_not_at_all(fleet: Lab) -> None:
    assert in_sync(fleet)
    try:
        edit(fleet, EDITED)
        edit(fleet, RIGHT)
        before = role_of(fleet, "backend")
        refused = orch(fleet, "failover", "backend", "--wait", check=False)
        assert refused.returncode == 4
        assert "no worker can run it" in " ".join(refused.stdout.split())
        assert "then run site.yml" in " ".join(refused.stdout.split())
        assert role_of(fleet, "backend") == before, "nothing was moved"
        last = answer(fleet, "commands", "list", "--service", "backend")[-1]
        assert (last["state"], set(last["refusals"])) == ("failed", {EDITED, RIGHT})
        shown = orch(fleet, "commands", "show", last["id"]).stdout
        assert f"refused by {EDITED}: it has not the playbooks" in " ".join(shown.split())

        unedit(fleet, RIGHT)
        assert orch(fleet, "failover", "backend", "--wait", check=False).returncode == 0
        assert service(fleet, "backend")["active"] != HOME["backend"]
        commands = answer(fleet, "commands", "list", "--service", "backend")
        activated = [command for command in commands if command["play"] == "activate"][-1]
        assert (activated["state"], activated["worker"]) == ("succeeded", RIGHT)

        doctor = json.loads(orch(fleet, "--json", "doctor", vm=RIGHT, check=False).stdout)
        assert any(
            (one["subject"], one["severity"]) == (EDITED, "error") and "its worker refuses commands" in one["wrong"]
            for one in doctor["findings"]
        ), doctor
        told = {EDITED: False, RIGHT: True}
        wait_until("both workers have told what they have", lambda: has_the_released(fleet) == told, 30)

        refused = orch(fleet, "playbooks", "sync", vm=EDITED, check=False)
        assert (refused.returncode, f"run it on {RIGHT}" in refused.stderr) == (3, True)
        # As the timer does on each worker's VM, within the hour; that the timer runs, the doctor sees to.
        for vm in (EDITED, RIGHT):
            fleet.run(vm, ["systemctl", "start", "orch-playbooks-sync.service"], timeout_s=120)
        assert COMMENT not in fleet.run(EDITED, ["cat", PLAYBOOK]).stdout
        wait_until("all workers have the released playbooks", lambda: in_sync(fleet), 30)
        again = orch(fleet, "playbooks", "sync", vm=RIGHT).stdout
        assert [f"{vm} had already the playbooks" in again for vm in (EDITED, RIGHT)] == [True, True]
    finally:
        for vm in (RIGHT, EDITED):
            unedit(fleet, vm)
    settle(fleet)
