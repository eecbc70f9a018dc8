"""Replace a file in one step: a reader sees the old one or the new one, whole."""

from __future__ import annotations

import contextlib
import os


def replace_file(path, content, uid, gid, mode, judge=None):
    """Write the bytes beside the file and put them in its place. Never open to others in between.

    `judge` is told the new file's path before it is in force, and raises where the old one is to stay. Whoever owns the
    folder cannot have anything else written or given away: what stands where the new file comes is not followed.
    """
    candidate = f"{path}.orch-new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(candidate)
    descriptor = os.open(candidate, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as new:
            new.write(content)
            new.flush()
            os.fsync(descriptor)
            if judge is not None:
                judge(candidate)
            os.fchown(descriptor, uid, gid)
            os.fchmod(descriptor, mode)
        os.replace(candidate, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(candidate)
        raise
