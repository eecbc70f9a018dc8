"""What a message may say."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orchestrator.domain.policy import Policy
from orchestrator.domain.records import RequestKind
from orchestrator.domain.wire import parse_message, request_of
from tests.simulation.world import policy_document

FIELDS = {"command_type": "standby", "instance_type": "backend", "target": "messaging-server", "epoch": 3}


def test_a_standby_message_names_its_command() -> None:
    assert parse_message(json.dumps({**FIELDS, "id": "1-backend-activate-e3"}).encode()).command_type == "standby"


@pytest.mark.parametrize(
    ("command_type", "why"),
    [
        ("standby", "only the leader has standbys started"),
        ("initial", "only the leader assigns a service for the first time"),
    ],
)
def test_what_only_the_leader_begins_is_refused_by_hand_and_becomes_no_failover(command_type: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_message(json.dumps({**FIELDS, "command_type": command_type}).encode())


@pytest.mark.parametrize("timestamp", [1617567890.123, 0, "2024-05-01T10:00:00Z", "", None])
def test_a_timestamp_may_be_anything_since_nothing_reads_it(timestamp: Any) -> None:
    fields = {"command_type": "failback", "recovered_instance": "messaging-server", "instance_type": "messaging"}
    message = parse_message(json.dumps({**fields, "timestamp": timestamp}).encode())
    request = request_of(message, "1", 5.0, None)
    assert (request.kind, request.target, request.created) == (RequestKind.FAILBACK, "messaging-server", 5.0)


def _service_of(instance_type: str, policy: Policy | None) -> str:
    body = json.dumps({"command_type": "failover", "instance_type": instance_type}).encode()
    return request_of(parse_message(body), "1", 5.0, policy).service


@pytest.mark.parametrize(
    ("name", "service"),
    [
        ("mysql", "database"),
        ("mariadb", "database"),
        ("database", "database"),
        ("rabbitmq", "messaging"),
        ("rabbitmq-server", "messaging"),
        ("messaging", "messaging"),
        ("nginx", "frontend"),
        ("frontend", "frontend"),
        ("node-app", "backend"),
        ("node-app.service", "backend"),
        ("backend", "backend"),
        ("something-else", "something-else"),
    ],
)
def test_a_message_by_hand_may_name_a_service_as_the_old_system_did(name: str, service: str) -> None:
    assert _service_of(name, None) == service


def test_a_message_by_hand_may_name_a_service_of_the_policy_by_its_unit() -> None:
    policy = Policy.model_validate(
        _with_services(
            shop={"unit": "shop-web", "activate": "activate_shop.yml", "deactivate": "deactivate_shop.yml"},
            nginx={"unit": "openresty"},
        )
    )
    assert _service_of("shop-web", policy) == "shop"
    assert _service_of("shop-web.service", policy) == "shop"
    assert _service_of("openresty", policy) == "nginx"
    assert _service_of("nginx", policy) == "nginx", "the policy's own names come first"


def test_a_unit_of_two_services_means_neither() -> None:
    policy = Policy.model_validate(
        _with_services(one={"unit": "shared"}, two={"unit": "shared", "order": ["frontend-server", "database-server"]})
    )
    assert _service_of("shared", policy) == "shared"


def _with_services(**services: dict[str, Any]) -> dict[str, Any]:
    document = policy_document("cold", 5.0, 86400.0)
    backend = document["services"]["backend"]
    return {**document, "services": {name: {**backend, **fields} for name, fields in services.items()}}
