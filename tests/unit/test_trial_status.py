"""What is said of a fleet that does not settle: each thing that is not as it should be, by name."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from deploy.trials.status import unsettled

Status = dict[str, Any]
WELL: Status = {
    "healthy": True,
    "leader": "a",
    "unreadable": [],
    "moves": [],
    "commands": [],
    "services": {
        "web": {
            "standby": "cold",
            "active": "a",
            "designated": "a",
            "lock_holder": "a",
            "instances": {"a": "healthy", "b": "absent"},
            "standbys_missing": [],
            "cluster": {"members": {"a": "healthy"}, "healthy": True},
            "hold_until": None,
            "healthy": True,
            "problem": None,
        }
    },
    "vms": {"a": {"reach": "up", "daemons": {"guard": True, "controller": True}}},
}


def test_a_fleet_that_is_as_it_should_be_has_nothing_said_of_it() -> None:
    assert unsettled(WELL) == []


def test_a_fleet_that_cannot_be_asked_is_not_settled() -> None:
    assert unsettled({}) == ["the fleet cannot be asked"]


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda s: s["services"]["web"].update(healthy=False), "web is not served as it should be"),
        (lambda s: s["services"]["web"].update(designated="b"), "web is not served as it should be"),
        (lambda s: s["services"]["web"].update(standbys_missing=["b"]), "web has no healthy standby on b"),
        (lambda s: s["services"]["web"]["cluster"].update(healthy=False), "the cluster of web is not as it should be"),
        (lambda s: s["services"]["web"]["instances"].update(b="healthy"), "web still runs beside its active"),
        (lambda s: s["vms"]["a"]["daemons"].update(controller=False), "a is up, without controller"),
        (lambda s: s["vms"]["a"].update(reach="down"), "a is down"),
        (lambda s: s.update(leader=None), "leader None"),
        (lambda s: s["moves"].append({"service": "web", "kind": "failback", "state": "running"}), "failback of web"),
    ],
)
def test_what_keeps_it_from_being_settled_is_named(harm: Callable[[Status], object], said: str) -> None:
    status = copy.deepcopy(WELL)
    harm(status)
    status["healthy"] = False
    (phrase,) = unsettled(status)
    assert phrase.startswith(said)
