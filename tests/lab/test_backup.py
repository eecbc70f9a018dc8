"""Backups on the machines: gone back to, and the fleet is one again, by itself."""

from __future__ import annotations

import json

from deploy.machines import deployment
from deploy.machines.lab import Lab
from deploy.machines.tools import find_tools
from deploy.trials.policy import apply_policy, policy_now
from deploy.trials.status import fleet_status, settle, wait_until
from tests.lab.fleet import (
    CONTROLLERS,
    HOME,
    HOME_WITHIN_S,
    SECOND,
    epochs,
    kv_by_force,
    kv_get,
    orch,
    reasons,
    unit_state,
    wait_served_by,
    wait_whole,
)

PRIMARY, STANDBY = HOME["database"], SECOND["database"]
ALL = ("frontend-server", "backend-server", "messaging-server", "database-server")


def backed_up(lab: Lab, kind: str, vm: str) -> str:
    """Make a backup on the VM; return its name."""
    return str(json.loads(orch(lab, "backup", "make", kind, "--here", "--json", vm=vm).stdout)["id"])


def sql(lab: Lab, vm: str, statement: str) -> list[str]:
    return lab.run(vm, ["mariadb", "--batch", "--skip-column-names", "-e", statement], timeout_s=30).stdout.split()


def test_a_database_goes_back_to_a_backup_and_its_standby_is_cloned_from_it(fleet: Lab) -> None:
    sql(fleet, PRIMARY, "CREATE TABLE listings.kept (v VARCHAR(9)); INSERT INTO listings.kept VALUES ('before')")
    turn = orch(fleet, "backup", "make", "database", vm=PRIMARY).stdout
    assert f"nothing to do here: {STANDBY} makes the backup of the database" in turn
    made = backed_up(fleet, "database", PRIMARY)
    sql(fleet, PRIMARY, "INSERT INTO listings.kept VALUES ('after')")
    was = epochs(fleet)

    assert "automation is not paused" in orch(fleet, "backup", "restore", made, "--yes", vm=PRIMARY, check=False).stderr
    orch(fleet, "pause")
    assert orch(fleet, "backup", "restore", made, vm=PRIMARY, check=False).returncode == 3
    orch(fleet, "backup", "restore", made, "--yes", vm=PRIMARY)
    wait_until("the restored database is written", lambda: sql(fleet, PRIMARY, "SELECT @@read_only") == ["0"], 60)
    assert sql(fleet, PRIMARY, "SELECT v FROM listings.kept") == ["before"]
    orch(fleet, "resume")
    wait_whole(fleet, PRIMARY, STANDBY, within_s=120)
    settle(fleet)
    assert sql(fleet, STANDBY, "SELECT v FROM listings.kept") == ["before"]
    assert epochs(fleet) == was, "nothing was moved"
    sql(fleet, PRIMARY, "DROP TABLE listings.kept")
    fleet.run(PRIMARY, ["sh", "-c", "rm -r /var/lib/mysql.before-*"])


def lose_what_consul_holds(lab: Lab) -> None:
    """Have every server of Consul's begin with an empty disk."""
    for vm in ALL:
        lab.run(vm, ["systemctl", "stop", "consul"])
    for vm in ALL:
        lab.run(vm, ["sh", "-c", "rm -rf /var/lib/consul/*"])
    for vm in ALL:
        lab.run(vm, ["systemctl", "start", "consul"])


def test_with_consuls_data_gone_everywhere_a_snapshot_brings_the_fleet_back(fleet: Lab) -> None:
    kv_by_force(fleet, "put", "orch/test/kept", "before")
    made = backed_up(fleet, "consul", "messaging-server")
    was = epochs(fleet)
    lose_what_consul_holds(fleet)
    restore = ("backup", "restore", made, "--yes")
    wait_until(
        "the snapshot is restored",
        lambda: orch(fleet, *restore, vm="messaging-server", check=False).returncode == 0,
        60,
        1.0,
    )
    for service, vm in HOME.items():
        wait_served_by(fleet, service, vm)
    settle(fleet)
    assert kv_get(fleet, "orch/test/kept") == "before\n"
    assert epochs(fleet) == was, "each service is where the snapshot says, and nothing was moved"
    assert fleet_status(fleet)["healthy"]
    assert [unit_state(fleet, vm, "mariadb") for vm in (PRIMARY, STANDBY)] == ["active", "active"]
    kv_by_force(fleet, "delete", "orch/test/kept")


def test_without_a_snapshot_the_deployment_finds_the_copy_that_has_every_write(fleet: Lab) -> None:
    sql(fleet, PRIMARY, "CREATE TABLE listings.kept (v VARCHAR(9)); INSERT INTO listings.kept VALUES ('before')")
    fleet.run(PRIMARY, ["systemctl", "mask", "--runtime", "--now", "mariadb"])
    wait_served_by(fleet, "database", STANDBY)
    sql(fleet, STANDBY, "INSERT INTO listings.kept VALUES ('after')")
    policy = policy_now(fleet)
    # As after a night of which nobody knows anything: the home's copy lacks what came last, and nobody has it follow.
    fleet.run(PRIMARY, ["systemctl", "stop", "orch-guard"])
    lose_what_consul_holds(fleet)
    for vm in CONTROLLERS:
        fleet.run(vm, ["systemctl", "restart", "orch-controller"])
    fleet.run(PRIMARY, ["systemctl", "unmask", "--runtime", "mariadb"])
    fleet.run(PRIMARY, ["systemctl", "start", "mariadb"])
    deployment.deploy(fleet.places, find_tools(fleet.say), fleet.say)
    apply_policy(fleet, policy)
    wait_served_by(fleet, "database", PRIMARY, within_s=HOME_WITHIN_S)
    settle(fleet)
    for vm in (PRIMARY, STANDBY):
        assert sql(fleet, vm, "SELECT v FROM listings.kept") == ["before", "after"]
    assert any(f"from {STANDBY} to {PRIMARY}" in reason for reason in reasons(fleet, 0.0)), "it began where all was"
    sql(fleet, PRIMARY, "DROP TABLE listings.kept")
