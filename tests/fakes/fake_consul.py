"""A Consul cluster in memory: virtual time, no threads, deterministic; `FakePort` keeps the contract of `store.port`.

What it imitates, each held by tests/contract on a real agent too: one Raft index over KV, checks and sessions; a
write that changes nothing does not move the ModifyIndex; sessions end when a check of theirs turns critical, is
removed, or their node fails, and free their locks with the lock-delay; transactions are all or nothing.

What only the owner of the cluster decides: `now`, `quorum`, which node is `cut` off (its agent answers for itself,
not for the cluster), which agent is `stopped`, and what the checks that agents run themselves say (`set_check`).
An agent that cannot reach the cluster keeps its own state and hands it in when it can again (anti-entropy).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from orchestrator.domain.keys import SERF_HEALTH
from orchestrator.store.port import (
    AgentCheck,
    AgentService,
    CasDelete,
    CasPut,
    Check,
    CheckIndex,
    KvPair,
    LockPut,
    ProbeSpec,
    PushedSpec,
    Refused,
    Session,
    TxnOp,
    TxnOutcome,
    Unknown,
    UnlockPut,
)

PASSING = "passing"
WARNING = "warning"
CRITICAL = "critical"
MAX_TXN_OPS = 64
LAST_CHARACTER = chr(0x10FFFF)

Change = tuple[str, str]
"""What changed: ("kv", key), ("check", node) or ("session", node)."""


@dataclass(slots=True)
class _Agent:
    """One node's agent: its own state, whether or not the cluster knows of it yet."""

    cut: bool = False
    stopped: bool = False
    services: dict[str, AgentService] = field(default_factory=dict)
    checks: dict[str, Check] = field(default_factory=dict)
    pushed: set[str] = field(default_factory=set)
    in_sync: bool = True


@dataclass(slots=True)
class _Session:
    session: Session
    lock_delay_s: float
    locks: set[str] = field(default_factory=set)


class FakeConsul:
    """The cluster. The owner moves `now` and injects faults; `port(node)` is what our code gets."""

    def __init__(self, nodes: Iterable[str], *, now: float = 0.0) -> None:
        self.now = now
        self.index = 1
        """The Raft index: grows by one with every change, so an unchanged index means an unchanged cluster."""
        self.listeners: list[Callable[[Change], None]] = []
        """Called after each change, inside the call that made it: must only take a note."""
        self.on_write: Callable[[str, str, str], None] | None = None
        """Called as (node, operation, "before" or "after") around each write through a port; what it raises comes out
        of that call. Raising `Unknown` at "after" is the write that happened although its caller cannot know."""
        self._quorum = True
        self._agents: dict[str, _Agent] = {name: _Agent() for name in nodes}
        self._reach: dict[str, bool] = {}
        self._kv: dict[str, KvPair] = {}
        self._names: list[str] = []
        self._lists: dict[str, tuple[int, tuple[KvPair, ...]]] = {}
        self._catalog: dict[tuple[str, str], Check] = {}
        self._checks: tuple[int, tuple[Check, ...]] | None = None
        self._sessions: dict[str, _Session] = {}
        self._sessions_index = 1
        self._sessions_made = 0
        self._lock_delays: dict[str, float] = {}
        for name in self._agents:
            self.set_reachable(name, True)

    # -- what the owner does ----------------------------------------------------------------------------------------

    def port(self, node: str) -> FakePort:
        """Return a new port to the node's agent."""
        self._agents.setdefault(node, _Agent())
        return FakePort(self, node)

    @property
    def quorum(self) -> bool:
        """Say whether the cluster can write. Without it nothing in KV, catalog or sessions changes."""
        return self._quorum

    @quorum.setter
    def quorum(self, there_is: bool) -> None:
        self._quorum = there_is
        if there_is:
            for node, up in self._reach.items():
                self._note_reach(node, up)
            for node in self._agents:
                self._sync(node)

    def set_cut(self, node: str, cut: bool) -> None:
        """Cut the node's agent off from the cluster, or mend it. Gossip notices separately: `set_reachable`."""
        self._agents[node].cut = cut
        self._sync(node)

    def set_stopped(self, node: str, stopped: bool) -> None:
        """Stop the node's agent (every call of its ports raises `Unknown`), or start it again."""
        self._agents[node].stopped = stopped
        self._sync(node)

    def set_reachable(self, node: str, up: bool) -> None:
        """Say what gossip finds: serfHealth turns passing or critical (critical ends the node's sessions). Without
        quorum the catalog learns it when quorum is back."""
        self._reach[node] = up
        if self._quorum:
            self._note_reach(node, up)
        if up:
            self._sync(node)

    def remove_node(self, node: str) -> None:
        """Deregister the node as a graceful leave does: its checks, services and sessions are gone."""
        self._reach.pop(node, None)
        self._agents[node].in_sync = False
        for known_node, check_id in list(self._catalog):
            if known_node == node:
                self._drop_check(node, check_id)

    def lose_check(self, node: str, check_id: str) -> None:
        """Forget one check of the node, which its agent believes to be known (struck off while it sent them)."""
        self._drop_check(node, check_id)

    def mistake_check(self, node: str, check_id: str, status: str) -> None:
        """Have the catalog take a check of the node for what it is not; its agent sends nothing for a while."""
        self._put_check(replace(self._catalog[node, check_id], status=status))

    def set_check(self, node: str, check_id: str, status: str, output: str = "", *, service_id: str = "") -> None:
        """Say what a check that the agent runs itself finds (created when new: static definitions, `load`)."""
        agent = self._agents[node]
        known = agent.checks.get(check_id)
        service = known.service_id if known else service_id
        agent.checks[check_id] = Check(node, check_id, status, output, service)
        self._sync(node, only=check_id)

    def remove_check(self, node: str, check_id: str) -> None:
        """Remove a check from the node's agent."""
        self._agents[node].checks.pop(check_id, None)
        self._sync(node)

    def forget_agent_state(self, node: str) -> None:
        """Lose what was registered with the node's agent (its VM was set up anew)."""
        self._agents[node] = replace(self._agents[node], services={}, checks={}, pushed=set())
        self._sync(node)

    def session_exists(self, session_id: str) -> bool:
        """Say whether the session is alive."""
        return session_id in self._sessions

    def peek(self, key: str) -> KvPair | None:
        """Read a key past every fault (for invariants of the simulation)."""
        return self._kv.get(key)

    def peek_list(self, prefix: str) -> tuple[KvPair, ...]:
        """Read a prefix past every fault."""
        return self._list(prefix)[1]

    def peek_agent_checks(self, node: str) -> tuple[str, ...]:
        """Read which checks the node's agent has, past every fault."""
        return tuple(self._agents[node].checks)

    # -- changes ----------------------------------------------------------------------------------------------------

    def _changed(self, what: str, name: str) -> int:
        self.index += 1
        for listener in self.listeners:
            listener((what, name))
        return self.index

    def _write(self, pair: KvPair, *, index: int) -> None:
        """Store the pair unless it changes nothing (Consul then keeps the old ModifyIndex)."""
        known = self._kv.get(pair.key)
        if known is not None and replace(pair, modify_index=known.modify_index) == known:
            return
        if known is None:
            insort(self._names, pair.key)
        if known is not None and known.session and known.session != pair.session:
            self._sessions[known.session].locks.discard(pair.key)
        if pair.session:
            self._sessions[pair.session].locks.add(pair.key)
        self._kv[pair.key] = replace(pair, modify_index=index)
        self._forget_lists(pair.key)

    def _delete(self, key: str) -> None:
        known = self._kv.pop(key, None)
        if known is None:
            return
        if known.session:
            self._sessions[known.session].locks.discard(key)
        del self._names[bisect_left(self._names, key)]
        self._forget_lists(key)

    def _forget_lists(self, key: str) -> None:
        for prefix in [prefix for prefix in self._lists if key.startswith(prefix)]:
            del self._lists[prefix]

    def _list(self, prefix: str) -> tuple[int, tuple[KvPair, ...]]:
        known = self._lists.get(prefix)
        if known is None:
            start = bisect_left(self._names, prefix)
            end = bisect_left(self._names, prefix + LAST_CHARACTER, start)
            known = self._lists[prefix] = (self.index, tuple(map(self._kv.__getitem__, self._names[start:end])))
        return known

    def _end_session(self, session_id: str) -> None:
        ended = self._sessions.pop(session_id, None)
        if ended is None:
            return
        index = self._changed("session", ended.session.node)
        self._sessions_index = index
        for key in sorted(ended.locks):
            self._kv[key] = replace(self._kv[key], session=None, modify_index=index)
            self._forget_lists(key)
            if ended.lock_delay_s > 0:
                self._lock_delays[key] = self.now + ended.lock_delay_s
            self._changed("kv", key)

    # -- the catalog ------------------------------------------------------------------------------------------------

    def _note_reach(self, node: str, up: bool) -> None:
        output = "Agent alive and reachable" if up else "Agent not live or unreachable"
        self._put_check(Check(node, SERF_HEALTH, PASSING if up else CRITICAL, output))

    def _put_check(self, check: Check) -> None:
        at = (check.node, check.check_id)
        known = self._catalog.get(at)
        if known == check:
            return
        self._catalog[at] = check
        self._checks = None
        self._changed("check", check.node)
        if check.status == CRITICAL:
            self._end_sessions_of(check.node, check.check_id)

    def _drop_check(self, node: str, check_id: str) -> None:
        if self._catalog.pop((node, check_id), None) is not None:
            self._checks = None
            self._changed("check", node)
            self._end_sessions_of(node, check_id)

    def _end_sessions_of(self, node: str, check_id: str) -> None:
        ended = [
            known.session.id
            for known in self._sessions.values()
            if known.session.node == node and check_id in known.session.checks
        ]
        for session_id in ended:
            self._end_session(session_id)

    def _can_write(self, node: str) -> bool:
        agent = self._agents[node]
        return self._quorum and not agent.cut and not agent.stopped

    def _sync(self, node: str, *, only: str | None = None) -> None:
        """Hand the agent's own state in to the catalog, as far as it can be reached."""
        agent = self._agents[node]
        if not self._can_write(node):
            agent.in_sync = False
            return
        if only is not None and agent.in_sync:
            self._put_check(agent.checks[only])
            return
        for known_node, check_id in list(self._catalog):
            if known_node == node and check_id != SERF_HEALTH and check_id not in agent.checks:
                self._drop_check(node, check_id)
        for check in list(agent.checks.values()):
            self._put_check(check)
        agent.in_sync = True

    def _all_checks(self) -> tuple[int, tuple[Check, ...]]:
        if self._checks is None:
            self._checks = (self.index, tuple(self._catalog[at] for at in sorted(self._catalog)))
        return self._checks

    # -- transactions -----------------------------------------------------------------------------------------------

    def _holds(self, op: TxnOp) -> bool:
        """Say whether the operation's precondition holds now."""
        pair = self._kv.get(op.key)
        if isinstance(op, CasPut | CheckIndex):
            return (pair.modify_index if pair else 0) == op.index
        if isinstance(op, CasDelete):
            # Consul: deleting what is not there succeeds whatever the index.
            return pair is None or pair.modify_index == op.index
        if isinstance(op, LockPut):
            if op.session not in self._sessions or self._lock_delays.get(op.key, self.now) > self.now:
                return False
            return pair is None or pair.session in (None, op.session)
        return pair is not None and pair.session == op.session

    def _apply(self, op: TxnOp, index: int) -> None:
        pair = self._kv.get(op.key)
        if isinstance(op, CasDelete):
            self._delete(op.key)
        elif isinstance(op, CasPut):
            base = pair or KvPair(op.key, b"", index)
            self._write(replace(base, value=op.value), index=index)
        elif isinstance(op, LockPut):
            base = pair or KvPair(op.key, b"", index)
            again = base.session == op.session
            lock_index = base.lock_index if again else base.lock_index + 1
            self._write(replace(base, value=op.value, session=op.session, lock_index=lock_index), index=index)
        elif isinstance(op, UnlockPut):
            assert pair is not None
            self._write(replace(pair, value=op.value, session=None), index=index)

    def _commit(self, ops: tuple[TxnOp, ...]) -> bool:
        """Apply all or none. Operations see what the ones before them did, as in Consul."""
        before = {op.key: self._kv.get(op.key) for op in ops}
        index = self.index + 1
        for op in ops:
            if not self._holds(op):
                self._restore(before)
                return False
            self._apply(op, index)
        for key, pair in before.items():
            if self._kv.get(key) != pair:
                self.index = index
                for listener in self.listeners:
                    listener(("kv", key))
        return True

    def _restore(self, before: dict[str, KvPair | None]) -> None:
        for key, pair in before.items():
            if self._kv.get(key) == pair:
                continue
            self._delete(key)
            if pair is not None:
                self._write(pair, index=pair.modify_index)


class FakePort:
    """One node's way to the cluster. Blocking reads answer at once with what is there: the simulation schedules."""

    def __init__(self, cluster: FakeConsul, node: str) -> None:
        self._cluster = cluster
        self._node = node

    # -- who may ask ------------------------------------------------------------------------------------------------

    def _agent(self) -> _Agent:
        agent = self._cluster._agents[self._node]
        if agent.stopped:
            raise Unknown(f"the Consul agent on {self._node} does not answer")
        return agent

    def _reaching(self) -> FakeConsul:
        if self._agent().cut or not self._cluster.quorum:
            raise Unknown("500 No cluster leader")
        return self._cluster

    def _hook(self, operation: str, stage: str) -> None:
        if self._cluster.on_write is not None:
            self._cluster.on_write(self._node, operation, stage)

    def _commit(self, operation: str, ops: tuple[TxnOp, ...]) -> bool:
        cluster = self._reaching()
        self._hook(operation, "before")
        won = cluster._commit(ops)
        self._hook(operation, "after")
        return won

    # -- KV ---------------------------------------------------------------------------------------------------------

    def kv_get(self, key: str, *, index: int = 0, wait_s: float = 0.0) -> tuple[int, KvPair | None]:
        """See `Port.kv_get`."""
        cluster = self._reaching()
        pair = cluster._kv.get(key)
        return (pair.modify_index if pair else cluster.index), pair

    def kv_list(self, prefix: str, *, index: int = 0, wait_s: float = 0.0) -> tuple[int, tuple[KvPair, ...]]:
        """See `Port.kv_list`."""
        return self._reaching()._list(prefix)

    def kv_keys(self, prefix: str) -> tuple[str, ...]:
        """See `Port.kv_keys`."""
        return tuple(pair.key for pair in self._reaching()._list(prefix)[1])

    def kv_put(self, key: str, value: bytes) -> None:
        """See `Port.kv_put`."""
        cluster = self._reaching()
        pair = cluster._kv.get(key)
        self._commit("kv_put", (CasPut(key, value, pair.modify_index if pair else 0),))

    def kv_delete(self, key: str) -> None:
        """See `Port.kv_delete`."""
        pair = self._reaching()._kv.get(key)
        self._commit("kv_delete", (CasDelete(key, pair.modify_index if pair else 0),))

    def txn(self, ops: tuple[TxnOp, ...]) -> TxnOutcome:
        """See `Port.txn`."""
        if len(ops) > MAX_TXN_OPS:
            raise ValueError(f"a transaction has at most {MAX_TXN_OPS} operations, not {len(ops)}")
        return TxnOutcome.WON if self._commit("txn", ops) else TxnOutcome.LOST

    # -- health, sessions and locks -----------------------------------------------------------------------------------

    def checks(self, *, index: int = 0, wait_s: float = 0.0) -> tuple[int, tuple[Check, ...]]:
        """See `Port.checks`."""
        return self._reaching()._all_checks()

    def leader_known(self) -> bool:
        """See `Port.leader_known`."""
        return not self._agent().cut and self._cluster.quorum

    def session_create(self, name: str, checks: tuple[str, ...], *, lock_delay_s: float = 0.0) -> str:
        """See `Port.session_create`."""
        cluster = self._reaching()
        self._hook("session_create", "before")
        bound = tuple(dict.fromkeys((SERF_HEALTH, *checks)))
        for check_id in bound:
            known = cluster._catalog.get((self._node, check_id))
            if known is None:
                raise Refused(f"500 Missing check '{check_id}' registration")
            if known.status == CRITICAL:
                raise Refused(f"500 Check '{check_id}' is in critical state")
        cluster._sessions_made += 1
        session_id = f"00000000-0000-4000-8000-{cluster._sessions_made:012d}"
        cluster._sessions[session_id] = _Session(Session(session_id, name, self._node, bound), lock_delay_s)
        cluster._sessions_index = cluster._changed("session", self._node)
        self._hook("session_create", "after")
        return session_id

    def session_destroy(self, session_id: str) -> None:
        """See `Port.session_destroy`."""
        cluster = self._reaching()
        self._hook("session_destroy", "before")
        cluster._end_session(session_id)
        self._hook("session_destroy", "after")

    def session_list(self, node: str, *, index: int = 0, wait_s: float = 0.0) -> tuple[int, tuple[Session, ...]]:
        """See `Port.session_list`."""
        cluster = self._reaching()
        known = (entry.session for entry in cluster._sessions.values())
        return cluster._sessions_index, tuple(session for session in known if session.node == node)

    def lock_acquire(self, key: str, value: bytes, session_id: str) -> bool:
        """See `Port.lock_acquire`."""
        if not self._reaching().session_exists(session_id):
            raise Refused(f"500 invalid session {session_id!r}")
        return self._commit("lock_acquire", (LockPut(key, value, session_id),))

    def lock_release(self, key: str, value: bytes, session_id: str) -> bool:
        """See `Port.lock_release`."""
        return self._commit("lock_release", (UnlockPut(key, value, session_id),))

    # -- the local agent ----------------------------------------------------------------------------------------------

    def agent_services(self) -> tuple[AgentService, ...]:
        """See `Port.agent_services`."""
        services = self._agent().services
        return tuple(services[name] for name in sorted(services))

    def agent_checks(self) -> tuple[AgentCheck, ...]:
        """See `Port.agent_checks`."""
        checks = self._agent().checks
        return tuple(
            AgentCheck(name, checks[name].status, checks[name].service_id, checks[name].output)
            for name in sorted(checks)
        )

    def agent_register(self, service: AgentService) -> None:
        """See `Port.agent_register`."""
        agent = self._agent()
        self._hook("agent_register", "before")
        agent.services[service.id] = replace(service, meta=tuple(sorted(service.meta)))
        self._hook("agent_register", "after")

    def agent_register_probe(self, service_id: str, probe: ProbeSpec) -> None:
        """See `Port.agent_register_probe`. What the probe finds is up to the cluster's owner (`set_check`)."""
        self._register_check(service_id, Check(self._node, probe.check_id, probe.initial_status, "", service_id))

    def agent_register_pushed(self, service_id: str, pushed: PushedSpec) -> None:
        """See `Port.agent_register_pushed`."""
        status, output = pushed.initial_status, pushed.initial_output
        self._register_check(service_id, Check(self._node, pushed.check_id, status, output, service_id))
        self._agent().pushed.add(pushed.check_id)

    def _register_check(self, service_id: str, check: Check) -> None:
        agent = self._agent()
        if service_id not in agent.services:
            raise Refused(f'404 ServiceID "{service_id}" does not exist')
        self._hook("agent_register_check", "before")
        known = agent.checks.get(check.check_id)
        agent.checks[check.check_id] = check
        if known is not None:
            # The agent keeps what it knew, but the catalog may have seen the initial status in between. Always so here.
            self._cluster._sync(self._node, only=check.check_id)
            agent.checks[check.check_id] = replace(check, status=known.status, output=known.output)
        self._cluster._sync(self._node, only=check.check_id)
        self._hook("agent_register_check", "after")

    def agent_push(self, check_id: str, status: str, output: str) -> None:
        """See `Port.agent_push`."""
        agent = self._agent()
        if check_id not in agent.pushed:
            raise Refused(f'404 Unknown check ID "{check_id}"')
        self._hook("agent_push", "before")
        agent.checks[check_id] = replace(agent.checks[check_id], status=status, output=output)
        self._cluster._sync(self._node, only=check_id)
        self._hook("agent_push", "after")

    def agent_deregister(self, service_id: str) -> None:
        """See `Port.agent_deregister`."""
        agent = self._agent()
        self._hook("agent_deregister", "before")
        agent.services.pop(service_id, None)
        gone = [check_id for check_id, check in agent.checks.items() if check.service_id == service_id]
        for check_id in gone:
            del agent.checks[check_id]
            agent.pushed.discard(check_id)
        self._cluster._sync(self._node)
        self._hook("agent_deregister", "after")

    def agent_compare(self, default_token: str) -> None:
        """See `Port.agent_compare`."""
        self._agent()
        self._cluster._sync(self._node)

    def agent_sync(self, service_id: str) -> None:
        """See `Port.agent_sync`. This agent sends each change at once."""
        self._agent()

    def agent_join(self, address: str) -> None:
        """See `Port.agent_join`. The simulation schedules what gossip finds out by itself."""
        self._agent()

    def node_name(self) -> str:
        """See `Port.node_name`."""
        self._agent()
        return self._node
