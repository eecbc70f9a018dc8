"""The kinds of entry that the journal has, and which of them people are told of unless the policy says otherwise.

`ENTRY_KINDS` is the one place for these facts: no entry of another kind is written, the policy names no other one, and
docs/policy.md has the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EntryKind:
    """What an entry of the kind says, and whether a sink is told of it by default."""

    says: str
    is_told: bool = False


UNTOLD = "untold"
REFUSED_MESSAGE = "refused_message"

ENTRY_KINDS: Mapping[str, EntryKind] = {
    "initial": EntryKind("a service is assigned for the first time", True),
    "failover": EntryKind("the active failed (or does not get ready), and the service moves", True),
    "failback": EntryKind("a service comes home", True),
    "rotation": EntryKind("a service moves to the next VM of its order", True),
    "switchover": EntryKind("a service moves because somebody asked for it", True),
    "initial_prepare": EntryKind("the first instance of a service is started"),
    "failover_prepare": EntryKind("the target of a failover is started first"),
    "failback_prepare": EntryKind("the designated VM's instance is started before the service comes home"),
    "rotation_prepare": EntryKind("the target of a rotation is started before it takes over"),
    "switchover_prepare": EntryKind("the target of a switchover is started before it takes over"),
    "endpoints": EntryKind("traffic is pointed elsewhere"),
    "break": EntryKind("the previous active is stopped"),
    "succeeded": EntryKind("a move is done, with how long it took", True),
    "failed": EntryKind("a move failed", True),
    "superseded": EntryKind("a move was overtaken by another one"),
    "cancelled": EntryKind("a move was cancelled", True),
    "supersede_command": EntryKind("a command was overtaken before it ran"),
    "refused": EntryKind("what was asked for is refused", True),
    REFUSED_MESSAGE: EntryKind(
        "messages on `failover_commands` are refused: forged, sent twice, not readable, or not their sender's to send",
        True,
    ),
    "stranded": EntryKind("the active failed, and no VM can take the service", True),
    "hold": EntryKind("a service failed over too often (flapping): automatic moves are held", True),
    "acknowledged": EntryKind("an operator ended a hold", True),
    "grace": EntryKind("the designated VM has recovered, and the failback's grace has begun"),
    "rotation_skipped": EntryKind("a rotation that was due is put off", True),
    "repaired": EntryKind("an assignment that was overwritten or deleted is restored", True),
    "standbys": EntryKind("the VMs on which standbys may run have changed"),
    "standby": EntryKind("a hot standby is missing and is started", True),
    "standby_succeeded": EntryKind("a hot standby was started", True),
    "standby_failed": EntryKind("a hot standby could not be started", True),
    "standby_superseded": EntryKind("the start of a hot standby was overtaken by a move"),
    "standby_cancelled": EntryKind("the start of a hot standby was cancelled"),
    "clone": EntryKind("an operator has a standby's copy of the data replaced", True),
    "member": EntryKind("a spare takes the place of a member of a cluster, or the member its own again", True),
    "member_succeeded": EntryKind("the change of a cluster's members is done", True),
    "member_failed": EntryKind("the change of a cluster's members failed", True),
    "member_superseded": EntryKind("the change of a cluster's members was overtaken by a move"),
    "member_cancelled": EntryKind("the change of a cluster's members was cancelled"),
    "sync_lost": EntryKind("only one copy of a service's data is whole", True),
    "sync_regained": EntryKind("the copies of a service's data are whole again", True),
    UNTOLD: EntryKind("somebody could not be told of entries of the journal", True),
}

TOLD_BY_DEFAULT = frozenset(kind for kind, row in ENTRY_KINDS.items() if row.is_told)
