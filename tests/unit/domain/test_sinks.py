"""What a sink is refused for: each sentence, and the nearest one that is accepted."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from orchestrator.domain.policy import Policy
from orchestrator.domain.sinks import SinkPolicy, fault_in_url
from tests.unit.domain.test_policy import GOOD

WEBHOOK: dict[str, Any] = {"name": "chat", "kind": "webhook", "url": "https://chat.example.org/hooks/1"}
MAIL: dict[str, Any] = {
    "name": "mail",
    "kind": "email",
    "host": "mx.example.org",
    "sender": "orch@example.org",
    "recipients": ["ops@example.org"],
}
COMMAND: dict[str, Any] = {"name": "pager", "kind": "command", "command": ["/usr/local/bin/page", "--loud"]}

REFUSED = [
    (WEBHOOK | {"url": None}, "needs a url, or a url_file that holds it, and not both"),
    (WEBHOOK | {"url_file": "/etc/orch/notify/url"}, "needs a url, or a url_file that holds it, and not both"),
    (WEBHOOK | {"url": "ftp://chat.example.org"}, "its url is no URL that begins with https://"),
    (WEBHOOK | {"url": "https://ops:word@chat.example.org"}, "its url holds a user: put what the receiver asks for"),
    (WEBHOOK | {"url": "https://chat.example.org/a b"}, "its url holds blanks"),
    (WEBHOOK | {"url": "http://chat.example.org", "token_file": "/t"}, "its url would carry a secret over plain http"),
    (WEBHOOK | {"token_file": "token"}, "token_file"),
    (WEBHOOK | {"host": "mx"}, "a sink of kind webhook has no use for host; kind email has"),
    (WEBHOOK | {"entries": ["failover", "party"]}, "the journal has no entries of kind party; its kinds are initial, "),
    (WEBHOOK | {"entries": []}, "entries"),
    (WEBHOOK | {"template": "../secret"}, "template"),
    (MAIL | {"recipients": []}, "a sink of kind email needs recipients"),
    (MAIL | {"recipients": ["ops"]}, "recipients"),
    (MAIL | {"sender": "a@b\r\nBcc: c@d"}, "sender"),
    (MAIL | {"user": "orch"}, "asks for user and password_file together, or for neither"),
    (
        MAIL | {"user": "o", "password_file": "/p", "security": "none"},
        "the password would go over the network",
    ),
    (MAIL | {"ca_file": "/ca", "security": "none"}, "there is no certificate to verify"),
    (MAIL | {"command": ["/bin/true"]}, "a sink of kind email has no use for command; kind command has"),
    (COMMAND | {"command": ["page"]}, "the whole path of a program"),
    (COMMAND | {"command": []}, "the whole path of a program"),
    (COMMAND | {"ca_file": "/ca"}, "has no use for ca_file"),
    (COMMAND | {"name": "Ops"}, "name"),
]
ACCEPTED = [
    WEBHOOK,
    {"name": "chat", "kind": "webhook", "url_file": "/etc/orch/notify/url"},
    WEBHOOK | {"url": "http://chat.example.org"},
    WEBHOOK | {"url": "http://127.0.0.1:8080/hook", "token_file": "/etc/orch/notify/token"},
    WEBHOOK | {"entries": ["failover"], "ca_file": "/etc/ssl/ours.pem"},
    MAIL,
    MAIL | {"user": "orch", "password_file": "/etc/orch/notify/smtp", "security": "tls"},
    MAIL | {"security": "none", "host": "127.0.0.1"},
    COMMAND,
]


@pytest.mark.parametrize(("document", "sentence"), REFUSED)
def test_what_cannot_be_meant_is_refused_with_the_reason(document: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError) as caught:
        SinkPolicy.model_validate(document)
    assert sentence in str(caught.value)


@pytest.mark.parametrize("document", ACCEPTED)
def test_what_is_accepted_is_accepted_again_as_it_is_written_to_kv(document: dict[str, Any]) -> None:
    sink = SinkPolicy.model_validate(document)
    assert SinkPolicy.model_validate_json(sink.model_dump_json(exclude_none=True)) == sink


def test_two_sinks_of_one_name_are_refused() -> None:
    with pytest.raises(ValidationError, match="notifications has two sinks of one name: chat"):
        Policy.model_validate(GOOD | {"notifications": [WEBHOOK, COMMAND | {"name": "chat"}]})


def test_by_default_nobody_is_told() -> None:
    assert Policy.model_validate(GOOD).notifications == ()


def test_a_fault_in_a_url_does_not_repeat_it() -> None:
    for url in ("ftp://s3cret", "https://s3cret@host", "https://host/s3cret s3cret", "http://host/s3cret"):
        assert "s3cret" not in str(fault_in_url(url, carries_secret=True))
