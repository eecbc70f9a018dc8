"""The backups that a VM keeps: one folder each, complete when it holds `backup.json`, which is written last."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from datetime import datetime, timezone
from enum import Enum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

MANIFEST = "backup.json"
CONTENT = {"database": "data", "consul": "consul.snap"}


class Kind(str, Enum):
    """What is backed up."""

    DATABASE = "database"
    CONSUL = "consul"


class Backup(BaseModel):
    """One backup that was proved: the database was started from it, or Consul read the snapshot."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str = Field(pattern=r"^(database|consul)-[0-9]{8}T[0-9]{6}Z$")
    kind: Kind
    vm: str
    at: float
    """When it was begun, s since 1970: it holds what was acknowledged before."""
    position: str = ""
    """The GTID up to which the database's goes, or the Raft index of Consul's."""
    size: int = Field(ge=0)
    """Bytes."""
    proof: str
    """What was done to see that it can be gone back to."""


def backup_id(kind: Kind, at: float) -> str:
    """Return the name of a backup that is begun now; the second counts, in UTC."""
    return f"{kind.value}-{datetime.fromtimestamp(at, timezone.utc):%Y%m%dT%H%M%SZ}"


def surplus(backups: Iterable[Backup], keep: int) -> tuple[Backup, ...]:
    """Return those of each kind beyond the `keep` newest. `keep` is at least 1, so that the newest always stays."""
    found: list[Backup] = []
    for kind in Kind:
        newest_first = sorted((each for each in backups if each.kind is kind), key=lambda each: each.id, reverse=True)
        found += newest_first[max(1, keep) :]
    return tuple(found)


class Shelf:
    """The directory. What has no readable manifest is no backup: one that was interrupted, or something else."""

    def __init__(self, directory: Path) -> None:
        """Nothing is made before the first backup."""
        self.directory = directory

    def backups(self) -> tuple[Backup, ...]:
        """Return what is kept, the oldest first. Raises OSError where the directory cannot be read."""
        if not self.directory.is_dir():
            return ()
        found = []
        for manifest in self.directory.glob(f"*/{MANIFEST}"):
            try:
                found.append(Backup.model_validate_json(manifest.read_bytes()))
            except (OSError, ValidationError):
                continue
        return tuple(sorted(found, key=lambda each: (each.at, each.id)))

    def begin(self, kind: Kind, at: float) -> Path:
        """Make the folder of a new backup; what an interrupted one of this kind left is removed."""
        # A server that is started from it, as its own account, goes through here.
        self.directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        for left in self.directory.glob(f"{kind.value}-*"):
            if not (left / MANIFEST).exists():
                shutil.rmtree(left)
        folder = self.directory / backup_id(kind, at)
        folder.mkdir(mode=0o711)
        return folder

    def complete(self, backup: Backup) -> None:
        """Write the manifest, which makes it a backup."""
        manifest = self.directory / backup.id / MANIFEST
        part = manifest.with_suffix(".part")
        part.write_text(backup.model_dump_json(indent=1) + "\n")
        part.replace(manifest)

    def content(self, backup: Backup) -> Path:
        """Return where its data is."""
        return self.directory / backup.id / CONTENT[backup.kind.value]

    def remove(self, backup: Backup) -> None:
        """Delete it; the manifest first, so that half of one is never taken for a whole."""
        (self.directory / backup.id / MANIFEST).unlink()
        shutil.rmtree(self.directory / backup.id)
