"""Whether Consul's catalog has this VM's checks as they are, seen to for a while after every start and every trouble.

In: the port, monotonic time. Out: the local agent is told to send what it has not sent, or all of it anew. Autopilot
strikes a dead server off seconds after its death; the returning VM's agent believes itself in sync and would not notice
by itself. And an agent that boots before gossip has found the leader sends no result of its probes for up to 30 s.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from orchestrator.domain import keys
from orchestrator.store.port import Port, Refused, Unknown

log = logging.getLogger(__name__)

COMPARE_AFTER_S = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0, 15.0, 20.0, 25.0, 30.0)
"""The VM may be struck off while it returns, daemons come up one by one: more than once."""


class CatalogComparison:
    """Used by the guard's loop only. The guard's own check stands for all: a static one, which no guard registers."""

    def __init__(self, vm: str, port: Port, clock: Callable[[], float]) -> None:
        """`port` answers with the newest data. `clock` is monotonic."""
        self._own = (vm, keys.daemon_check_id("guard"))
        self._own_service = keys.daemon_service_id("guard")
        self._port = port
        self._clock = clock
        self._due_at: list[float] = []

    def trouble_ended(self) -> None:
        """Consul answers, or answers again: compare from now on, at `COMPARE_AFTER_S`."""
        self._due_at = [self._clock() + after_s for after_s in COMPARE_AFTER_S]

    def run(self) -> None:
        """Compare if it is time. Where Consul cannot be asked, the next time will do."""
        if not self._due_at or self._clock() < self._due_at[0]:
            return
        self._due_at.pop(0)
        try:
            if self._own not in {(check.node, check.check_id) for check in self._port.checks()[1]}:
                log.warning("Consul's catalog has lost the checks of this VM: its agent sends them anew.")
                self._port.agent_reload()
            else:
                self._port.agent_sync(self._own_service)
        except (Unknown, Refused) as problem:
            log.debug("cannot compare with the catalog now: %s", problem)
