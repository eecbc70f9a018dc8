"""What the VMs see of each other is judged, and each is asked for what it needs and for nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orchestrator.doctor.facts import Asked
from orchestrator.doctor.judge_network import judge_network
from orchestrator.doctor.questions import ports_needed_by, questions_for
from orchestrator.domain import keys
from orchestrator.domain.policy import Policy
from tests.fuzz.fleet import DOCUMENT
from tests.unit.cli.world import POLICY, World
from tests.unit.doctor.build import OFF, ON, answered, seen, told

HERE = "messaging-server"
# Cut off for everybody but the one that asked it.
DARK = "silent"


def of_network(asked: dict[str, Asked], *, down: str = "") -> list[str]:
    world = World().founded()
    front_end = POLICY["services"]["frontend"] | {"front_door": {"kind": "vip", "address": "10.0.0.100"}}
    policy = POLICY | {"services": POLICY["services"] | {"frontend": front_end}}
    world.put(keys.CONFIG, json.dumps(policy).encode())
    if down:
        world.kill_vm(down)
    fleet = seen(world)
    return told(judge_network(asked, HERE, fleet.view, fleet.policy))


def test_vms_that_see_each_other_are_well() -> None:
    ports = {"messaging-server": {8300: "open", 8301: "open"}}
    assert of_network(answered("backend-server", ports=ports, ssh={"frontend-server": ""})) == []


@pytest.mark.parametrize(("came", "words"), [("refused", "is refused"), (DARK, "gets no answer")])
def test_consuls_ports_are_open_everywhere(came: str, words: str) -> None:
    asked = answered("backend-server", ports={"messaging-server": {8300: "open", 8301: came}})
    assert of_network(asked) == [
        f"error backend-server: it {words} at messaging-server port 8301 (Consul), where something listens"
    ]
    assert of_network(asked, down="messaging-server") == [], "that it is away is a finding already"


def test_a_services_port_counts_where_its_unit_runs() -> None:
    asking = answered("frontend-server", ports={"backend-server": {3000: "refused"}})
    line = "error frontend-server: it is refused at backend-server port 3000 (backend), where something listens"
    assert of_network(asking | answered("backend-server", units={"node-app": ON})) == [line]
    assert of_network(asking | answered("backend-server", units={"node-app": OFF})) == []
    assert of_network(asking) == [], "nobody knows whether it runs there, which is a finding already"


def test_a_worker_that_cannot_log_in_somewhere_is_an_error_unless_the_vm_is_away() -> None:
    asked = answered("frontend-server", ssh={"backend-server": "Host key verification failed", "database-server": ""})
    (line,) = of_network(asked)
    assert line == "error frontend-server: its worker cannot log in to backend-server: Host key verification failed"
    assert of_network(asked, down="backend-server") == []
    from_here = answered(HERE, ssh={"backend-server": "Host key verification failed"})
    assert of_network(from_here) == [], "that it could not be asked from here is a finding already"


@pytest.mark.parametrize(
    ("dns", "says"),
    [
        (None, "Consul's DNS there gives no address for backend-server.node.consul, which is 10.0.0.22"),
        ("10.0.0.99", "Consul's DNS there says 10.0.0.99 for backend-server.node.consul, which is 10.0.0.22"),
    ],
)
def test_consuls_dns_knows_the_vm(dns: str | None, says: str) -> None:
    assert of_network(answered("backend-server", dns=dns)) == [f"error backend-server: {says}"]


def test_vms_with_different_releases_of_orch_are_told_of() -> None:
    (line,) = of_network(answered("backend-server") | answered(HERE, orch="0.2.0"))
    assert line == (
        "warning fleet: the VMs have different releases of orch: backend-server has 0.1.0, messaging-server has 0.2.0"
    )


def needed(document: dict[str, Any], vm: str) -> dict[str, tuple[int, ...]]:
    return ports_needed_by(vm, Policy.model_validate(document))


def test_each_vm_is_asked_for_the_ports_that_it_needs() -> None:
    assert needed(POLICY, "frontend-server") == {
        "backend-server": (8300, 8301),
        "messaging-server": (8300, 8301),
        "database-server": (8300, 8301),
    }, "neither service of this policy has a front door, so nobody's front end asks"
    assert needed(DOCUMENT, "messaging-server") == {
        "frontend-server": (8300, 8301, 80, 3000, 4369, 25672),
        "backend-server": (8300, 8301, 80, 3000, 3306, 4369, 25672),
        "database-server": (8300, 8301, 3000, 3306, 4369, 25672),
    }


def test_each_vm_is_asked_about_all_others_and_the_units_of_services() -> None:
    questions = questions_for(Policy.model_validate(POLICY))
    assert set(questions) == set(POLICY["vms"])
    assert questions["backend-server"].vms["messaging-server"] == "10.0.0.21"
    assert questions["backend-server"].units == ("node-app", "nginx")
