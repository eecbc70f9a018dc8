"""Notices as the shipped templates write them, and what becomes of a template that cannot be used."""

from __future__ import annotations

import json
from email import message_from_bytes, policy
from pathlib import Path

import pytest

from orchestrator.domain.history import ENTRY_KINDS
from orchestrator.notify.command import environment_of
from orchestrator.notify.mail import message_of
from orchestrator.notify.notice import Notice, Templates, Undelivered, fields_of
from tests.unit.notify.build import entry_of, sink_of

SHIPPED = Templates(Path(__file__).resolve().parents[3] / "templates")
MAIL = sink_of(name="mail", kind="email", host="mx", sender="orch@example.org", recipients=["a@example.org"])
NASTY = 'It said "no"\r\nBcc: x@example.org\n\0<b>{{ 7 * 7 }}</b> ü'


def notice_of(kind: str = "failover", **fields: object) -> Notice:
    """Return a notice of such an entry."""
    return Notice(entry_of(1, kind, **fields), "ops")


@pytest.fixture
def own(tmp_path: Path) -> Templates:
    """Templates of an operator's."""
    (tmp_path / "notify").mkdir()
    return Templates(tmp_path)


def write(folder: Path, name: str, text: str) -> None:
    (folder / "notify" / name).write_text(text)


@pytest.mark.parametrize("kind", ENTRY_KINDS)
@pytest.mark.parametrize("full", [True, False], ids=["every field", "only what must be"])
def test_the_shipped_templates_write_every_kind_of_entry(kind: str, full: bool) -> None:
    more = {"vm": "backend-server", "epoch": 7, "request_id": "r-1"} if full else {"service": None}
    notice = notice_of(kind, **more)
    document = json.loads(SHIPPED.json("entry.json.j2", notice))
    assert document == fields_of(notice)
    assert "It fell." in json.loads(SHIPPED.json("chat.json.j2", notice))["text"]
    message = message_of(MAIL, notice, SHIPPED)
    assert message["Subject"].startswith(f"[orch] {kind.replace('_', ' ')}")
    assert ("backend-server" in message["Subject"]) == full
    assert message.get_content().startswith("It fell.\n")
    assert "None" not in message.get_content()


def test_a_sample_says_in_each_form_that_it_is_one() -> None:
    sample = Notice(entry_of(1), "ops", is_sample=True)
    assert json.loads(SHIPPED.json("entry.json.j2", sample))["is_sample"] is True
    assert "sample" in json.loads(SHIPPED.json("chat.json.j2", sample))["text"]
    assert "sample" in SHIPPED.line("entry.subject.j2", sample)
    assert "sample" in SHIPPED.text("entry.txt.j2", sample)


def test_what_somebody_wrote_into_a_reason_stays_text() -> None:
    notice = notice_of(reason=NASTY)
    assert json.loads(SHIPPED.json("entry.json.j2", notice))["reason"].startswith('It said "no" Bcc: x@example.org')
    received = message_from_bytes(bytes(message_of(MAIL, notice, SHIPPED)), policy=policy.default)
    assert received["Bcc"] is None
    assert "{{ 7 * 7 }}" in received.get_content()
    assert "\0" not in environment_of(notice)["ORCH_REASON"]


def test_html_is_escaped_and_comes_beside_the_text(own: Templates, tmp_path: Path) -> None:
    write(tmp_path, "entry.subject.j2", "{{ kind }}")
    write(tmp_path, "entry.txt.j2", "{{ reason }}")
    write(tmp_path, "entry.html.j2", "<p>{{ reason }}</p>")
    message = message_of(MAIL, notice_of(reason="a < b"), own)
    text, html = message.iter_parts()
    assert (text.get_content(), html.get_content()) == ("a < b\n", "<p>a &lt; b</p>\n")


def test_a_message_that_is_sent_again_is_known_by_its_id() -> None:
    first, again = (message_of(MAIL, notice_of(), SHIPPED)["Message-ID"] for _ in range(2))
    assert first == again
    assert first != message_of(MAIL, Notice(entry_of(2), "ops"), SHIPPED)["Message-ID"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{{ colour }}", "the template x.json.j2 cannot be rendered: 'colour' is undefined"),
        ("{% if %}", "the template x.json.j2 cannot be rendered: "),
        ("{{ ''.__class__.__mro__ }}", "the template x.json.j2 cannot be rendered: access to attribute '__class__'"),
        ("{{ 1 // 0 }}", "the template x.json.j2 cannot be rendered: "),
        ("{{ reason }}", "the template x.json.j2 does not make JSON: "),
    ],
)
def test_a_template_that_cannot_be_used_is_final_and_says_why(
    own: Templates, tmp_path: Path, text: str, why: str
) -> None:
    write(tmp_path, "x.json.j2", text)
    with pytest.raises(Undelivered) as caught:
        own.json("x.json.j2", notice_of())
    assert str(caught.value).startswith(why)
    assert caught.value.is_final


def test_a_template_that_is_not_there_is_named_and_found_as_soon_as_it_is(own: Templates, tmp_path: Path) -> None:
    with pytest.raises(Undelivered, match=f"there is no template {tmp_path}/notify/x.txt.j2") as caught:
        own.text("x.txt.j2", notice_of())
    assert not caught.value.is_final
    write(tmp_path, "x.txt.j2", "{{ kind }}")
    assert own.text("x.txt.j2", notice_of()) == "failover\n"


def test_a_command_s_environment_holds_the_fields_and_nothing_else_of_the_daemon_s(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", "secret")
    environment = environment_of(notice_of(epoch=7))
    assert (environment["ORCH_KIND"], environment["ORCH_SERVICE"], environment["ORCH_EPOCH"]) == (
        "failover",
        "backend",
        "7",
    )
    assert (environment["ORCH_VM"], environment["ORCH_IS_SAMPLE"]) == ("", "")
    assert "CONSUL_HTTP_TOKEN" not in environment
