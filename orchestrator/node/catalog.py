"""Whether Consul's catalog has every check of this VM, seen to often after every start and every trouble.

In: the port, monotonic time. Out: the local agent is told to send what it has not sent, or to compare all of it.
Autopilot strikes a dead server off seconds after its death, and again while it returns: then some of its checks may be
known and others not, and its agent, which believes itself in sync, would compare only a minute or more later. An agent
that boots before gossip has found the leader sends no result of its probes for up to 30 s. And one that compares while
there is no leader, or one that knows no token yet, tries again after 15 to 30 s and sends nothing in between (Consul's
agent/ae, `retryFullSyncState`): the catalog goes on with what was so before, and no session of what has recovered is
made (seen to take writes from a database for 35 s).
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from orchestrator.domain import keys
from orchestrator.settings import SettingsError
from orchestrator.store.port import Port, Refused, Unknown

log = logging.getLogger(__name__)

COMPARE_AFTER_S = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0, 15.0, 20.0, 25.0, 30.0)
"""The VM may be struck off while it returns, daemons come up one by one: more than once."""
COMPARE_EVERY_S = 30.0
"""Afterwards, and for ever: what was missed costs half a minute and not a person."""


class CatalogComparison:
    """Used by the guard's loop only."""

    def __init__(self, vm: str, port: Port, clock: Callable[[], float], default_token: Callable[[], str]) -> None:
        """`port` answers with the newest data. `clock` is monotonic. `default_token` reads what the deployment has the
        agent take for the token of whoever gives none, or raises `SettingsError`."""
        self._vm = vm
        self._own_service = keys.daemon_service_id("guard")
        self._port = port
        self._clock = clock
        self._default_token = default_token
        self._often_at: list[float] = []
        self._behind: frozenset[str] = frozenset()
        self._seldom_at = clock() + COMPARE_EVERY_S

    def trouble_ended(self) -> None:
        """Consul answers, or answers again: compare from now on, at `COMPARE_AFTER_S`."""
        now = self._clock()
        self._often_at = [now + after_s for after_s in COMPARE_AFTER_S]

    def run(self) -> None:
        """Compare if it is time. Where Consul cannot be asked, the next time will do."""
        now = self._clock()
        after_trouble = bool(self._often_at)
        if now < (self._often_at[0] if after_trouble else self._seldom_at):
            return
        self._often_at = self._often_at[1:]
        self._seldom_at = now + COMPARE_EVERY_S
        try:
            if unsent := self._unsent():
                log.warning("Consul's catalog does not have %s as it is: the agent sends all anew.", ", ".join(unsent))
                # It begins within 3 s.
                self._behind = frozenset()
                self._port.agent_compare(self._default_token())
            elif after_trouble:
                self._port.agent_sync(self._own_service)
        except (Unknown, Refused, SettingsError) as problem:
            log.debug("cannot compare with the catalog now: %s", problem)

    def _unsent(self) -> list[str]:
        """Return the checks that the agent has and the catalog has not, or has with another status for two looks."""
        # The agent first: what it registers in between is in the catalog by then, or is sent anew for nothing.
        own = {check.check_id: check.status for check in self._port.agent_checks()}
        known = {check.check_id: check.status for check in self._port.checks()[1] if check.node == self._vm}
        # What has just changed is on its way.
        behind = frozenset(name for name in own.keys() & known.keys() if own[name] != known[name])
        unsent, self._behind = (own.keys() - known.keys()) | (behind & self._behind), behind
        if behind and not self._often_at:
            self._often_at = [self._clock() + COMPARE_AFTER_S[0]]
        return sorted(unsent)
