"""What a front door of each kind needs, and what is said where it is missing."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from orchestrator.domain.policy import FrontDoorPolicy

GOOD: list[dict[str, Any]] = [
    {"kind": "vip", "address": "10.0.0.100"},
    {"kind": "vip", "address": "10.0.0.100", "prefix": 16, "interface": "ens3"},
    {"kind": "dns"},
    {"kind": "command", "command": ["/usr/local/bin/move-address", "eip-1"]},
    {"kind": "command", "command": ["/usr/local/bin/move-address"], "address": "203.0.113.5"},
]

BAD: list[tuple[dict[str, Any], str]] = [
    ({"kind": "vip"}, "needs an address (IPv4)"),
    ({"kind": "vip", "address": "front.example"}, "front.example is none"),
    ({"kind": "vip", "address": "10.0.0.100; flush ruleset"}, "is none"),
    ({"kind": "vip", "address": "fe80::1"}, "fe80::1 is none"),
    ({"kind": "vip", "address": "127.0.0.1"}, "of the VMs' segment, 127.0.0.1 is not"),
    ({"kind": "vip", "address": "10.0.0.100", "prefix": 64}, "at most 32, not 64"),
    ({"kind": "vip", "address": "10.0.0.100", "interface": ""}, "name of an interface"),
    ({"kind": "vip", "address": "10.0.0.100", "command": ["/bin/true"]}, "no use for a command"),
    ({"kind": "command"}, "needs a command: a list of words"),
    ({"kind": "command", "command": ["move-address"]}, "the whole path"),
    ({"kind": "dns", "command": ["/bin/true"]}, "no use for a command"),
    ({"kind": "dns", "address": "10.0.0.100"}, "clients ask Consul DNS"),
]


@pytest.mark.parametrize("given", GOOD)
def test_each_kind_is_accepted_with_what_it_needs(given: dict[str, Any]) -> None:
    assert FrontDoorPolicy.model_validate(given).kind == given["kind"]


@pytest.mark.parametrize(("given", "said"), BAD)
def test_what_is_missing_or_too_much_is_said(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as refused:
        FrontDoorPolicy.model_validate(given)
    assert said in str(refused.value)
