"""Make a backup and prove it, with the servers' own tools.

Raises `BackupFailed`; then nothing that was there before is touched.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt

from orchestrator.backoff import pauses
from orchestrator.backup.kept import CONTENT, Backup, Kind, Shelf, backup_id
from orchestrator.settings import LocalSettings

DATABASE_COPY = "/usr/local/lib/orch/database-copy"
# A database that takes longer to copy wants another way to be backed up.
LONGEST_S = 6 * 3600.0
CONSUL_S = 60.0
AFTER_S = 3600.0


class BackupFailed(Exception):
    """What hindered it, as a clause."""


@dataclass(frozen=True)
class Tools:
    """The programs; tests name others."""

    database_copy: tuple[str, ...] = (DATABASE_COPY,)
    consul: tuple[str, ...] = ("/usr/local/bin/consul",)


class _Made(NamedTuple):
    """What the tools say of it; see `Backup`."""

    position: str
    size: int
    proof: str


def make_backup(kind: Kind, settings: LocalSettings, now: float, tools: Tools) -> Backup:
    """Make one of this VM; it is complete, proved, and kept when this returns."""
    shelf = Shelf(settings.backups.directory)
    try:
        content = shelf.begin(kind, now) / CONTENT[kind.value]
        made = _of_database(content, tools) if kind is Kind.DATABASE else _of_consul(content, settings, tools)
        backup = Backup(id=backup_id(kind, now), kind=kind, vm=settings.vm, at=now, **made._asdict())
        shelf.complete(backup)
    except OSError as error:
        raise BackupFailed(str(error)) from error
    return backup


def carry_away(backup: Backup, settings: LocalSettings) -> None:
    """Run the operator's command with the backup's folder as its last argument: a copy somewhere else."""
    if settings.backups.after:
        run_tool([*settings.backups.after, str(settings.backups.directory / backup.id)], AFTER_S)


def _of_database(content: Path, tools: Tools) -> _Made:
    told = json.loads(run_tool([*tools.database_copy, "keep", "--folder", str(content)], LONGEST_S))
    proof = f"a server was started from it and found no fault in {told['tables']} tables"
    return _Made(told["position"], told["size"], proof)


def _of_consul(content: Path, settings: LocalSettings, tools: Tools) -> _Made:
    save = [*tools.consul, "snapshot", "save", *consul_options(settings), str(content)]
    # The agent asks the Raft leader on a connection that may be from before that one was restarted.
    again = Retrying(
        stop=stop_after_attempt(3), wait=pauses(0.5, 2.0), retry=retry_if_exception_type(BackupFailed), reraise=True
    )
    again(run_tool, save, CONSUL_S)
    told = json.loads(run_tool([*tools.consul, "snapshot", "inspect", "-format=json", str(content)], CONSUL_S))
    content.chmod(0o600)
    proof = "Consul has read it back and its sum is right"
    return _Made(str(told["Meta"]["Index"]), content.stat().st_size, proof)


def consul_options(settings: LocalSettings) -> list[str]:
    """Return how the program reaches the agent, and with which right; the token itself is not said."""
    token_file = settings.consul_token_file("backup")
    return [
        f"-http-addr=http://{settings.consul.host}:{settings.consul.port}",
        *([f"-token-file={token_file}"] if token_file else []),
    ]


def run_tool(words: Sequence[str], within_s: float) -> str:
    """Run a program and return what it prints; raises BackupFailed with the last line of what it says."""
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=within_s)
    except subprocess.TimeoutExpired:
        raise BackupFailed(f"{Path(words[0]).name} has not ended within {within_s:g} s") from None
    if done.returncode != 0:
        said = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        why = said[-1] if said else f"it ended with status {done.returncode}"
        raise BackupFailed(f"{Path(words[0]).name}: {why}")
    return done.stdout
