"""docs/failures.md says what the tables say."""

from __future__ import annotations

from pathlib import Path

from orchestrator.decide.diagnose import DIAGNOSES
from orchestrator.decide.failures_doc import failures_doc

DOCUMENT = Path(__file__).parents[3] / "docs" / "failures.md"


def test_the_document_is_what_the_tables_make_of_it() -> None:
    assert DOCUMENT.read_text() == failures_doc(), (
        "write it anew: python -m orchestrator.decide.failures_doc > docs/failures.md"
    )


def test_every_diagnosis_is_in_it() -> None:
    text = DOCUMENT.read_text()
    assert [code for code in DIAGNOSES if f"## `{code}`" not in text] == []
