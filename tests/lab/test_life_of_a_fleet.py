"""A VM is replaced by an empty machine, one is retired and added again, each by one play, while the fleet serves."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest

from deploy.machines import deployment
from deploy.machines.lab import Lab
from deploy.machines.places import CHECKOUT, LabError
from deploy.machines.tools import find_tools
from deploy.trials.books import left_unindexed, unlike_each_other, unlike_the_ledger
from deploy.trials.policy import policy_now
from deploy.trials.status import settle, wait_until
from tests.lab.fleet import (
    BROKERS,
    HOME,
    SECOND,
    answer,
    fleet_status,
    in_sync,
    kv_get,
    ledger,
    orch,
    role_of,
    wait_served_by,
    wait_whole,
    wait_written,
)
from tests.lab.test_messaging import has_every_queue

# A broker, and where the database is at home: the hardest to do without.
GONE = "database-server"
WITNESS = "frontend-server"
OTHERS = ("frontend-server", "messaging-server", "backend-server")
ADDRESS = "10.0.10.169"
BROKERS_WITHOUT = ("messaging-server", "frontend-server", "backend-server")
# What GONE has in the reference fleet, given to others: the spare is a broker, and there is none any more.
WITHOUT = {
    "inventory/hosts": [
        ("frontend-server\ndatabase-server\n\n# Takes", "frontend-server\nbackend-server\n\n# Takes"),
        ("[spare_broker]\nbackend-server\n", "[spare_broker]\n"),
    ],
    "inventory/group_vars/all/services.yml": [
        ("order: [database-server, backend-server]", "order: [backend-server, frontend-server]"),
    ],
}


def play(lab: Lab, playbook: str, ansible: Path = CHECKOUT / "ansible", **more: object) -> None:
    """Run it as an operator would, with the tests' own grace; by default without the packages, which the image has."""
    policy = policy_now(lab, WITNESS)
    times = {f"orch_{name}": policy[name] for name in ("failback", "flapping")}
    given = {"install": False, "whole_within_s": 240, **times, **more}
    deployment.deploy(lab.places, find_tools(lab.say), lab.say, playbook, ansible, **given)


def checkout_without(folder: Path) -> Path:
    """Return the folder `ansible` of a checkout whose inventory gives the part of GONE to others."""
    for entry in CHECKOUT.iterdir():
        if entry.name not in ("ansible", ".git"):
            (folder / entry.name).symlink_to(entry)
    ansible = folder / "ansible"
    shutil.copytree(CHECKOUT / "ansible", ansible, symlinks=True)
    for name, changes in WITHOUT.items():
        edit(ansible / name, *changes)
    return ansible


def edit(file: Path, *changes: tuple[str, str]) -> None:
    text = file.read_text()
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    file.write_text(text)


def agents(lab: Lab) -> dict[str, str]:
    """Return the Consul agents that are listed, by name, each with its status."""
    told = lab.run(WITNESS, ["consul", "members"], timeout_s=20).stdout.splitlines()[1:]
    return {line.split()[0]: line.split()[2] for line in told}


def voters(lab: Lab) -> set[str]:
    """Return the servers that vote."""
    told = lab.run(WITNESS, ["consul", "operator", "raft", "list-peers"], timeout_s=20).stdout.splitlines()[1:]
    return {line.split()[0] for line in told if line.split()[4] == "true"}


def have_consul_led_by(lab: Lab, vm: str) -> None:
    """Have the VM's Consul server lead: the hardest to do without."""
    servers = json.loads(lab.ask_consul(WITNESS, "operator/raft/configuration").stdout)["Servers"]
    [server] = [server for server in servers if server["Node"] == vm]
    if not server["Leader"]:
        hand_over = ["consul", "operator", "raft", "transfer-leader", f"-id={server['ID']}", "-token-file=/dev/stdin"]
        lab.run(WITNESS, hand_over, text_input=lab.secret("consul_management"), timeout_s=20)


def members(lab: Lab) -> set[str]:
    """Return the members of the brokers' cluster, whether or not they run."""
    told = lab.run(WITNESS, ["rabbitmqctl", "-q", "cluster_status", "--formatter", "json"], timeout_s=60).stdout
    return {name.removeprefix("rabbit@") for name in json.loads(told)["disk_nodes"]}


def was_cloned(lab: Lab, since: float) -> bool:
    """Say whether a play that started the database at home since then had its copy cloned."""
    told = answer(lab, "commands", "list", "--service", "database", vm=WITNESS)
    starts = [one for one in told if one["target"] == HOME["database"] and one["created"] > since]
    logs = [orch(lab, "commands", "logs", one["id"], vm=one["worker"]).stdout for one in starts]
    return any(
        f"the copy on {HOME['database']} is replaced by a clone from {SECOND['database']}" in log for log in logs
    )


def what_installing_changed(lab: Lab) -> list[str]:
    """Return what the last play changed where it installed packages: what `deploy/setup.sh` runs, too."""
    install = (
        lab.places.deploy_log.read_text().partition("PLAY [Install what the fleet needs]")[2].partition("\nPLAY ")[0]
    )
    assert "TASK [packages : See which packages are here]" in install
    return [line for line in install.splitlines() if line.startswith("changed: ")]


# The one has the data, the other a controller, a worker and the broker that the cluster was founded on.
@pytest.mark.parametrize("service", ["database", "messaging"])
def test_a_lost_vm_is_replaced_by_an_empty_machine(fleet: Lab, tmp_path: Path, service: str) -> None:
    lost = HOME[service]
    with ledger(fleet, tmp_path, confirmed=True) as writers:
        with pytest.raises(LabError, match=rf"(?s){lost} is\s+not\s+replaced.*Consul\s+sees\s+it\s+up"):
            play(fleet, "replace_vm.yml", vm=lost)
        began = fleet.fault("poweroff", lost).at
        wait_served_by(fleet, service, SECOND[service])
        fleet.replace(lost)
        # Its packages are the image's, and none can be fetched: it has no way out of the lab.
        play(fleet, "replace_vm.yml", vm=lost, install=True)
        assert what_installing_changed(fleet) == []
        wait_written(writers, time.time())

        assert agents(fleet) == dict.fromkeys((*OTHERS, GONE), "alive")
        assert voters(fleet) == {*OTHERS, GONE}
        assert members(fleet) == set(BROKERS)
        assert has_every_queue(fleet, *BROKERS)
        wait_whole(fleet, HOME["database"], SECOND["database"])
        settle(fleet)
    assert unlike_the_ledger(fleet, writers) == []
    assert left_unindexed(fleet, writers) == []
    assert unlike_each_other(fleet, (HOME["database"], SECOND["database"]), writers) == []
    role = role_of(fleet, service)
    assert role is not None
    assert role.active == lost, "it came home by itself"
    if service == "database":
        assert was_cloned(fleet, began)
    else:
        wait_until("the new worker has the released playbooks", lambda: in_sync(fleet), 60)


def test_a_vm_is_retired_and_added_again(fleet: Lab, tmp_path: Path) -> None:
    ansible = checkout_without(tmp_path)
    with ledger(fleet, tmp_path, confirmed=True) as writers:
        try:
            with pytest.raises(LabError, match=rf"(?s){GONE} is\s+not\s+retired.*order\s+of\s+database"):
                play(fleet, "retire_vm.yml", vm=GONE)
            have_consul_led_by(fleet, GONE)
            play(fleet, "retire_vm.yml", ansible, vm=GONE)
            wait_written(writers, time.time())
            assert agents(fleet) == dict.fromkeys(OTHERS, "alive")
            assert voters(fleet) == set(OTHERS)
            assert members(fleet) == set(BROKERS_WITHOUT)
            assert has_every_queue(fleet, *BROKERS_WITHOUT)
            fleet.fault("poweroff", GONE)
            edit(ansible / "inventory/hosts", (f"{GONE}  ansible_host={ADDRESS}\n", ""))
            play(fleet, "site.yml", ansible)
            wait_written(writers, time.time())
            assert set(fleet_status(fleet, WITNESS)["vms"]) == set(OTHERS)
            for where in ("/etc/orch/firewall.nft", "/etc/orch/ssh/known_hosts", "/etc/hosts"):
                assert fleet.run(WITNESS, ["grep", "-c", "-w", ADDRESS, where], check=False).stdout == "0\n", where
            policies = ["consul", "acl", "policy", "list", "-token-file=/dev/stdin"]
            told = fleet.run(WITNESS, policies, text_input=fleet.secret("consul_management"), timeout_s=20).stdout
            assert GONE not in told
            assert unlike_the_ledger(fleet, writers) == []
        finally:
            # Where the policy has it still, something above has failed.
            is_known = GONE in fleet_status(fleet, WITNESS)["vms"]
            fleet.replace(GONE)
            play(fleet, "replace_vm.yml" if is_known else "add_vm.yml", vm=GONE)
        wait_written(writers, time.time())
        assert agents(fleet) == dict.fromkeys((*OTHERS, GONE), "alive")
        assert members(fleet) == set(BROKERS)
        assert has_every_queue(fleet, *BROKERS)
        assert kv_get(fleet, f"orch/maintenance/{GONE}") is None
        settle(fleet)
    assert unlike_the_ledger(fleet, writers) == []
    assert left_unindexed(fleet, writers) == []
    assert unlike_each_other(fleet, (HOME["database"], SECOND["database"]), writers) == []
