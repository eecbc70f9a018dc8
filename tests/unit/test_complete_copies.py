"""Which copy of the database may take writes when Consul has forgotten who did: one that lacks nothing, or none."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

FILTERS = Path(__file__).resolve().parents[2] / "ansible" / "filter_plugins" / "orch_mariadb.py"
complete_copies: Callable[[dict[str, str]], list[str]] = runpy.run_path(str(FILTERS))["complete_copies"]


@pytest.mark.parametrize(
    ("home", "standby", "complete"),
    [
        ("0-1-7", "0-1-7", ["home", "standby"]),
        ("0-1-7", "0-1-7,0-2-9", ["standby"]),
        ("0-1-7,0-2-9,0-1-12", "0-1-7,0-2-9", ["home"]),
        ("", "0-1-7", ["standby"]),
        # Each has what the other has not, whichever has the higher number.
        ("0-1-8", "0-1-7,0-2-8", []),
        ("0-1-8", "0-1-7,0-2-90", []),
        ("0-1-7,1-1-3", "0-1-7", ["home"]),
    ],
)
def test_a_copy_that_lacks_what_another_has_is_not_complete(home: str, standby: str, complete: list[str]) -> None:
    assert complete_copies({"home": home, "standby": standby}) == complete
