"""Secrets that a delivery needs. In: the path that the policy names. Out: the secret, or `Undelivered`.

No sentence of ours repeats what a file holds.
"""

from __future__ import annotations

import os
import stat

from orchestrator.notify.notice import Undelivered


def secret_in(path: str) -> str:
    """Read a file with one secret in one line, which not everybody on the VM may read."""
    try:
        with open(path, encoding="utf-8") as file:
            mode = os.fstat(file.fileno()).st_mode
            secret = file.read(65536).rstrip("\r\n")
    except OSError as error:
        raise Undelivered(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from None
    except UnicodeDecodeError:
        raise Undelivered(f"{path} does not hold text") from None
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        raise Undelivered(f"{path} may be read by everybody on this VM: make it mode 0600 and the daemon's own")
    if not secret or any(not " " <= letter <= "~" for letter in secret):
        raise Undelivered(f"{path} does not hold one line of plain letters")
    return secret
