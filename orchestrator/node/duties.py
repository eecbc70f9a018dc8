"""Duties are data: what a guard is to do on its VM, each with one plain sentence that says why.

`node.duty` makes them, `node.hand` carries them out. A duty may be carried out twice without harm.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from orchestrator.domain.records import Sync


class Medium(str, Enum):
    """What a duty changes, and what must therefore be read again after it."""

    AGENT = "agent"
    SESSIONS = "sessions"
    KV = "kv"
    ADDRESS = "address"
    UNIT = "unit"
    DATA = "data"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Duty:
    """One thing to do now. `reason` is a whole sentence: the log line and the test's assertion in one."""

    changes: ClassVar[Medium] = Medium.NOTHING

    service: str
    reason: str


@dataclass(frozen=True, slots=True)
class Register(Duty):
    """Register the instance, or complete it, with the given first statuses of its two checks."""

    changes: ClassVar[Medium] = Medium.AGENT

    tag: str
    unit_status: str
    probe_status: str


@dataclass(frozen=True, slots=True)
class Retag(Duty):
    """Tell in the catalog which role the instance has now; its checks stay as they are."""

    changes: ClassVar[Medium] = Medium.AGENT

    tag: str


@dataclass(frozen=True, slots=True)
class Deregister(Duty):
    """Take the instance and its checks out of the agent; ends a session that is bound to them."""

    changes: ClassVar[Medium] = Medium.AGENT


@dataclass(frozen=True, slots=True)
class PushUnit(Duty):
    """Set the `:unit` check; critical ends the session and frees the role lock."""

    changes: ClassVar[Medium] = Medium.AGENT

    status: str
    output: str


@dataclass(frozen=True, slots=True)
class CreateSession(Duty):
    """Create the session that is bound to serfHealth and the instance's checks."""

    changes: ClassVar[Medium] = Medium.SESSIONS


@dataclass(frozen=True, slots=True)
class DestroySession(Duty):
    """End a session of ours that nothing needs."""

    changes: ClassVar[Medium] = Medium.SESSIONS

    session: str


@dataclass(frozen=True, slots=True)
class AcquireLock(Duty):
    """Take the role lock for `epoch`, if the assignment is still the one with this ModifyIndex."""

    changes: ClassVar[Medium] = Medium.KV

    session: str
    epoch: int
    assignment_index: int
    ready: bool = True
    """False: traffic has to wait until the copy of the data is promoted (`AcquireLock` again, ready then)."""
    position: str | None = None
    """What the previous holder of a replicated service said, kept until it is applied here."""


@dataclass(frozen=True, slots=True)
class ReleaseLock(Duty):
    """Give the role lock up: in a planned move, or because the server that it was held for is dead."""

    changes: ClassVar[Medium] = Medium.KV

    session: str
    epoch: int
    position: str | None = None
    """Up to where this copy of the data goes; the next holder must have that much."""


@dataclass(frozen=True, slots=True)
class Forwarding:
    """Where the connections are that were opened at the previous holder, and for how long they are passed on to it."""

    to: str
    """Address of the previous holder's VM."""
    for_s: float


@dataclass(frozen=True, slots=True)
class TakeAddress(Duty):
    """Bring the front door's address up here and announce it."""

    changes: ClassVar[Medium] = Medium.ADDRESS

    forwarding: Forwarding | None = None
    """None: nothing is passed on, a reset is what clients of a holder that failed need."""


@dataclass(frozen=True, slots=True)
class HandOverAddress(Duty):
    """Move the address to the loopback interface: open connections end in peace, new ones go elsewhere."""

    changes: ClassVar[Medium] = Medium.ADDRESS


@dataclass(frozen=True, slots=True)
class CloseConnections(Duty):
    """Have the unit reloaded, by which a server says good-bye to clients that keep a connection for their next request.

    Otherwise they would learn with that request that the connection is gone.
    """


@dataclass(frozen=True, slots=True)
class DropAddress(Duty):
    """Remove the address from this VM at once."""

    changes: ClassVar[Medium] = Medium.ADDRESS


@dataclass(frozen=True, slots=True)
class StopUnit(Duty):
    """Stop the unit and disable it, if the assignment is still the one with this ModifyIndex."""

    changes: ClassVar[Medium] = Medium.UNIT

    assignment_index: int


@dataclass(frozen=True, slots=True)
class ProbeNow(Duty):
    """Ask the instance itself once; the answer comes back as an event."""


@dataclass(frozen=True, slots=True)
class WriteSync(Duty):
    """Record which copies of the data are whole, if the role lock is still ours and nothing else changed."""

    changes: ClassVar[Medium] = Medium.KV

    record: Sync
    index: int
    session: str
    assignment_index: int


@dataclass(frozen=True, slots=True)
class CloseWrites(Duty):
    """Take no write any more, and end the clients' connections."""

    changes: ClassVar[Medium] = Medium.DATA

    at_any_cost: bool
    """A server that does not close in time is ended, processes and all. Otherwise it is told again."""


@dataclass(frozen=True, slots=True)
class OpenWrites(Duty):
    """Take writes, if the quorum confirms that the role lock is ours; from then on under a lease."""

    changes: ClassVar[Medium] = Medium.DATA

    session: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Promote(Duty):
    """Apply all that was received, at least up to the position, and be nobody's copy any more."""

    changes: ClassVar[Medium] = Medium.DATA

    position: str | None


@dataclass(frozen=True, slots=True)
class Follow(Duty):
    """Be a read-only copy of the server at the address."""

    changes: ClassVar[Medium] = Medium.DATA

    address: str


@dataclass(frozen=True, slots=True)
class Acknowledge(Duty):
    """Tell the source at the address of each transaction that is received, once all that it has is received."""

    changes: ClassVar[Medium] = Medium.DATA

    address: str


@dataclass(frozen=True, slots=True)
class WaitForReplica(Duty):
    """Let each commit wait until the standby has it, or not."""

    changes: ClassVar[Medium] = Medium.DATA

    on: bool


@dataclass(frozen=True, slots=True)
class JoinReplica(Duty):
    """Prove that the standby at the address has everything, and let each commit wait for it from then on."""

    changes: ClassVar[Medium] = Medium.DATA

    address: str
