"""PURE: since when Consul has had a quorum again, after a loss that lasted longer than any election.

Two halves of a fleet that did not see each other each hold the other for failed. When they meet again, any server may
become the Raft leader, and it enters what its own gossip still believes into the catalog: VMs that are well count as
down, and their sessions end, until gossip has caught up. `decide` is told, so that it does not move what is well.
"""

from __future__ import annotations

LONG_LOSS_S = 5.0
"""An election after the Raft leader's death takes 1 to 2.5 s: whoever was without a quorum for longer was cut off."""


class QuorumWatch:
    """Told at every look whether Consul is known; remembers when a long loss ended."""

    def __init__(self) -> None:
        self.since: float | None = None
        """Monotonic time at which the last long loss ended; None: there was none since the daemon began."""
        self._lost_at: float | None = None

    def note(self, *, known: bool, monotonic: float) -> None:
        """Take note of one look."""
        if known:
            if self._lost_at is not None and monotonic - self._lost_at >= LONG_LOSS_S:
                self.since = monotonic
            self._lost_at = None
        elif self._lost_at is None:
            self._lost_at = monotonic
