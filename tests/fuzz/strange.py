"""What comes from outside: bytes, documents, and what was right but for one thing; drawn by hypothesis.

The same examples come every time, so that a failure is the same everywhere: the test's own name runs it again, and
hypothesis prints the example and the `@reproduce_failure` that goes to it at once. `FUZZ_EXAMPLES=5000` draws so many
others for each test instead.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

OTHERS = int(os.environ.get("FUZZ_EXAMPLES", "0"))

# Text that stands where the value was: not all of it is JSON, and not all that is JSON is what a reader expects.
ODD = (
    *("null", "true", "false", "[]", "{}", "[null]", '{"a": 1}', "]", ""),
    *("0", "1", "2", "-1", "0.5", "1e300", "-1e300", "1e400", "NaN", "-Infinity", "9" * 30, "9" * 5000),
    *("253402300799", "253402300800", "-62135596801", "1700000000"),
    *('""', '" "', '"a\\nb"', '"backend\\n"', '"\\u0000"', '"\\ud800"', '"\\udcff"', '"💥"', '"' + "x" * 70_000 + '"'),
    *('"stranger"', '"backend-server"', '"database"', '"../backend"', '"orch/leader"', '"2001-99-99"', '"running"'),
    '["backend-server", "backend-server"]',
    "[" * 3000 + "]" * 3000,
)
_MARK = "to be replaced"
Place = tuple[str | int, ...]


def bounded(examples: int) -> settings:
    """Return how often a test is run: the same examples each time, unless others are asked for."""
    return settings(max_examples=OTHERS or examples, derandomize=not OTHERS, database=None, print_blob=True)


def documents() -> st.SearchStrategy[Any]:
    """Return anything that JSON can say."""
    leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
    return st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    )


def values(right: Mapping[str, Any]) -> st.SearchStrategy[bytes]:
    """Return bytes: any, any document, and the right document with one or two things changed in it."""
    return st.one_of(
        nearly(right), nearly(right), nearly(right), documents().map(json.dumps).map(str.encode), st.binary(max_size=40)
    )


@st.composite
def nearly(draw: st.DrawFn, right: Mapping[str, Any]) -> bytes:
    """Return the document with something in it replaced, left out or called otherwise; now and then cut off."""
    document = json.loads(json.dumps(right))
    for _ in range(draw(st.sampled_from((1, 1, 1, 2)))):
        places = list(_places(document))
        if places:
            _change(draw, document, draw(st.sampled_from(places)))
    text = json.dumps(document)
    while f'"{_MARK}"' in text:
        text = text.replace(f'"{_MARK}"', draw(st.sampled_from(ODD) | documents().map(json.dumps)), 1)
    if draw(st.integers(0, 19)) == 0:
        text = text[: draw(st.integers(0, len(text)))]
    return text.encode()


def _change(draw: st.DrawFn, document: Any, place: Place) -> None:
    """Change what stands at the place."""
    within = document
    for step in place[:-1]:
        within = within[step]
    how = draw(st.sampled_from(("replace", "replace", "replace", "replace", "leave out", "call otherwise")))
    if how == "replace":
        within[place[-1]] = _MARK
    elif how == "leave out" or isinstance(within, list):
        del within[place[-1]]
    else:
        within[draw(st.text(max_size=8))] = within.pop(place[-1])


def _places(document: Any, above: Place = ()) -> Iterator[Place]:
    """Yield where something stands in the document, the branches too."""
    steps = document if isinstance(document, dict) else range(len(document)) if isinstance(document, list) else ()
    for step in steps:
        yield (*above, step)
        yield from _places(document[step], (*above, step))


def expect_sentence(text: str) -> None:
    """A person can be told the text: something, in one line, that any output can hold."""
    text.encode()
    assert text.strip()
    assert len(text.splitlines()) == 1, repr(text)
