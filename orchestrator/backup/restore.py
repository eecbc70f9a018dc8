"""Go back to a backup: the database of this VM, which is the active one, or Consul's whole content.

Both throw away what came after, so the caller has seen to it that automation is paused and that somebody said yes.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from orchestrator.backup.make import CONSUL_S, LONGEST_S, BackupFailed, Tools, consul_options, run_tool
from orchestrator.settings import LocalSettings

SYSTEMCTL = "/usr/bin/systemctl"
UNIT_S = 150.0


def restore_database(content: Path, unit: str, tools: Tools) -> str:
    """Put the backup in the place of this VM's copy; returns where that one is now.

    The unit is down from when the backup has been copied and started once until the server runs again. It starts
    read-only like any other; the guard opens it. No GTID is used twice, so that a standby with later writes finds out
    that it cannot follow, and is cloned.
    """
    run_tool([*tools.database_copy, "take", "--folder", str(content)], LONGEST_S)
    run_tool([SYSTEMCTL, "stop", unit], UNIT_S)
    try:
        told = json.loads(run_tool([*tools.database_copy, "swap", "--keep-old"], LONGEST_S))
    finally:
        run_tool([SYSTEMCTL, "start", unit], UNIT_S)
    return str(told["old"])


def let_in(settings: LocalSettings, tools: Tools) -> None:
    """Have a Consul that has lost everything, its tokens too, take the token of this VM's backups for one that may do
    everything: until the snapshot has brought back what each may do. Any other Consul refuses that."""
    token_file = settings.consul_token_file("backup")
    if token_file is not None:
        with contextlib.suppress(BackupFailed):
            run_tool([*tools.consul, "acl", "bootstrap", consul_options(settings)[0], str(token_file)], CONSUL_S)


def restore_consul(content: Path, settings: LocalSettings, tools: Tools) -> None:
    """Have Consul's servers go back to the snapshot: KV, sessions, catalog and tokens."""
    run_tool([*tools.consul, "snapshot", "restore", *consul_options(settings), str(content)], CONSUL_S)
