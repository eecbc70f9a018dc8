"""One line per event."""

from __future__ import annotations

import logging

import pytest

from deploy.machines.places import CHECKOUT
from orchestrator.journal import FIELDS, configure_journal


@pytest.fixture(autouse=True)
def _logging_as_before() -> object:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


def test_a_line_has_level_fields_and_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "8:1")
    configure_journal()
    log = logging.getLogger("orchestrator.test")
    log.info("the lock is ours", extra={"service": "backend", "epoch": 7})
    try:
        raise ValueError("two\nlines")
    except ValueError:
        log.exception("a bug")
    first, second = capsys.readouterr().out.splitlines()
    assert first == "<6>INFO service=backend epoch=7: the lock is ours"
    assert second.startswith("<3>ERROR: a bug | Traceback")
    assert second.endswith("lines")


def test_without_a_journal_the_time_leads(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    configure_journal()
    logging.getLogger("orchestrator.test").warning("slow")
    assert capsys.readouterr().out.rstrip().endswith(" WARNING: slow")


def test_every_field_that_is_known_stands_before_the_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "8:1")
    configure_journal()
    known = {"command": "17-backend-activate-e7", "service": "backend", "epoch": 7, "vm": None, "request": "17-backend"}
    logging.getLogger("orchestrator.test").info("it is claimed", extra=known)
    fields = "service=backend epoch=7 request=17-backend command=17-backend-activate-e7"
    assert capsys.readouterr().out == f"<6>INFO {fields}: it is claimed\n"


def test_a_value_cannot_look_like_another_field(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "8:1")
    configure_journal()
    logging.getLogger("orchestrator.test").info("refused", extra={"service": "web epoch=9\n<0>EMERG"})
    assert capsys.readouterr().out == '<6>INFO service="web epoch=9\\n<0>EMERG": refused\n'


def test_the_operators_page_tells_every_field() -> None:
    page = (CHECKOUT / "docs" / "operations.md").read_text()
    assert all(f"| `{name}` |" in page for name in FIELDS)
