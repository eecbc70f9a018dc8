"""Owns the warm server process: starts it, rehearses with it, starts it again when it has died, ends it.

In: the places. Out: a socket that `playbook_client` asks. A missing server costs a play about a second and nothing
else, so trouble here is reported once and never raised.
"""

from __future__ import annotations

import logging
import os
import select
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace

from orchestrator.execute.environment import Places, play_environment
from orchestrator.execute.rehearsal import Rehearsal
from orchestrator.execute.releases import Releases
from orchestrator.execute.warm_server import READY

log = logging.getLogger(__name__)

MIN_LIFE_S = 5.0
STOP_TIMEOUT_S = 3.0


class WarmServer:
    """The worker's own warm server. Used by one thread, which must live as long as the worker."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._releases = Releases(places.ansible_dir)
        self._process: subprocess.Popen[bytes] | None = None
        self._serves = places
        self._rehearsal = Rehearsal(places)
        self._is_ready = False
        self._started = -MIN_LIFE_S

    @property
    def pid(self) -> int | None:
        """The server's process, or None while there is none."""
        return self._process.pid if self._process else None

    def ensure_running(self, *, may_end: bool = False) -> None:
        """Start the server if it is not running; at most once in `MIN_LIFE_S`. Does not wait for it to be ready.

        One that serves playbooks which are not current any more is ended first, where no play runs (`may_end`).
        """
        if self._process is not None and may_end and self._releases.current() != self._serves.ansible_dir:
            log.info("There are other playbooks: the warm server is started anew.")
            self.stop()
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
        self._serves = replace(self._places, ansible_dir=self._releases.current())
        self._rehearsal = Rehearsal(self._serves)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-m", "orchestrator.execute.warm_server", str(self._places.warm_socket)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd=self._serves.ansible_dir,
                env=play_environment(self._serves, os.environ),
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
            self._rehearsal.start()
        return self._is_ready

    def wait_rehearsed(self, timeout_s: float) -> None:
        """Wait until the rehearsal is over (for tests and measurements)."""
        self._rehearsal.wait(timeout_s)

    def stop(self) -> None:
        """End the server and every play that it runs."""
        self._rehearsal.stop()
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
