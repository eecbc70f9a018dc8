"""What a message may say."""

from __future__ import annotations

import json

import pytest

from orchestrator.domain.wire import parse_message

FIELDS = {"command_type": "standby", "instance_type": "backend", "target": "messaging-server", "epoch": 3}


def test_a_standby_message_names_its_command() -> None:
    assert parse_message(json.dumps({**FIELDS, "id": "1-backend-activate-e3"}).encode()).command_type == "standby"


def test_a_standby_message_by_hand_is_refused_and_becomes_no_failover() -> None:
    with pytest.raises(ValueError, match="only the leader has standbys started"):
        parse_message(json.dumps(FIELDS).encode())
