"""What comes from outside is told in one line that every output takes."""

from __future__ import annotations

import pytest

from orchestrator.domain.sentence import encodable, one_line


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("two\nlines", "two lines"),
        ("  wide\t\u2028 open ", "wide open"),
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("half \ud800", "half \\ud800"),
        ("fünf 💥", "fünf 💥"),
    ],
)
def test_a_sentence_is_one_line_without_what_a_terminal_obeys(text: str, told: str) -> None:
    assert one_line(text) == told


def test_half_of_a_surrogate_pair_is_spelled_out_and_lines_stay() -> None:
    assert encodable("a\n\udcffb") == "a\n\\udcffb"
