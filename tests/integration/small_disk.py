"""A disk of a few megabytes for one folder, seen by whoever is started inside its mount namespace only.

The namespace, and with it the disk, ends with the last process in it: no mount can stay behind, however a test ends.
Needs root.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

_HOLDER = """
mkdir "$1.disk"
mount -t tmpfs -o size="$2",mode=0755 tmpfs "$1.disk"
cp -a "$1/." "$1.disk"
chown --reference="$1" "$1.disk"
mount --bind "$1.disk" "$1"
echo ready
exec sleep infinity
"""


class SmallDisk:
    """Holds a copy of what the folder has; `close()` gives the folder back as it was."""

    def __init__(self, folder: Path, size_bytes: int) -> None:
        self._holder = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private",
             "sh", "-ec", _HOLDER, "sh", str(folder), str(size_bytes)],
            stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"ready\n", f"there is no disk for {folder}"
        self.inside = ["nsenter", f"--mount=/proc/{self._holder.pid}/ns/mnt"]
        """What a command begins with that is to see it."""
        self.folder = Path(f"/proc/{self._holder.pid}/root{folder}")
        """The folder on it, for whoever is outside."""
        self._filler = self.folder / "filler"

    def fill(self) -> None:
        """Leave no room."""
        with self._filler.open("wb") as file:
            try:
                while True:
                    file.write(bytes(1 << 16))
                    file.flush()
            except OSError:
                return

    def free(self) -> None:
        """Make room again."""
        self._filler.unlink()

    def close(self) -> None:
        """Let it go once nobody runs on it any more."""
        self._holder.kill()
        self._holder.communicate()
