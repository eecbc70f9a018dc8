"""Whether the disk that holds a database server's data takes anything more; asks the file system, not the server.

In: the data directory. Out: one sentence, empty while there is room. A server does not tell in time: MariaDB lets
commits hang and goes on answering questions, a copy that cannot write what it receives answers none (SHOW SLAVE STATUS
waits with it), and InnoDB ends the whole server when it cannot undo what had no room (each seen on 10.11).
"""

from __future__ import annotations

import os
from pathlib import Path

FULL_BELOW_BYTES = 16 * 2**20
"""InnoDB extends a file by 4 MiB at a time, and every table and the undo log may want that at once."""


def full_disk(folder: Path) -> str:
    """Return that the disk of the folder is full, as a sentence; empty where it is not, or cannot be asked."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return ""
    is_full = found.f_bavail * found.f_frsize < FULL_BELOW_BYTES
    # Without a figure: what changes all the time would be told again and again.
    return f"the disk that holds {folder} is full" if is_full else ""
