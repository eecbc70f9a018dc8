"""The records in Consul KV, and the state machines of requests and commands.

In: JSON text from KV. Out: frozen records. A value that cannot be read raises `ValueError`
(pydantic's `ValidationError` is one); callers at the edge turn that into `Unreadable`, never into "absent".
All times are wall-clock seconds since the epoch, for people and for comparing with `now`.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

R = TypeVar("R", bound="Record")

# The last moment of the year 9999, after which no calendar goes.
LAST_MOMENT = 253402300799.0
Moment = Annotated[float, Field(ge=0, le=LAST_MOMENT, allow_inf_nan=False)]
"""A wall-clock time that can be shown as a date."""


FORMAT = 1
"""Of records and messages. Whoever changes what a field means, or adds one that must not be overlooked, raises it: an
older orch then refuses what it would misread."""


NEWER = "a newer orch wrote it"
"""Words of the reason why a record cannot be read, where that is it."""


def known_format(value: int) -> int:
    """Return the format if this orch knows it; raises ValueError."""
    if value > FORMAT:
        raise ValueError(f"{NEWER} (format {value}; this one knows {FORMAT}): bring this VM up to date")
    return value


class Record(BaseModel):
    """Base of what is written to KV. Unknown fields are kept out, not refused: a newer orch may add some that change
    nothing about the others. A format that is not known is refused, as is a value that is not."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    format: int = Field(default=FORMAT, ge=1)

    _known_format = field_validator("format")(known_format)

    def to_json(self) -> str:
        """Return the text that goes into KV."""
        return self.model_dump_json(exclude_none=True)

    @classmethod
    def from_json(cls: type[R], text: str | bytes) -> R:
        """Read the text from KV; raises ValueError when it is not such a record."""
        return cls.model_validate_json(text)

    def with_(self: R, **changes: object) -> R:
        """Return a copy with the named fields changed."""
        return self.model_copy(update=changes)


class MoveKind(str, Enum):
    """Why a service is moved, or a play runs."""

    INITIAL = "initial"
    FAILOVER = "failover"
    FAILBACK = "failback"
    ROTATION = "rotation"
    SWITCHOVER = "switchover"
    STANDBY = "standby"
    """No move: a play starts a hot standby. Stands in commands only."""
    MEMBER = "member"
    """No move: a play has one VM join a cluster and another leave it. Stands in commands only."""


class RequestKind(str, Enum):
    """What an operator or a rule can want."""

    INITIAL = "initial"
    FAILOVER = "failover"
    FAILBACK = "failback"
    ROTATION = "rotation"
    STANDBY = "standby"
    """No move: the leader has a hot standby started that does not run. An operator's has its copy replaced too."""
    MEMBER = "member"
    """No move: the leader has one VM take the place of another in a service's cluster."""
    ACKNOWLEDGE = "acknowledge"


class RequestState(str, Enum):
    """States of a request; see `REQUEST_TRANSITIONS`."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REFUSED = "refused"
    SUPERSEDED = "superseded"
    CANCELLED = "cancelled"


class CommandState(str, Enum):
    """States of a command; see `COMMAND_TRANSITIONS`."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SUPERSEDED = "superseded"
    CANCELLED = "cancelled"


class Play(str, Enum):
    """Which of a service's plays a command runs."""

    ACTIVATE = "activate"
    DEACTIVATE = "deactivate"
    MEMBER = "member"


REQUEST_TRANSITIONS: dict[RequestState, frozenset[RequestState]] = {
    RequestState.PENDING: frozenset(
        {
            RequestState.RUNNING,
            RequestState.SUCCEEDED,
            RequestState.FAILED,
            RequestState.REFUSED,
            RequestState.SUPERSEDED,
            RequestState.CANCELLED,
        }
    ),
    RequestState.RUNNING: frozenset(
        {RequestState.SUCCEEDED, RequestState.FAILED, RequestState.SUPERSEDED, RequestState.CANCELLED}
    ),
    RequestState.SUCCEEDED: frozenset(),
    RequestState.FAILED: frozenset(),
    RequestState.REFUSED: frozenset(),
    RequestState.SUPERSEDED: frozenset(),
    RequestState.CANCELLED: frozenset(),
}

# RUNNING to RUNNING: another worker takes over the command of a worker that died.
COMMAND_TRANSITIONS: dict[CommandState, frozenset[CommandState]] = {
    CommandState.PENDING: frozenset(
        {CommandState.RUNNING, CommandState.FAILED, CommandState.SUPERSEDED, CommandState.CANCELLED}
    ),
    CommandState.RUNNING: frozenset(
        {
            CommandState.RUNNING,
            CommandState.SUCCEEDED,
            CommandState.FAILED,
            CommandState.SUPERSEDED,
            CommandState.CANCELLED,
        }
    ),
    CommandState.SUCCEEDED: frozenset(),
    CommandState.FAILED: frozenset(),
    CommandState.SUPERSEDED: frozenset(),
    CommandState.CANCELLED: frozenset(),
}


class Assignment(Record):
    """Where a service is and should be. Every change of `active` raises `epoch` by one."""

    service: str
    active: str
    designated: str
    standbys: tuple[str, ...] = ()
    """VMs on which the unit may run without traffic: hot standbys, a target that is being prepared, and the
    previous active until the endpoints have moved. On any other VM the guard stops it. The active and the
    designated VM need not be named here: they may always run it."""
    epoch: int = Field(ge=1)
    since: Moment
    kind: MoveKind
    reason: str
    previous: str | None = None
    request_id: str | None = None
    designated_is_new: bool = False
    """The service has not been served by its designated VM yet: it may never have been started there."""
    accepts_data_loss: bool = False
    """An operator let this copy be promoted although it may lack acknowledged writes."""
    failovers: tuple[Moment, ...] = ()
    """Times of the automatic failovers within the flapping window."""
    hold_until: Moment | None = None
    """No automatic move of this service before this time (or an acknowledgement)."""

    def may_run_on(self, vm: str) -> bool:
        """Say whether the unit may run on the VM, with or without traffic."""
        return vm in (self.active, self.designated) or vm in self.standbys


class LockValue(Record):
    """Value of a role lock or of the leader lock."""

    vm: str
    epoch: int = 0
    at: Moment | None = None
    """When the lock was taken, by the clock of the VM that took it."""
    ready: bool = True
    """Whether the holder takes traffic: a replicated service's holder promotes its copy first."""
    position: str | None = None
    """Of a lock that was released in a planned move: up to where the holder's data goes."""


class Endpoint(Record):
    """One address that traffic is pointed at; `backup` is used when the others do not answer."""

    vm: str
    address: str
    port: int
    backup: bool = False


class Endpoints(Record):
    """What consul-template renders. Never empty."""

    service: str
    epoch: int
    endpoints: tuple[Endpoint, ...] = Field(min_length=1)


class Sync(Record):
    """Which copies of a replicated service's data are whole; written by the guard that holds the role lock, before its
    server behaves accordingly."""

    service: str
    primary: str
    """The VM whose server takes, or is about to take, the writes."""
    epoch: int = Field(ge=1)
    complete: tuple[str, ...] = Field(min_length=1)
    """VMs whose copy holds every acknowledged write. Only these are ever promoted by themselves."""
    since: Moment
    """Since when these are the whole ones: what was acknowledged earlier is in the other copy too, if there is one."""
    reason: str
    position: str | None = None
    """GTID position of the primary's copy at `since`; None: not known."""
    reported: str | None = None
    """GTID position of the primary's copy at `reported_at`, while that one alone is whole; None: it has said no more
    than `position`."""
    reported_at: Moment | None = None
    lacks: int | None = None
    """How many transactions of the previous primary's whole copy this one was promoted without, on an operator's word;
    None: nobody knows, or nothing was accepted."""
    lacks_by: Moment | None = None
    """When the previous primary had reported them, which took more since; None: it said where its copy ended."""


class Members(Record):
    """Which VMs' brokers are to form a service's cluster; written by the leader before a play changes the cluster."""

    service: str
    members: tuple[str, ...] = Field(min_length=1)
    joining: str | None = None
    """The member that the cluster has yet to take in; None: the cluster is as it should be."""
    leaving: str | None = None
    """The VM whose place it takes, and which has yet to leave the cluster."""
    since: Moment
    reason: str


class Rotation(Record):
    """Round-robin state of one service."""

    service: str
    order: tuple[str, ...]
    index: int = 0
    last: Moment | None = None
    next_due: Moment | None = None


class Request(Record):
    """What an operator or a rule wants, until it has a final state with a reason."""

    id: str
    kind: RequestKind
    service: str
    target: str | None = None
    failed_instance: str | None = None
    redesignate: bool = False
    """The target becomes the designated VM too (an operator's move); else automatic failback undoes it."""
    accept_data_loss: bool = False
    """An operator's word that a copy which lacks acknowledged writes may be promoted."""
    loss: str | None = None
    """What may be lost since then, as a clause; noted when the move begins, since the next primary writes the record of
    the copies anew."""
    reason: str = ""
    origin: str = "rule"
    """`rule`, `message`, `key`, or `cli:<user>@<host>`."""
    state: RequestState = RequestState.PENDING
    outcome: str = ""
    created: Moment
    updated: Moment
    epoch: int | None = None
    """Epoch of the assignment that this request wrote; absent while the target is being prepared."""
    previous: str | None = None
    times: dict[str, Moment] = Field(default_factory=dict)
    """Wall-clock time of each step: detected, decided, assigned, locked, endpoints, finished."""

    @property
    def is_final(self) -> bool:
        """Say whether nothing more will happen to it."""
        return not REQUEST_TRANSITIONS[self.state]

    @property
    def is_move(self) -> bool:
        """Say whether it concerns where the service is active; otherwise that goes on beside it."""
        return self.kind not in (RequestKind.STANDBY, RequestKind.MEMBER)


class Command(Record):
    """One playbook run on behalf of a request."""

    id: str
    request_id: str
    service: str
    kind: MoveKind
    play: Play
    playbook: str
    target: str
    failed_instance: str | None = None
    recovered_instance: str | None = None
    enable_at_boot: bool = False
    unit: str = ""
    source: str | None = None
    """The active VM, where the play needs it: a standby of a replicated service gets its data from there, a cluster's
    queues have their leaders there."""
    clone: Literal["auto", "never"] | None = None
    """With a source of data: whether a copy that can never follow it is replaced by a clone."""
    leaves: str | None = None
    """The VM whose place in the cluster the target takes."""
    playbooks: str | None = None
    """Digest of the playbooks that it was decided for: no worker runs it with others. None: none were released."""
    refusals: dict[str, str] = Field(default_factory=dict)
    """VM of a worker -> why it leaves the command to another one."""
    epoch: int
    """Runs only while the service's assignment has exactly this epoch."""
    state: CommandState = CommandState.PENDING
    reason: str = ""
    created: Moment
    worker: str | None = None
    attempt: int = 0
    claimed: Moment | None = None
    first_task: Moment | None = None
    finished: Moment | None = None
    cancel_requested: bool = False
    task: str = ""
    """The task that is running now, for progress."""
    tail: tuple[str, ...] = ()
    """The last lines of the play's output."""
    rc: int | None = None

    @model_validator(mode="before")
    @classmethod
    def _has_known_fields_only(cls, given: Any) -> Any:
        """Refuse what a newer orch may have added: a play that overlooks it may do something else than was decided."""
        named = given if isinstance(given, dict) else {}
        unknown = sorted(str(name)[:40] for name in named if name not in cls.model_fields)
        if unknown:
            raise ValueError(f"{NEWER} (this one does not know {', '.join(unknown[:5])})")
        return given

    @property
    def is_final(self) -> bool:
        """Say whether nothing more will happen to it."""
        return not COMMAND_TRANSITIONS[self.state]


class HistoryEntry(Record):
    """One line of the journal that an operator reads."""

    id: str
    at: Moment
    service: str | None = None
    kind: str
    reason: str
    epoch: int | None = None
    request_id: str | None = None
    command_id: str | None = None
    vm: str | None = None
    sink: str | None = None
    """Of kind `untold`: whom it is about."""


class Told(Record):
    """Up to where a sink has been told of the journal, entries that it is not told of included."""

    sink: str
    upto: int = Field(ge=0)
    """ModifyIndex of the last entry. Ids follow the clocks of the VMs that led, the index follows what happened."""
    entry: str = ""
    """Id of the last entry; empty where there was none."""
    at: float


class Release(Record):
    """The playbooks that commands are decided for; written by `orch playbooks release` at the end of a deployment."""

    digest: str = Field(min_length=1, max_length=128)
    at: Moment
    by: str
    orch: str
    """Version of the orch that released them."""


class Installed(Record):
    """Which playbooks a worker's VM has; written by that worker when it changes."""

    vm: str
    current: str | None = None
    """Digest of those that a play started by hand there would use; None: they cannot be read."""
    kept: tuple[str, ...] = ()
    """Digests of all that a command can be run with, the current ones too."""
    at: Moment


class Paused(Record):
    """Automation is off."""

    by: str
    at: Moment
    reason: str = ""


class Maintenance(Record):
    """The VM is no target for anything."""

    by: str
    at: Moment
    reason: str = ""
