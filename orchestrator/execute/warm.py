"""Owns the warm server process: starts it, rehearses with it, starts it again when it has died, ends it.

In: the places. Out: a socket that `playbook_client` asks. A missing server costs a play about a second and nothing
else, so trouble here is reported once and never raised.

The rehearsal is a play of one task per module that failovers use. It runs nothing: its interpreter is /bin/true.
What remains of it is Ansible's cache of packed modules, without which the first task takes 0.25 s longer.
"""

from __future__ import annotations

import json
import logging
import os
import select
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from orchestrator.execute import playbook_client
from orchestrator.execute.environment import Places, play_environment
from orchestrator.execute.warm_server import READY

log = logging.getLogger(__name__)

MIN_LIFE_S = 5.0
STOP_TIMEOUT_S = 3.0
REHEARSED_MODULES = ("ansible.builtin.command", "ansible.builtin.systemd_service")


class WarmServer:
    """The worker's own warm server. Used by one thread, which must live as long as the worker."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._process: subprocess.Popen[bytes] | None = None
        self._rehearsal: subprocess.Popen[bytes] | None = None
        self._is_ready = False
        self._started = -MIN_LIFE_S

    @property
    def pid(self) -> int | None:
        """The server's process, or None while there is none."""
        return self._process.pid if self._process else None

    def ensure_running(self) -> None:
        """Start the server if it is not running; at most once in `MIN_LIFE_S`. Does not wait for it to be ready."""
        if self._rehearsal is not None and self._rehearsal.poll() is not None:
            self._rehearsal = None
        if self._process is not None:
            status = self._process.poll()
            if status is None:
                self.wait_ready(0.0)
                return
            log.warning("The warm server ended with status %s; plays start slower until it is back.", status)
            self._close_pipes(self._process)
            self._process, self._is_ready = None, False
        if time.monotonic() - self._started < MIN_LIFE_S:
            return
        self._started = time.monotonic()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-m", "orchestrator.execute.warm_server", str(self._places.warm_socket)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd=self._places.ansible_dir,
                env=play_environment(self._places, os.environ),
            )
        except OSError as error:
            log.warning("The warm server cannot be started (%s); plays start slower.", error)

    def wait_ready(self, timeout_s: float) -> bool:
        """Wait until the server accepts plays; False when it does not within the time."""
        if self._is_ready or self._process is None or self._process.stdout is None:
            return self._is_ready
        readable, _, _ = select.select([self._process.stdout], [], [], timeout_s)
        if readable and os.read(self._process.stdout.fileno(), len(READY)) == READY:
            self._is_ready = True
            self._rehearse()
        return self._is_ready

    def wait_rehearsed(self, timeout_s: float) -> None:
        """Wait until the rehearsal is over (for tests and measurements)."""
        if self._rehearsal is not None:
            self._rehearsal.wait(timeout_s)

    def _rehearse(self) -> None:
        folder = self._places.state_dir / "run" / "rehearsal"
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            playbook = folder / "playbook.json"
            playbook.write_text(json.dumps(rehearsal_play(self._places.ansible_dir)))
            client = [sys.executable, "-I", "-S", playbook_client.__file__]
            self._rehearsal = subprocess.Popen(
                [*client, str(playbook), "-i", "localhost,"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=self._places.ansible_dir,
                env=play_environment(self._places, os.environ) | {"AWX_ISOLATED_DATA_DIR": str(folder)},
            )
        except OSError as error:
            log.warning("The rehearsal could not be run (%s); the first play takes a little longer.", error)

    def stop(self) -> None:
        """End the server and every play that it runs."""
        self._is_ready = False
        if self._process is None:
            return
        process, self._process = self._process, None
        self._close_pipes(process)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    @staticmethod
    def _close_pipes(process: subprocess.Popen[bytes]) -> None:
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()


def rehearsal_play(ansible_dir: Path) -> list[dict[str, object]]:
    """Return a play that has every module of ours packed, and none of them run."""
    ours = sorted(path.stem for path in (ansible_dir / "library").glob("*.py"))
    return [
        {
            "name": "Rehearsal",
            "hosts": "all",
            "gather_facts": False,
            "connection": "local",
            "vars": {"ansible_python_interpreter": "/bin/true"},
            "tasks": [{"name": name, name: {}, "ignore_errors": True} for name in (*ours, *REHEARSED_MODULES)],
        }
    ]
