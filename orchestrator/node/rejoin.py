"""A VM that was cut off finds back to the others within a second or two of its return.

Serf tries a member that it holds for failed only every 30 s; until one is heard of, the VM's server is in no quorum,
its instances are in no catalog and its services cannot come home. So while the local agent knows no leader, it is told
to join the other VMs, one after the other, until one answers. In: the other VMs' addresses, and what the guard's pulse
hears. Out: `agent_join`. Harmless at any time: it changes no record, and an agent that is in the cluster learns nothing
new.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable

from orchestrator.store.port import Port, Refused, Unknown

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
ALONE_AFTER_LOOKS = 2
"""An election is over by then, mostly; whoever still knows no leader may be cut off."""


def join_one_of(port: Port, addresses: Iterable[str]) -> str | None:
    """Join the first that answers; return its address, or None when none does."""
    for address in addresses:
        try:
            port.agent_join(address)
        except (Unknown, Refused):
            continue
        return address
    return None


class Rejoin:
    """Looks after the local agent from a thread with a port of its own: joining hangs while nobody answers."""

    def __init__(self, open_port: Callable[[], Port], others: Callable[[], tuple[str, ...]]) -> None:
        """`others` returns the addresses of the other VMs; it is called from the thread."""
        self._open_port = open_port
        self._others = others
        self._looks_without_leader = 0
        self._stopped = threading.Event()
        self._is_needed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rejoin", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Join nobody any more."""
        self._stopped.set()
        self._is_needed.set()

    def heard(self, *, leader_known: bool) -> None:
        """Take what the agent has just answered the guard: this looks for itself only while it knows no leader."""
        if leader_known:
            self._is_needed.clear()
        else:
            self._is_needed.set()

    def look(self, port: Port) -> str | None:
        """Look once; return whom the agent has joined, if it had to."""
        try:
            alone = not port.leader_known()
        except (Unknown, Refused):
            # The agent itself does not answer: nobody to tell.
            return None
        self._looks_without_leader = self._looks_without_leader + 1 if alone else 0
        return join_one_of(port, self._others()) if self._looks_without_leader >= ALONE_AFTER_LOOKS else None

    def _run(self) -> None:
        port = self._open_port()
        while not self._stopped.is_set():
            if not self._is_needed.is_set():
                self._looks_without_leader = 0
                self._is_needed.wait()
                continue
            joined = self.look(port)
            if joined is not None:
                log.info("the Consul agent knew no leader and was told to join %s, which answers", joined)
            self._stopped.wait(LOOK_EVERY_S)
