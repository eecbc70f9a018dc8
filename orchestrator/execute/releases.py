"""The playbooks of this VM: which it has, by digest of their contents, and where those of a command are.

A release is a folder with `ansible` and `templates`; `ansible/library/orch_release.py` lays each into a folder of its
own and switches a link, so that a play goes on with what it began with. What counts is the digest of what is there
now: a release that somebody has edited is another one. Reads only.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

PARTS = ("ansible", "templates")
RELEASES = "releases"
"""Name of the folder that the releases of a VM are in."""
SKIPPED = "__pycache__"


@dataclass(frozen=True, slots=True)
class Found:
    """The playbooks of this VM at one moment."""

    current: str | None
    """Digest; None where they cannot be read."""
    kept: Mapping[str, Path]
    """Digest -> folder `ansible`, of all that can be read."""


def digest_of(release: Path) -> str:
    """Return the digest of everything that a play is made of; raises OSError when some of it cannot be read.

    `orch_release` counts in the same way. Names, contents, links and whether a file is executable count; times and
    owners do not.
    """
    whole = hashlib.sha256()
    for path in sorted(_files_of(release), key=lambda path: path.relative_to(release).as_posix()):
        name = path.relative_to(release).as_posix()
        if path.is_symlink():
            line = [name, "link", os.readlink(path)]
        else:
            kind = "program" if path.stat().st_mode & 0o100 else "file"
            line = [name, kind, hashlib.sha256(path.read_bytes()).hexdigest()]
        whole.update(json.dumps(line).encode() + b"\n")
    return whole.hexdigest()


def _files_of(release: Path) -> Iterator[Path]:
    def give_up(error: OSError) -> None:
        raise error

    for part in PARTS:
        if part != "ansible" and not (release / part).exists():
            continue
        for folder, names, files in os.walk(release / part, onerror=give_up):
            names[:] = [name for name in names if name != SKIPPED]
            here = Path(folder)
            yield from (here / name for name in files if not name.endswith(".pyc"))
            yield from (here / name for name in names if (here / name).is_symlink())


class Releases:
    """The releases beside the one that the settings name. For any thread: it keeps nothing."""

    def __init__(self, ansible_dir: Path) -> None:
        self._ansible_dir = ansible_dir

    def look(self) -> Found:
        """Read all of them, some 8 ms each."""
        kept: dict[str, Path] = {}
        current = None
        for folder in self._folders():
            try:
                digest = digest_of(folder)
            except OSError:
                continue
            kept.setdefault(digest, folder / "ansible")
            if folder == self._current():
                current = digest
        return Found(current, kept)

    def find(self, digest: str) -> Path | None:
        """Return the folder `ansible` of the release with the digest; None: it is not here."""
        for folder in self._folders():
            try:
                if digest_of(folder) == digest:
                    return folder / "ansible"
            except OSError:
                continue
        return None

    def current(self) -> Path:
        """Return the folder `ansible` that is current, whatever becomes current later."""
        return self._current() / "ansible"

    def _current(self) -> Path:
        return self._ansible_dir.resolve().parent

    def _folders(self) -> list[Path]:
        """Return the current release first, the others after it."""
        current = self._current()
        others = [] if current.parent.name != RELEASES else sorted(current.parent.iterdir())
        return [current, *(each for each in others if each != current and not each.name.startswith("."))]
