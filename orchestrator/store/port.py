"""What orch needs of Consul, as a protocol. Two classes keep it: `store.consul_port.ConsulPort` (the real one,
on python-consul2) and `tests.fakes.fake_consul.FakePort` (in memory, virtual time); both pass
`tests/contract/test_port_contract.py`.

Three-valued outcomes: a call answers, or says that it LOST (a compare-and-set or a lock), or raises `Unknown`:
"I could not find out". After `Unknown` on a write the caller must read before it concludes anything, since the
write may have happened.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from orchestrator.domain import keys


class Unknown(Exception):
    """Consul could not be asked, or did not say (no leader, time-out, connection refused, HTTP 5xx)."""


class UnknownToken(Unknown):
    """Consul does not know the token: it was replaced or deleted, or the agent has just started.

    No refusal: a server knows no token until it has caught up with the others.
    """


class Refused(Exception):
    """Consul understood and said no for a reason that a retry will not change (bad request, ACL, unknown check)."""


class TxnOutcome(Enum):
    """What became of a transaction."""

    WON = "won"
    LOST = "lost"
    """Nothing was changed: an index or a session was not as expected. Read anew."""


@dataclass(frozen=True, slots=True)
class KvPair:
    """One key as Consul returned it."""

    key: str
    value: bytes
    modify_index: int
    session: str | None = None
    lock_index: int = 0
    flags: int = 0


@dataclass(frozen=True, slots=True)
class Check:
    """One health check of the catalog. `service_id` is empty for node checks."""

    node: str
    check_id: str
    status: str
    """`passing`, `warning` or `critical`."""
    output: str = ""
    service_id: str = ""


@dataclass(frozen=True, slots=True)
class Session:
    """One session of the catalog."""

    id: str
    name: str
    node: str
    checks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CasPut:
    """Write if the key's ModifyIndex is `index`; 0 means that the key must not exist."""

    key: str
    value: bytes
    index: int


@dataclass(frozen=True, slots=True)
class CasDelete:
    """Delete if the key's ModifyIndex is `index`."""

    key: str
    index: int


@dataclass(frozen=True, slots=True)
class CheckIndex:
    """Precondition: the key's ModifyIndex is `index`."""

    key: str
    index: int


@dataclass(frozen=True, slots=True)
class CheckSession:
    """Precondition: the key is locked by the session."""

    key: str
    session: str


@dataclass(frozen=True, slots=True)
class LockPut:
    """Acquire the key with the session and write the value (re-acquiring one's own lock succeeds)."""

    key: str
    value: bytes
    session: str


@dataclass(frozen=True, slots=True)
class UnlockPut:
    """Release the key (must be held by the session) and write the value."""

    key: str
    value: bytes
    session: str


TxnOp = CasPut | CasDelete | CheckIndex | CheckSession | LockPut | UnlockPut


@dataclass(frozen=True, slots=True)
class ProbeSpec:
    """A check that the agent runs itself. `target` is a URL (http) or host:port (tcp)."""

    check_id: str
    name: str
    kind: str
    target: str
    interval_s: float
    timeout_s: float
    failures_before_critical: int
    initial_status: str = "critical"


@dataclass(frozen=True, slots=True)
class PushedSpec:
    """A check whose status we push (a TTL check in Consul's terms, `ttl_s` long enough never to expire by itself:
    the guard's own death must be no fault of the service)."""

    check_id: str
    name: str
    ttl_s: float
    initial_status: str = "critical"
    initial_output: str = ""


@dataclass(frozen=True, slots=True)
class AgentService:
    """A service registered with the local agent."""

    id: str
    name: str
    port: int
    address: str = ""
    tags: tuple[str, ...] = ()
    meta: tuple[tuple[str, str], ...] = ()
    by_own_token: bool = True
    """Registered by the token that the caller has now. An agent tells the catalog of a service and its checks
    by the tokens that registered them: once Consul does not know those, nothing arrives until they are registered
    again."""


@dataclass(frozen=True, slots=True)
class AgentCheck:
    """A check as the local agent has it."""

    check_id: str
    status: str
    service_id: str
    output: str = ""


def is_unasked(check: Check | AgentCheck) -> bool:
    """Say whether this is an instance's probe that has not been made since its agent started.

    An agent that restarts keeps what was pushed, and takes each check that it runs itself for critical until it has
    run it, within the check's interval. Such a one says nothing; a probe that failed always says what it met.
    """
    return check.check_id.endswith(keys.PROBE_SUFFIX) and check.status == "critical" and not check.output


class Port(Protocol):
    """Everything that orch asks of Consul. Not thread-safe: one instance per thread.

    Without an index, what is read was true after the question was sent, but for a port that is opened to read a copy.
    Blocking reads: with `index` > 0 the call returns when something under the prefix changed after that index,
    or after `wait_s` (then with the same data). The index in an answer that is lower than the one given means
    that the caller must start over from 0. Every method may raise `Unknown` or `Refused`.
    """

    def kv_get(self, key: str, *, index: int = 0, wait_s: float = 0.0) -> tuple[int, KvPair | None]:
        """Read one key."""

    def kv_list(self, prefix: str, *, index: int = 0, wait_s: float = 0.0) -> tuple[int, tuple[KvPair, ...]]:
        """Read all keys under the prefix, sorted by key."""

    def kv_keys(self, prefix: str) -> tuple[str, ...]:
        """Read only the names of the keys under the prefix, sorted."""

    def kv_put(self, key: str, value: bytes) -> None:
        """Write unconditionally (operator's keys such as `orch/rotate/S`)."""

    def kv_delete(self, key: str) -> None:
        """Delete unconditionally; no error when absent."""

    def txn(self, ops: tuple[TxnOp, ...]) -> TxnOutcome:
        """Apply all operations or none."""

    def checks(self, *, index: int = 0, wait_s: float = 0.0) -> tuple[int, tuple[Check, ...]]:
        """Read every health check of the catalog (`/v1/health/state/any`)."""

    def session_create(self, name: str, checks: tuple[str, ...], *, lock_delay_s: float = 0.0) -> str:
        """Create a session of the local node bound to the checks (always including serfHealth), behaviour release,
        no TTL. Raises `Refused` when a check is unknown or critical."""

    def session_destroy(self, session_id: str) -> None:
        """End the session and free its locks; no error when it is gone already."""

    def session_list(self, node: str, *, index: int = 0, wait_s: float = 0.0) -> tuple[int, tuple[Session, ...]]:
        """Read the sessions of the node."""

    def lock_acquire(self, key: str, value: bytes, session_id: str) -> bool:
        """Acquire the key; False when another session holds it (or lock-delay is running)."""

    def lock_release(self, key: str, value: bytes, session_id: str) -> bool:
        """Release the key; False when the session does not hold it."""

    def agent_services(self) -> tuple[AgentService, ...]:
        """Read what is registered with the local agent."""

    def agent_checks(self) -> tuple[AgentCheck, ...]:
        """Read the checks of the local agent."""

    def agent_register(self, service: AgentService) -> None:
        """Register or update the service with the local agent without touching its checks."""

    def agent_register_probe(self, service_id: str, probe: ProbeSpec) -> None:
        """Register a check that the agent runs. Compare first: where it exists already, the agent keeps its status
        and output, but the catalog may see the initial status for a moment, and critical ends the sessions bound to
        it (agent.addCheckLocked; seen). Probing starts anew too, and then the first failure counts at once."""

    def agent_register_pushed(self, service_id: str, pushed: PushedSpec) -> None:
        """Register a check whose status is pushed. Compare first, as for a probe; to change its status, push."""

    def agent_push(self, check_id: str, status: str, output: str) -> None:
        """Set the status of a pushed check."""

    def agent_deregister(self, service_id: str) -> None:
        """Remove the service and its checks from the local agent; no error when absent."""

    def agent_compare(self, default_token: str) -> None:
        """Have the local agent compare all that it has with the catalog within 3 s, and send what is not there.

        For a VM that autopilot struck off: its agent believes itself in sync and would compare only a minute or more
        later. `default_token`: what it takes for the token of whoever gives none ("" for none); it stays that.
        """

    def agent_sync(self, service_id: str) -> None:
        """Have the local agent send to the catalog at once what has changed since it last could.

        For an agent whose first comparison with the catalog failed, as it does on a VM that boots before gossip has
        found the leader: it sends no change of its own probes for the next 15 to 30 s (agent/ae, retryFailInterval).
        `service_id` is one of the agent's services; Consul's maintenance mode of it, if it was on, ends.
        """

    def agent_join(self, address: str) -> None:
        """Have the local agent exchange all that gossip knows with the one at the address, at once.

        Raises `Unknown` when nobody answers there. For a VM that was cut off: Serf tries a member that it holds for
        failed only every 30 s (hashicorp/serf, ReconnectInterval). Joining a cluster again that one is in is harmless.
        """

    def node_name(self) -> str:
        """Return the local agent's node name (the VM's name)."""

    def leader_known(self) -> bool:
        """Say whether the cluster has a Raft leader now."""
