"""Whether the disk with the data is full; that of a real one that is stands in tests/integration/test_full_disk.py."""

from __future__ import annotations

from pathlib import Path

from orchestrator.node.replication.disk import full_disk


def test_a_folder_that_is_not_there_is_on_no_full_disk(tmp_path: Path) -> None:
    assert full_disk(tmp_path / "absent") == ""


def test_a_disk_with_room_is_not_full(tmp_path: Path) -> None:
    assert full_disk(tmp_path) == ""
