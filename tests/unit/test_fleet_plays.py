"""What add_vm.yml, replace_vm.yml and retire_vm.yml refuse, in one sentence each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

ANSIBLE = Path(__file__).resolve().parents[2] / "ansible"
VMS = ("frontend-server", "backend-server", "messaging-server", "database-server")
# What the services of the reference fleet look like when all is well: active, whole copies, cluster.
SERVICES: Mapping[str, Mapping[str, Any]] = {
    "database": {"active": "backend-server", "whole_copies": ["backend-server"], "cluster": None},
    "messaging": {
        "active": "messaging-server",
        "whole_copies": None,
        "cluster": {"spare": "backend-server", "replaced": None, "joining": None},
    },
}


def status(**changes: Any) -> dict[str, Any]:
    """Return what `orch status` tells of a fleet in which database-server is away and has nothing."""
    vms = {vm: {"reach": "up", "maintenance": None} for vm in VMS}
    vms["database-server"]["reach"] = "down"
    return {"healthy": False, "paused": None, "vms": vms, "services": json.loads(json.dumps(SERVICES)), **changes}


def up(**of_the_vm: Any) -> dict[str, Any]:
    found = status()
    found["vms"]["database-server"] = {"reach": "up", "maintenance": None, **of_the_vm}
    return found


def active(service: str, *whole: str) -> dict[str, Any]:
    found = status()
    found["services"][service] = {"active": "database-server", "whole_copies": list(whole) or None, "cluster": None}
    return found


def without(*vms: str) -> dict[str, Any]:
    found = status()
    for vm in vms:
        del found["vms"][vm]
    return found


def away(vm: str) -> dict[str, Any]:
    found = status()
    found["vms"][vm]["reach"] = "down"
    return found


REPLACED = {"by": "root", "reason": "replaced by a new machine"}
# (what is asked, how the fleet is, whether the machine has a Consul node, other variables, what is refused)
CASES: list[tuple[str, dict[str, Any], bool, dict[str, Any], list[str]]] = [
    ("replacing", status(), False, {}, []),
    ("replacing", up(), False, {}, ["Consul sees it up, and a machine that runs is not replaced: switch it off first"]),
    ("replacing", up(maintenance=REPLACED), True, {}, []),
    ("replacing", up(maintenance={"by": "root", "reason": ""}), False, {}, ["Consul sees it up"]),
    ("replacing", status(), True, {}, ["the machine that answers there is not empty"]),
    ("replacing", active("backend"), False, {}, ["backend is active there: `orch failover backend` moves it away"]),
    ("replacing", active("database", "database-server"), False, {}, ["it has the only complete copy of database"]),
    ("replacing", away("messaging-server"), False, {}, ["messaging-server is not up either: one VM at a time"]),
    ("replacing", without("database-server"), False, {}, ["the policy in force does not know it"]),
    ("replacing", status(paused={"by": "ann"}), False, {}, ["automation is paused by ann"]),
    ("adding", without("database-server"), False, {}, []),
    ("adding", up(), True, {}, []),
    ("adding", status(), False, {}, ["the policy in force has it already, and it is away"]),
    ("retiring", up(), True, {"vm": "old-server"}, []),
    (
        "retiring",
        up(),
        True,
        {},
        ["inventory/hosts has it in [brokers]", "services.yml has it in the order of database"],
    ),
    (
        "retiring",
        up(),
        True,
        {"vm": "old-server", "consul_autopilot_min_quorum": 5},
        ["with 4 Consul servers left the loss of one would cost the quorum: add another VM first"],
    ),
]


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    """Return the obstacles of each case, all found by one run of Ansible: each start takes a second."""
    folder = tmp_path_factory.mktemp("plays")
    plays = []
    for number, (asked, fleet, has_node, more, _) in enumerate(CASES):
        facts = {
            "vm": "database-server",
            "looked": {"stdout": json.dumps(fleet)},
            "consul_node": {"stat": {"exists": has_node}},
            **more,
        }
        found = {"content": f"{{{{ obstacles_to_{asked} | to_json }}}}", "dest": f"{folder}/{number}"}
        task = {"ansible.builtin.copy": found, "delegate_to": "localhost", "connection": "local"}
        plays.append(
            {
                "hosts": facts["vm"],
                "gather_facts": False,
                "vars_files": [str(ANSIBLE / "roles" / "fleet" / "vars" / "main.yml")],
                "vars": facts,
                "tasks": [{**task, "vars": {"ansible_python_interpreter": sys.executable}}],
            }
        )
    book = folder / "play.yml"
    book.write_text(yaml.safe_dump(plays))
    env = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    env |= {"ANSIBLE_CONFIG": str(ANSIBLE / "ansible.cfg"), "ANSIBLE_LOCAL_TEMP": str(folder / "tmp")}
    (folder / "hosts").write_text("[vms]\nold-server ansible_host=10.0.0.99\n")
    argv = [str(Path(sys.executable).with_name("ansible-playbook")), str(book)]
    argv += ["-i", str(ANSIBLE / "inventory" / "hosts"), "-i", str(folder / "hosts")]
    done = subprocess.run(argv, cwd=ANSIBLE, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads((folder / str(number)).read_text()) for number in range(len(CASES))]


@pytest.mark.parametrize("number", range(len(CASES)))
def test_what_would_lose_something_is_refused_and_nothing_else(refusals: list[list[str]], number: int) -> None:
    expected, found = CASES[number][4], refusals[number]
    assert [any(said.startswith(begins) for said in found) for begins in expected] == [True] * len(expected), found
    assert len(found) == len(expected), found
