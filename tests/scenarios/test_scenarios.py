"""Every recorded scenario comes to the same today."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.recorder import replay
from tests.scenarios.recorded import RECORDING, STORY, scenarios, story_of


@pytest.mark.parametrize("folder", scenarios(), ids=lambda folder: folder.name)
def test_the_recording_is_decided_as_it_was(folder: Path) -> None:
    for replayed in replay(folder / RECORDING):
        assert replayed.replayed == replayed.recorded, f"line {replayed.line}"


@pytest.mark.parametrize("folder", scenarios(), ids=lambda folder: folder.name)
def test_the_story_is_that_of_the_recording(folder: Path) -> None:
    assert (folder / STORY).read_text() == story_of(folder), "write it anew: python -m tests.scenarios.recorded"
