"""What the doctor judges: facts as they were seen, without an opinion. PURE.

One VM's facts travel as JSON from `orch doctor --here` on that VM; both sides say their format, since the two may be
of different releases.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

FORMAT = 1
"""Raised when what a field means changes, so that a doctor refuses facts that it would misread."""

Port = Literal["open", "refused", "silent"]
"""`refused`: the VM answers and nobody listens, or a firewall says no. `silent`: no answer in time."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Question(_Frozen):
    """What `orch doctor --here` is asked to look at, beside what every VM has."""

    format: int = FORMAT
    vms: dict[str, str] = Field(default_factory=dict)
    """VM -> its address."""
    units: tuple[str, ...] = ()
    """Units of services."""
    ports: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    """VM -> TCP ports that this VM must be able to reach there."""


class UnitFacts(_Frozen):
    """One systemd unit, in systemd's own words."""

    load: str
    active: str
    enabled: str
    """What `systemctl is-enabled` says: `enabled`, `disabled`, `static`, …; empty where there is no such unit."""


class FileFacts(_Frozen):
    """Who may do what with a file that holds a secret."""

    path: str
    mode: int
    owner: str
    group: str
    belongs_to: str | None = None
    """The account whose daemon must be able to read it, where that matters."""


class DiskFacts(_Frozen):
    """One file system. Bytes, and the free share of its inodes (1.0 where it does not count them)."""

    path: str
    size: int
    free: int
    inodes_free: float = 1.0


class CertificateFacts(_Frozen):
    """One certificate. `ends` is wall clock; None where it cannot be read, because of `problem`."""

    path: str
    ends: float | None = None
    problem: str = ""


class VmFacts(_Frozen):
    """What one VM says of itself."""

    format: int
    vm: str
    orch: str
    """Version of the orch that answered."""
    started: float
    """Wall clock of that VM when it began to look, and when it had finished."""
    ended: float
    units: dict[str, UnitFacts] = Field(default_factory=dict)
    secrets: tuple[FileFacts, ...] = ()
    disks: tuple[DiskFacts, ...] = ()
    consul: str = ""
    """What is wrong with the VM's own Consul agent; empty: it answers and knows a leader."""
    dns: str | None = None
    """The address that Consul's DNS gives for this VM there; None: it does not answer."""
    ports: dict[str, dict[int, Port]] = Field(default_factory=dict)
    """VM -> port -> what came of connecting to it."""
    ssh: dict[str, str] = Field(default_factory=dict)
    """VM -> what hinders this VM's worker from logging in there; empty: nothing. Of a worker's VM only."""
    certificates: tuple[CertificateFacts, ...] = ()
    playbooks: str | None = None
    """Digest of the current playbooks, on a worker's VM."""
    releases: tuple[str, ...] = ()
    """Digests of all that commands can be run with there."""
    backups: dict[str, float | None] = Field(default_factory=dict)
    """Of each kind that a timer makes there, when its newest was begun (wall clock); None: it has none."""
    unknown: tuple[str, ...] = ()
    """What could not be found out there, one clause each."""


class Asked(_Frozen):
    """What came of asking one VM: its facts, or why there are none. Times are wall clock of the VM that asked."""

    facts: VmFacts | None
    problem: str = ""
    sent: float
    answered: float


class QueueFacts(_Frozen):
    """What a broker says of orch's queues; None and the reason where none could be asked."""

    waiting: int | None = None
    dead: int | None = None
    problem: str = ""
