"""A front door that a command of the operator's moves: a cloud's address, a load balancer, a name server.

In: the command and what it is to know. Out: its runs, one at a time, each repeated until it succeeds or something newer
is asked for. Must never go on with a take that was overtaken: the address may be another VM's by then.
"""

from __future__ import annotations

import logging
import os
import queue
import subprocess
import threading
from contextlib import suppress

from orchestrator.node.duties import Forwarding
from orchestrator.node.situation import AddressState

RETRY_S = (1.0, 2.0, 5.0, 10.0, 30.0)
_RUN_TIMEOUT_S = 60.0
_NOTHING = "nothing"

log = logging.getLogger(__name__)


class Hook:
    """Called as `COMMAND… take` or `COMMAND… drop`, with ORCH_SERVICE, ORCH_VM and ORCH_ADDRESS in the environment.

    Both must be idempotent (a restarted guard takes again, a failed run is repeated), and `drop` must leave an address
    alone that is on another VM already.
    """

    def __init__(
        self, command: tuple[str, ...], environment: dict[str, str], retry_s: tuple[float, ...] = RETRY_S
    ) -> None:
        """`retry_s`: the pauses after one failure, two, …; the last one goes on."""
        self._command = command
        self._environment = environment
        self._retry_s = retry_s
        self._state = AddressState.NONE
        self._trouble = ""
        self._asked: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._run_in_order, name="front-door hook", daemon=True).start()

    def state(self) -> AddressState:
        """See `Door.state`: what was last asked for; `trouble` says when the command does not do it."""
        return self._state

    def trouble(self) -> str:
        """See `Door.trouble`."""
        return self._trouble

    def take(self, forwarding: Forwarding | None = None) -> None:
        """See `Door.take`. Does not wait: a cloud may take seconds. Nothing can be forwarded there."""
        self._ask("take", AddressState.UP)

    def hand_over(self) -> None:
        """See `Door.hand_over`. Only the new holder's `take` moves a cloud's address without a gap."""
        self._ask(_NOTHING, AddressState.NONE)

    def drop(self) -> None:
        """See `Door.drop`."""
        self._ask("drop", AddressState.NONE)

    def is_contested(self) -> bool:
        """See `Door.is_contested`: a cloud gives an address to one VM only."""
        return False

    def tidy(self, after_s: float) -> None:
        """See `Door.tidy`: a hook leaves nothing."""

    def _ask(self, action: str, state: AddressState) -> None:
        self._state = state
        self._asked.put(action)

    def _run_in_order(self) -> None:
        action, pause_s, tries = _NOTHING, None, 0
        while True:
            with suppress(queue.Empty):  # nothing newer: try again
                action, tries = self._newest(pause_s), 0
            problem = "" if action == _NOTHING else self._run(action)
            pause_s = None
            if problem:
                tries += 1
                pause_s = self._retry_s[min(tries, len(self._retry_s)) - 1]
                problem = f"the front door's command has failed {tries} times on {action} ({problem})"
                log.error("%s: tried again in %g s", problem, pause_s)
            elif self._trouble:
                log.info("the front door's command is well again")
            self._trouble = problem

    def _newest(self, wait_s: float | None) -> str:
        """Return what was asked for last; raises queue.Empty when nothing was within that time."""
        action = self._asked.get(timeout=wait_s)
        while not self._asked.empty():
            action = self._asked.get_nowait()
        return action

    def _run(self, action: str) -> str:
        """Run it once; return what went wrong, empty when nothing did."""
        try:
            done = subprocess.run(
                [*self._command, action],
                env={**os.environ, **self._environment},
                capture_output=True,
                text=True,
                timeout=_RUN_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        said = " ".join((done.stderr or done.stdout).split())[-300:]
        return f"exit status {done.returncode}: {said or 'it said nothing'}" if done.returncode else ""
