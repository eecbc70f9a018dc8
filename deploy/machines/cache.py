"""Kept results, each under a key made of what it was made from.

An entry is built in a directory beside its final place and renamed when it is whole: an interruption leaves
nothing half-made that a later run would believe. A lock per entry lets a second caller wait instead of building
the same thing again.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from deploy.machines.places import cache_dir

_IGNORED = frozenset({"__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache", "node_modules"})


def files_below(root: Path) -> Iterator[Path]:
    """Yield the files that count as source below a path, in a stable order."""
    if root.is_file():
        yield root
        return
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in _IGNORED)
        for name in sorted(names):
            if not name.endswith((".pyc", "~", ".swp")):
                yield Path(folder, name)


def key_of(*, texts: Iterable[str] = (), paths: Iterable[Path] = (), relative_to: Path) -> str:
    """Return a short hash over texts and over the names, modes and contents of all files below the paths."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode() + b"\0")
    for path in paths:
        for file in files_below(path):
            executable = b"x" if os.access(file, os.X_OK) else b"-"
            digest.update(str(file.relative_to(relative_to)).encode() + b"\0" + executable)
            with contextlib.suppress(FileNotFoundError):
                digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def held_lock(path: Path, *, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold an exclusive lock on a file; the kernel frees it when its holder dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if on_wait is not None:
                on_wait()
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def entry_path(kind: str, key: str) -> Path:
    return cache_dir() / kind / key


def cached(kind: str, key: str, build: Callable[[Path], None]) -> Path:
    """Return the entry's directory, building it first when it is missing.

    `build` gets an empty directory to fill. When it raises, the directory is removed and nothing is kept.
    """
    final = entry_path(kind, key)
    if final.is_dir():
        os.utime(final)
        return final

    def tell() -> None:
        print(f"waiting for another run that makes the same entry of the cache: {kind}", file=sys.stderr)

    with held_lock(cache_dir() / "locks" / f"{kind}-{key}.lock", on_wait=tell):
        if final.is_dir():
            return final
        final.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(final.parent, f".{key}.")
        fresh = Path(tempfile.mkdtemp(prefix=f".{key}.", dir=final.parent))
        fresh.chmod(0o755)
        try:
            build(fresh)
            fresh.rename(final)
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise
    return final


def _remove_leftovers(folder: Path, prefix: str) -> None:
    """Remove what an interrupted build of the same entry left; its lock is ours, so nobody uses it."""
    mounted = mounts_in_use()
    for leftover in folder.glob(f"{prefix}*"):
        if str(leftover) not in mounted:
            shutil.rmtree(leftover, ignore_errors=True)


def mounts_in_use() -> str:
    """Return the kernel's list of mounts as text: an entry whose path is in it is in use by a lab."""
    return Path("/proc/self/mountinfo").read_text()


# How many entries of each kind stay. Environments are not among them: they belong to other checkouts as well.
KEPT = {"state": 3, "image": 3, "base": 2, "control": 2, "wheel": 5, "modules": 2, "tools": 2}


def tidy() -> None:
    """Remove what is old and not in use."""
    for kind, count in KEPT.items():
        keep_newest(kind, count)


def keep_newest(kind: str, count: int) -> None:
    """Remove all but the newest entries of a kind, and never one that a running lab has mounted."""
    folder = cache_dir() / kind
    if not folder.is_dir():
        return
    entries = sorted(
        (entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")),
        key=lambda entry: entry.stat().st_mtime,
        reverse=True,
    )
    mounted = mounts_in_use()
    for entry in entries[count:]:
        if str(entry) not in mounted:
            shutil.rmtree(entry, ignore_errors=True)
