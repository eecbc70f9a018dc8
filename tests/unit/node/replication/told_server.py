"""A `Server` that notes what it was told and answers as a test has set."""

from __future__ import annotations

import socket

from orchestrator.node.replication.facts import ServerFacts


class ToldServer:
    """Each call is noted in `told`; `trouble` maps a call's name to the exception that it raises."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.trouble: dict[str, Exception] = {}
        self.facts = ServerFacts(at=0.0, answers=True)
        self.connection: socket.socket | None = None

    def _note(self, call: str, *values: object) -> None:
        self.told.append(" ".join(map(str, (call, *values))))
        if call in self.trouble:
            raise self.trouble[call]

    def read(self) -> ServerFacts:
        if "read" in self.trouble:
            raise self.trouble["read"]
        return self.facts

    def fileno(self) -> int | None:
        return self.connection.fileno() if self.connection is not None else None

    def position_of(self, address: str) -> str:
        self._note("position_of", address)
        return ""

    def close_writes(self, within_s: float) -> None:
        self._note("close_writes", within_s)

    def open_writes(self) -> None:
        self._note("open_writes")

    def follow(self, address: str) -> None:
        self._note("follow", address)

    def promote(self, upto: str | None, within_s: float) -> None:
        self._note("promote", upto, within_s)

    def wait_for_replica(self, on: bool) -> None:
        self._note("wait_for_replica", on)

    def join_replica(self, address: str, within_s: float) -> None:
        self._note("join_replica", address, within_s)

    def close(self) -> None:
        self._note("close")
