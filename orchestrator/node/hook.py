"""A front door that a command of the operator's moves: a cloud's address, a load balancer, a name server.

In: the command and what it is to know. Out: its runs, one at a time, each repeated until it succeeds or something newer
is asked for. Must never go on with a take that was overtaken: the address may be another VM's by then.
"""

from __future__ import annotations

import logging
import os
import subprocess
import threading
from functools import partial

from tenacity import RetryCallState

from orchestrator.backoff import error_of, pauses, retry_until_stopped
from orchestrator.node.duties import Forwarding
from orchestrator.node.situation import AddressState

RETRY_S = (1.0, 2.0, 5.0, 10.0, 30.0)
_RUN_TIMEOUT_S = 60.0
_NOTHING = "nothing"

log = logging.getLogger(__name__)


class _Failed(Exception):
    """The command did not do it; the message says why."""


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
        self._pauses = pauses(*retry_s)
        self._state = AddressState.NONE
        self._trouble = ""
        self._asked = _NOTHING
        self._is_asked = threading.Event()
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
        self._asked = action
        self._is_asked.set()

    def _run_in_order(self) -> None:
        while True:
            self._is_asked.wait()
            self._is_asked.clear()
            action = self._asked
            # Whatever is asked for meanwhile ends the repetition, so an overtaken take is never repeated.
            retry_until_stopped(
                partial(self._carry_out, action),
                self._is_asked,
                on=_Failed,
                wait=self._pauses,
                failed=partial(self._note_failure, action),
            )

    def _carry_out(self, action: str) -> None:
        """Run the command for the action once; raises `_Failed`."""
        if action != _NOTHING:
            self._run(action)
        if self._trouble:
            self._trouble = ""
            log.info("the front door's command is well again")

    def _note_failure(self, action: str, state: RetryCallState) -> None:
        tries = state.attempt_number
        self._trouble = f"the front door's command has failed {tries} times on {action} ({error_of(state)})"
        log.error("%s: tried again in %g s", self._trouble, state.upcoming_sleep)

    def _run(self, action: str) -> None:
        """Run it once; raises `_Failed`, which says what went wrong."""
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
            raise _Failed(str(error)) from error
        if done.returncode:
            said = " ".join((done.stderr or done.stdout).split())[-300:]
            raise _Failed(f"exit status {done.returncode}: {said or 'it said nothing'}")
