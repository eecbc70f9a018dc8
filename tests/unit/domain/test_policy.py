"""What a policy is refused for: each sentence, and the nearest policy that is accepted."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from pydantic import ValidationError

from orchestrator.domain.policy import Policy

GOOD: dict[str, Any] = {
    "vms": {
        "a": {"address": "10.0.0.1", "roles": ["controller"]},
        "b": {"address": "10.0.0.2", "roles": ["worker"]},
        "c": {"address": "fd00::3"},
    },
    "services": {
        "web": {
            "order": ["a", "b"],
            "unit": "nginx",
            "port": 80,
            "check": {"kind": "http"},
            "activate": "activate_web.yml",
            "deactivate": "deactivate_web.yml",
            "front_door": {"kind": "vip", "address": "10.0.0.100"},
        },
        "api": {
            "order": ["b", "a"],
            "unit": "api",
            "port": 3000,
            "check": {"kind": "http"},
            "activate": "activate_api.yml",
            "deactivate": "deactivate_api.yml",
        },
    },
}


def with_(*changes: tuple[str, Any]) -> dict[str, Any]:
    """Return the good policy with the values at these places (`a.b.c`) changed."""
    document = copy.deepcopy(GOOD)
    for place, value in changes:
        *parents, last = place.split(".")
        section = document
        for name in parents:
            section = section.setdefault(name, {})
        section[last] = value
    return document


CLUSTER = {"kind": "rabbitmq", "members": ["a", "b", "c"], "change": "change_member.yml"}
D = {"address": "10.0.0.4"}
DOOR = {"kind": "vip", "address": "10.0.0.100"}

REFUSED = [
    # Times.
    ([("failback.grace_s", 1)], "failback.grace_s (1) is shorter than the 2 s"),
    ([("rotation.interval_hours", 0.01)], "rotation.interval_hours is not longer than failback.grace_s"),
    ([("dispatch.activation_timeout_s", 301)], "dispatch.activation_timeout_s is longer than dispatch.play_timeout_s"),
    ([("dispatch.pickup_after_s", 30)], "dispatch.pickup_after_s (30) is not shorter than"),
    ([("flapping.hold_s", 199)], "flapping.hold_s is shorter than window_s / max_failovers"),
    ([("services.web.check.timeout_s", 1.1)], "timeout_s (1.1) is longer than interval_s (1)"),
    # Names.
    ([("services.web.order", ["a", "d"])], "service web names d in its order"),
    ([("services.web.order", ["a", "a"])], "service web names a VM twice in its order"),
    ([("rotation.exclude_services", ["mail"])], "rotation.exclude_services names unknown services: mail"),
    # Roles.
    ([("vms.a.roles", [])], "no VM has the role controller"),
    ([("vms.b.roles", ["controller"])], "no VM has the role worker"),
    # Addresses.
    ([("vms.c.address", "c.example")], "'c.example' is no IP address"),
    ([("vms.c.address", "10.0.0.300")], "'10.0.0.300' is no IP address"),
    ([("vms.c.address", "10.0.0.2")], "VM b and VM c have one address, 10.0.0.2"),
    ([("vms.b.address", "fd00::0003")], "VM b and VM c have one address, fd00::3"),
    ([("vms.c.address", "10.0.0.100")], "VM c and the front door of service web have one address, 10.0.0.100"),
    ([("services.api.front_door", DOOR)], "the front door of service web and the front door of service api have one"),
    # Clusters.
    (
        [("services.api.cluster", CLUSTER | {"members": ["a", "b", "c", "d"]})],
        "a cluster of 4 members survives no more",
    ),
    ([("services.api.cluster", CLUSTER | {"members": ["a", "b", "b"]})], "a cluster names a VM twice"),
    ([("services.api.cluster", CLUSTER | {"spare": "c"})], "c is a member of the cluster, so it cannot be its spare"),
    ([("services.api.cluster", CLUSTER | {"spare": "d"})], "service api names d in its cluster"),
    (
        [("services.api.cluster", CLUSTER), ("vms.d", D), ("services.api.order", ["b", "d"])],
        "clients would be led to d",
    ),
    ([("services.api.cluster", CLUSTER | {"replace_after_s": 30})], "api (30) is not longer than dispatch.activation_"),
    # Instances.
    ([("services.api.unit", "nginx")], "services web and api have one unit, nginx"),
    ([("services.web.check.path", "health")], "path ('health') does not begin with a slash; /health does"),
]

ACCEPTED = [
    [],
    [("failback.grace_s", 2)],
    [("failback", {"automatic": False, "grace_s": 0})],
    [("rotation.interval_hours", 0.02)],
    [("dispatch.activation_timeout_s", 300)],
    [("dispatch.pickup_after_s", 29)],
    [("flapping.hold_s", 200)],
    [("services.web.check.timeout_s", 1)],
    [("services.api.unit", "nginx"), ("services.api.order", ["c"])],
    [("services.api.cluster", CLUSTER | {"replace_after_s": 31})],
    [("services.api.cluster", CLUSTER | {"replace_after_s": None, "spare": "d"}), ("vms.d", D)],
    [("services.web.check", {"kind": "tcp", "path": ""})],
    [("services.api.front_door", DOOR | {"address": "10.0.0.101"})],
    [("services.api.front_door", {"kind": "command", "command": ["/bin/move"], "address": "10.0.0.2"})],
]


@pytest.mark.parametrize(("changes", "said"), REFUSED)
def test_a_policy_that_contradicts_itself_is_refused_with_the_reason(changes: list[tuple[str, Any]], said: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Policy.model_validate(with_(*changes))
    assert said in str(refused.value)


@pytest.mark.parametrize("changes", ACCEPTED)
def test_a_policy_that_is_only_just_possible_is_accepted(changes: list[tuple[str, Any]]) -> None:
    assert set(Policy.model_validate(with_(*changes)).services) == {"web", "api"}
