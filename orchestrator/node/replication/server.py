"""What a guard can ask of its database server, whichever product it is.

In: calls from one thread (each thread has a `Server` of its own). Out: done, or an exception: `ServerAway` when the
server could not be asked (nothing is known then), `NotInTime` when it was asked and did not get there. Every call is
bounded in time. Must never decide whether a call is right now: the guard's rules do.
"""

from __future__ import annotations

from typing import Protocol

from orchestrator.node.replication.facts import ServerFacts

CALL_TIMEOUT_S = 2.0
"""No call takes longer, but those that say how long they may take, and those only by as much."""


class ServerAway(Exception):
    """The server did not answer, or not in time; whether it did as told is not known. The message is a sentence."""


class NotInTime(Exception):
    """The server answers, but did not get there. What then holds is said by each call. The message is a sentence."""


class Server(Protocol):
    """One database server, on this VM."""

    def read(self) -> ServerFacts:
        """Read how the server is; raises `ServerAway`."""

    def position_of(self, address: str) -> str:
        """Read the GTID position of the server at `address`, over the network; raises `ServerAway`."""

    def close_writes(self, within_s: float) -> None:
        """Take no write any more: read-only, then every client's connection is ended.

        Statements that go on are ended; a commit never is, which might acknowledge what no standby has. On return
        nothing is acknowledged any more, and `position` does not grow but by replication. Raises `NotInTime`, also
        where a commit waits for a standby that does not answer: then the server may or may not be read-only, and what
        was not acknowledged is not. Call again, or end the server's processes, which acknowledges nothing either.
        """

    def open_writes(self) -> None:
        """Take writes. Only for the VM that holds the role lock."""

    def follow(self, address: str) -> None:
        """Be a read-only copy of the server at `address` and go on from what is here; no wait for it to catch up.

        Does nothing when it already does so. Goes on after an error that passes, and fetches again what was received
        into a relay log that cannot be read. Wherever what was received is thrown away, nothing is acknowledged to the
        source until `acknowledge`. Never discards a transaction: a copy that has diverged stays as it is,
        with `replica.needs_clone`. Raises `NotInTime` while commits are still going on here.
        """

    def acknowledge(self, address: str, within_s: float) -> None:
        """Tell the source at `address` of each transaction that is received, once all that it has now is received.

        So a copy that acknowledges has all that it ever acknowledged. Commits that wait and were received before are
        acknowledged with the next one. Raises `NotInTime`: it does not acknowledge yet.
        """

    def promote(self, upto: str | None, within_s: float) -> None:
        """Be a copy of nobody, having applied all that was received and at least the GTID position `upto`.

        Still read-only. Raises `NotInTime`: then it still is the copy that it was, only receiving has ended;
        `follow` or `promote` again.
        """

    def wait_for_replica(self, on: bool) -> None:
        """Let each commit wait until a replica has it, or not. Switching it off acknowledges the commits that wait."""

    def join_replica(self, address: str, within_s: float) -> None:
        """Prove that the standby at `address` has everything, and let each commit wait for it from now on.

        On any failure commits do not wait (again), and `NotInTime` says why. Afterwards `ServerFacts.proven` is it.
        """

    def fileno(self) -> int | None:
        """Return the descriptor that is readable once the server has ended the connection; None while there is none.

        `read` then finds out what became of the server, and leaves nothing to be read there.
        """

    def close(self) -> None:
        """Close the connections to the server."""
