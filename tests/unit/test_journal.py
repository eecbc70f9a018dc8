"""One line per event."""

from __future__ import annotations

import logging

import pytest

from orchestrator.journal import configure_journal


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
