"""Text from outside -> text that can be told. PURE.

In: whatever a key, a file, a message or a play holds. Out: the same as far as it can be, for a log, a record or a
terminal; what cannot be shown is spelled out (`\\x1b`, `\\ud800`).
"""

from __future__ import annotations


def one_line(text: str) -> str:
    """Return the text as part of a sentence: one line, without what a terminal would obey."""
    return "".join(each if each.isprintable() else _spelled_out(each) for each in " ".join(text.split()))


def short_digest(digest: str) -> str:
    """Return a digest as people tell it from another."""
    return digest[:12]


def encodable(text: str) -> str:
    """Return the text without halves of surrogate pairs, which no file, record or terminal takes."""
    return text.encode("utf-8", "backslashreplace").decode()


def _spelled_out(character: str) -> str:
    return character.encode("unicode_escape").decode()
