"""Text becomes a document, or one sentence says why it is none."""

from __future__ import annotations

import pytest

from orchestrator.domain.document import BrokenDocument, document_in


@pytest.mark.parametrize("text", ["!!bool maybe", "!!int ''", "!!int _", "!!timestamp soon"])
def test_a_value_that_is_not_what_its_tag_says_is_told(text: str) -> None:
    with pytest.raises(BrokenDocument, match=r"^not YAML: a value is not what its tag says$"):
        document_in(text)


def test_a_tag_that_calls_a_word_a_mapping_is_told_with_its_place() -> None:
    with pytest.raises(BrokenDocument, match=r"^line 1, column 4: not YAML: what is called a mapping is none$"):
        document_in("a: !!map b")


def test_a_character_that_yaml_does_not_take_is_told_in_one_line() -> None:
    with pytest.raises(BrokenDocument, match=r"^document: not YAML: unacceptable character #x0000: [^\n]+$"):
        document_in(b"a: \0")
