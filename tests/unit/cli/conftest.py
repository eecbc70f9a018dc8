"""Fixtures of the CLI's tests: a fleet that is well, one time zone, texts kept as files."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.unit.cli.world import World

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    for name in ("ORCH_CONSUL", "ORCH_SETTINGS", "CONSUL_HTTP_TOKEN", "CONSUL_HTTP_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def world() -> World:
    """The reference fleet, everything well."""
    return World().founded()


@pytest.fixture
def golden() -> Callable[[str, str], None]:
    """Compare a text with the kept one; ORCH_WRITE_GOLDEN=1 writes it anew."""

    def compare(name: str, text: str) -> None:
        file = GOLDEN / f"{name}.txt"
        if os.environ.get("ORCH_WRITE_GOLDEN"):
            GOLDEN.mkdir(exist_ok=True)
            file.write_text(text, encoding="utf-8")
        assert file.read_text(encoding="utf-8") == text

    return compare
