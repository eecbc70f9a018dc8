"""Consul through python-consul2: the only module that imports the library (py-consul, its maintained fork, works too).

In: calls of `store.port.Port`. Out: frozen values of `store.port`, or `Unknown` / `Refused`. Must never guess: what
could not be found out is raised, not returned. What the library has no argument for goes through its own HTTP
layer, in `_call`. Not thread-safe: one instance per thread.

What this module does about the library, each seen in its source:
- CONSUL_HTTP_ADDR and CONSUL_HTTP_TOKEN override the arguments: `_Agent` and the token are set after construction.
- its own HTTP client, requests, costs twice the processor time of the standard library's, honours HTTP_PROXY and
  ~/.netrc, and has no timeout (python-consul2) or one of its own (py-consul): `_Agent` is the client instead.
- its answers hide the response headers: `_Agent` keeps whether the agent knows a leader.
- it takes a token once and for all: `_Agent` sends it, and reads its file again when Consul does not know it any more.
- it takes what an ACL has left of a list for all of it: `_Agent` refuses such an answer.
"""

from __future__ import annotations

import base64
import hashlib
import json
import select
from collections.abc import Callable, Mapping
from functools import partial
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import consul
import consul.base

from orchestrator.domain import keys
from orchestrator.store.port import (
    AgentCheck,
    AgentService,
    CasDelete,
    CasPut,
    Check,
    CheckIndex,
    CheckSession,
    KvPair,
    LockPut,
    ProbeSpec,
    PushedSpec,
    Refused,
    Session,
    TxnOp,
    TxnOutcome,
    Unknown,
    UnknownToken,
)

T = TypeVar("T")

MAX_TXN_OPS = 64
TOKEN = "by_token"
"""Meta key of what is registered: `_Agent.token_mark` of the token by which it was."""
"""Consul accepts 128 since 1.13 and 64 before (agent/txn_endpoint.go, maxTxnOps)."""

CONNECT_TIMEOUT_S = 1.0
# A blocking query is answered after `wait` plus up to wait/16 (agent/blockingquery), and may then be held for
# rpc_hold_timeout (7 s) while the cluster elects a leader.
BLOCKING_MARGIN_S = 8.0

# Errors forwarded by another server carry a prefix ("rpc error making call: ..."), so all are matched by substring.
_NO_BY_SUBSTRING = (
    "Permission denied",
    "ACL support disabled",
    "Missing check",
    " is in critical state",
    "invalid session",
    "does not have associated TTL",
    "does not exist",
    "Unknown check",
    "Unknown service",
)
# agent/consul/state/txn.go and agent/consul/txn_endpoint.go: what a precondition that does not hold is called.
_LOST_BY_SUBSTRING = (
    "index is stale",
    "lock is already held",
    "due to lock delay",
    "lock isn't held",
    "doesn't exist",
    '" exists',
    "failed session check",
    "failed index check",
    "invalid session",
)
_UNKNOWN_TOKEN = "ACL not found"
_UNKNOWN_BY_SUBSTRING = ("No cluster leader", "rpc error", "i/o timeout", "connection re", "EOF", "leadership lost")
# Both libraries have these classes, in different modules.
_REFUSALS = frozenset({"BadRequest", "ACLDisabled", "ACLPermissionDenied", "NotFound", "ClientError"})


class _Answer(NamedTuple):
    """What the library's callbacks read."""

    code: int
    headers: Mapping[str, str]
    body: str


class _Agent(consul.base.HTTPClient):  # type: ignore[misc]
    """The library's way to the agent: one connection that is kept, and the timeout that was set for the request."""

    def __init__(self, host: str, port: int, token: str | None, token_file: Path | None) -> None:
        super().__init__(host, port)
        self.base_uri = ""
        self._token = token
        self._token_file = token_file
        self.timeout_s = CONNECT_TIMEOUT_S
        self.leader_known = True
        self._connection = HTTPConnection(host, port, timeout=CONNECT_TIMEOUT_S)

    def get(self, callback: Callable[[_Answer], T], path: str, params: Any = None, headers: Any = None) -> T:
        """Send a GET."""
        return callback(self._send("GET", self.uri(path, params), None, headers))

    def put(
        self, callback: Callable[[_Answer], T], path: str, params: Any = None, data: Any = "", headers: Any = None
    ) -> T:
        """Send a PUT."""
        return callback(self._send("PUT", self.uri(path, params), data, headers))

    def delete(
        self, callback: Callable[[_Answer], T], path: str, params: Any = None, data: Any = "", headers: Any = None
    ) -> T:
        """Send a DELETE."""
        return callback(self._send("DELETE", self.uri(path, params), data, headers))

    def post(
        self, callback: Callable[[_Answer], T], path: str, params: Any = None, data: Any = "", headers: Any = None
    ) -> T:
        """Send a POST."""
        return callback(self._send("POST", self.uri(path, params), data, headers))

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        self._connection.close()

    def _send(self, verb: str, uri: str, data: str | bytes | None, headers: Mapping[str, str] | None) -> _Answer:
        """Raises `OSError` or `HTTPException`; then the connection is closed, so that no late answer is taken for
        the next one's."""
        body = data.encode() if isinstance(data, str) else data
        if self._token is None and self._token_file is not None:
            self._token = self._token_in_file()
        token = {"X-Consul-Token": self._token} if self._token else {}
        try:
            self._connected().settimeout(self.timeout_s)
            self._connection.request(verb, uri, body, {**(headers or {}), **token})
            response = self._connection.getresponse()
            text = response.read().decode()
        except BaseException:
            self.close()
            raise
        if response.getheader("X-Consul-Results-Filtered-By-ACLs") == "true":
            raise Refused(f"Permission denied: the token may see a part only of what {uri.partition('?')[0]} tells")
        self.leader_known = response.getheader("X-Consul-KnownLeader", "true") == "true"
        return _Answer(response.status, dict(response.getheaders()), text)

    @property
    def token_mark(self) -> str:
        """Return what tells this token from another and says nothing about it; empty without one."""
        token = self._token or (self._token_in_file() if self._token_file else "")
        return hashlib.sha256(token.encode()).hexdigest()[:12] if token else ""

    def has_another_token(self) -> bool:
        """Read the file of the token again; say whether it holds another one, which the next request takes."""
        if self._token_file is None:
            return False
        before, self._token = self._token, self._token_in_file()
        return self._token != before

    def _token_in_file(self) -> str:
        """Raises `Unknown`."""
        try:
            return str(self._token_file and self._token_file.read_text(encoding="ascii").strip())
        except (OSError, UnicodeDecodeError) as error:
            why = (isinstance(error, OSError) and error.strerror) or "it holds no token"
            raise Unknown(f"Consul's token in {self._token_file} cannot be read: {why}") from None

    def _connected(self) -> Any:
        """Return the connection's socket. One that the agent closed meanwhile (it was restarted) is replaced."""
        if self._connection.sock is not None and _is_readable(self._connection.sock):
            self.close()
        if self._connection.sock is None:
            self._connection.connect()
        return self._connection.sock


def _is_readable(sock: Any) -> bool:
    """Say whether there is something to read, the end included; nothing is under way."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


class ConsulPort:
    """The real `Port`: the local agent's HTTP API.

    `timeout_s` bounds every call that does not block. With `stale_reads` blocking and other reads are answered by
    the local agent from its own copy, at most some 50 ms behind, and never hang on a Raft leader whose VM was cut
    off; they raise `Unknown` while that agent knows no leader. For watching only: compare-and-set makes it safe.
    Otherwise the Raft leader answers. What is read without an index it answers only after the quorum has confirmed that
    it leads (`consistent`): it was true after the question was sent. A leader that was restarted and elected again in
    that moment has not gone through its log yet, and would answer out of the distant past. What is read with an index
    is newer than that.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 8500,
        *,
        token: str | None = None,
        token_file: Path | None = None,
        timeout_s: float = 3.0,
        stale_reads: bool = False,
        on_failure: Callable[[Exception], None] = lambda problem: None,
    ) -> None:
        """`token_file` holds the token, if none is given; it is read at the first call, and again when Consul does not
        know the token any more. `on_failure` is told each `Unknown` and `Refused` just before it is raised, to be
        counted."""
        try:
            self._consul = consul.Consul(host=host, port=port, scheme="http")
        except consul.ConsulException as error:
            raise Refused(f"the environment of this process misleads the Consul library: {error}") from None
        self._consul.token = None
        self._agent = self._consul.http = _Agent(host, port, token, token_file)
        self._timeout_s = timeout_s
        self._stale_reads = stale_reads
        self._on_failure = on_failure
        self._node: str | None = None

    def close(self) -> None:
        """Close the connection to the agent."""
        self._agent.close()

    # -- KV -------------------------------------------------------------------------------------------------

    def kv_get(self, key: str, *, index: int = 0, wait_s: float = 0.0) -> tuple[int, KvPair | None]:
        """See `Port.kv_get`."""
        at, found = self._read(partial(self._consul.kv.get, key), index, wait_s)
        return at, _pair(found) if found else None

    def kv_list(self, prefix: str, *, index: int = 0, wait_s: float = 0.0) -> tuple[int, tuple[KvPair, ...]]:
        """See `Port.kv_list`."""
        at, found = self._read(partial(self._consul.kv.get, prefix, recurse=True), index, wait_s)
        return at, tuple(sorted((_pair(entry) for entry in found or ()), key=lambda pair: pair.key))

    def kv_keys(self, prefix: str) -> tuple[str, ...]:
        """See `Port.kv_keys`."""
        _, found = self._read(partial(self._consul.kv.get, prefix, keys=True))
        return tuple(sorted(found or ()))

    def kv_put(self, key: str, value: bytes) -> None:
        """See `Port.kv_put`."""

        def put() -> None:
            if self._consul.kv.put(key, value) is not True:
                raise Unknown(f"Consul did not confirm the write of {key}")

        self._ask(put)

    def kv_delete(self, key: str) -> None:
        """See `Port.kv_delete`."""
        self._ask(lambda: self._consul.kv.delete(key))

    def txn(self, ops: tuple[TxnOp, ...]) -> TxnOutcome:
        """See `Port.txn`. More than 64 operations are a bug of the caller (ValueError)."""
        if len(ops) > MAX_TXN_OPS:
            raise ValueError(f"a transaction has at most {MAX_TXN_OPS} operations, not {len(ops)}")
        body = [{"KV": _txn_op(op)} for op in ops]

        def commit() -> TxnOutcome:
            code, answer = self._send("put", "/v1/txn", body=body, accept=(200, 409))
            return TxnOutcome.WON if code == 200 else _lost_or_raise(answer)

        return self._ask(commit)

    # -- health -----------------------------------------------------------------------------------------------

    def checks(self, *, index: int = 0, wait_s: float = 0.0) -> tuple[int, tuple[Check, ...]]:
        """See `Port.checks`."""
        at, found = self._read(self._checks, index, wait_s)
        return at, tuple(sorted((_check(entry) for entry in found or ()), key=lambda c: (c.node, c.check_id)))

    def _checks(self, *, consistency: str, **blocking: Any) -> tuple[Any, Any]:
        # health.state of python-consul2 has no argument for the consistency.
        params = [*blocking.items(), *([(consistency, "1")] if consistency != "default" else [])]
        answer = self._agent.get(_as_it_is, path="/v1/health/state/any", params=params)
        _raise_for(answer.code, answer.body)
        return answer.headers["X-Consul-Index"], json.loads(answer.body)

    def leader_known(self) -> bool:
        """See `Port.leader_known`."""
        return bool(self._ask(lambda: self._consul.status.leader()))

    # -- sessions and locks -------------------------------------------------------------------------------------

    def session_create(self, name: str, checks: tuple[str, ...], *, lock_delay_s: float = 0.0) -> str:
        """See `Port.session_create`. A check registered a moment ago may not have reached the catalog: `Refused`."""
        # The library sends the old field `Checks` only, and takes whole seconds of lock-delay.
        body = {
            "Name": name,
            "LockDelay": f"{lock_delay_s:g}s",
            "Behavior": "release",
            "NodeChecks": [keys.SERF_HEALTH],
            "ServiceChecks": [{"ID": check} for check in checks if check != keys.SERF_HEALTH],
        }

        def create() -> str:
            _, answer = self._send("put", "/v1/session/create", body=body)
            try:
                return str(json.loads(answer)["ID"])
            except (ValueError, KeyError, TypeError):
                raise Unknown(f"Consul answered a session's creation with {answer[:200]!r}") from None

        return self._ask(create)

    def session_destroy(self, session_id: str) -> None:
        """See `Port.session_destroy`."""
        self._ask(lambda: self._consul.session.destroy(session_id))

    def session_list(self, node: str, *, index: int = 0, wait_s: float = 0.0) -> tuple[int, tuple[Session, ...]]:
        """See `Port.session_list`."""
        at, found = self._read(partial(self._consul.session.node, node), index, wait_s)
        return at, tuple(_session(entry) for entry in found or ())

    def lock_acquire(self, key: str, value: bytes, session_id: str) -> bool:
        """See `Port.lock_acquire`. A session that is gone is `Refused`."""
        return bool(self._ask(lambda: self._consul.kv.put(key, value, acquire=session_id)))

    def lock_release(self, key: str, value: bytes, session_id: str) -> bool:
        """See `Port.lock_release`."""
        return bool(self._ask(lambda: self._consul.kv.put(key, value, release=session_id)))

    # -- the local agent ------------------------------------------------------------------------------------------

    def agent_services(self) -> tuple[AgentService, ...]:
        """See `Port.agent_services`."""
        entries = self._ask(lambda: list(self._consul.agent.services().values()))
        # After the answer, which may have made another token the one in force.
        mark = self._agent.token_mark
        found = [_agent_service(entry, mark) for entry in entries]
        return tuple(sorted(found, key=lambda service: service.id))

    def agent_checks(self) -> tuple[AgentCheck, ...]:
        """See `Port.agent_checks`."""
        found = self._ask(lambda: [_agent_check(entry) for entry in self._consul.agent.checks().values()])
        return tuple(sorted(found, key=lambda check: check.check_id))

    def agent_register(self, service: AgentService) -> None:
        """See `Port.agent_register`. Checks stay: `replace-existing-checks` is not given."""
        mark = self._agent.token_mark
        by_token = {TOKEN: mark} if mark else {}
        body = {
            "ID": service.id,
            "Name": service.name,
            "Port": service.port,
            "Address": service.address,
            "Tags": list(service.tags),
            "Meta": {**dict(service.meta), **by_token},
        }
        self._call("put", "/v1/agent/service/register", body=body)

    def agent_register_probe(self, service_id: str, probe: ProbeSpec) -> None:
        """See `Port.agent_register_probe`."""
        body = {
            "ID": probe.check_id,
            "Name": probe.name,
            "ServiceID": service_id,
            "Status": probe.initial_status,
            "HTTP" if probe.kind == "http" else "TCP": probe.target,
            "Interval": f"{probe.interval_s:g}s",
            "Timeout": f"{probe.timeout_s:g}s",
            "FailuresBeforeCritical": probe.failures_before_critical,
        }
        self._call("put", "/v1/agent/check/register", body=body)

    def agent_register_pushed(self, service_id: str, pushed: PushedSpec) -> None:
        """See `Port.agent_register_pushed`."""
        body = {
            "ID": pushed.check_id,
            "Name": pushed.name,
            "ServiceID": service_id,
            "Status": pushed.initial_status,
            "TTL": f"{pushed.ttl_s:.0f}s",
        }
        is_new = all(check.check_id != pushed.check_id for check in self.agent_checks())
        self._call("put", "/v1/agent/check/register", body=body)
        if is_new and pushed.initial_output:
            # A registration carries a status and no output.
            self.agent_push(pushed.check_id, pushed.initial_status, pushed.initial_output)

    def agent_push(self, check_id: str, status: str, output: str) -> None:
        """See `Port.agent_push`. `Refused` when the agent has no such pushed check."""
        # The library's ttl_pass and ttl_fail put the output into the URL.
        self._call("put", f"/v1/agent/check/update/{check_id}", body={"Status": status, "Output": output})

    def agent_deregister(self, service_id: str) -> None:
        """See `Port.agent_deregister`."""
        self._call("put", f"/v1/agent/service/deregister/{service_id}", accept=(200, 404))

    def agent_compare(self, default_token: str) -> None:
        """See `Port.agent_compare`."""
        # There is no call for it alone. A reload sends nothing that is the same as before, be it in the catalog or not;
        # a token that is told compares everything (agent_endpoint.go, AgentToken) where the former one had another
        # value or came from elsewhere: from the agent's files, as after a reload.
        self._call("put", "/v1/agent/reload")
        self._call("put", "/v1/agent/token/default", body={"Token": default_token})

    def agent_sync(self, service_id: str) -> None:
        """See `Port.agent_sync`."""
        # There is no call for it alone: every change made over HTTP ends with it, also one that changes nothing.
        path = f"/v1/agent/service/maintenance/{service_id}"
        self._call("put", path, params=[("enable", "false")], accept=(200, 404))

    def agent_join(self, address: str) -> None:
        """See `Port.agent_join`."""
        self._call("put", f"/v1/agent/join/{address}")

    def node_name(self) -> str:
        """See `Port.node_name`. Asked once: an agent's name does not change while it runs."""
        if self._node is None:
            self._node = str(self._ask(lambda: self._consul.agent.self()["Config"]["NodeName"]))
        return self._node

    # -- how the library is called ----------------------------------------------------------------------------------

    def _read(self, ask: Callable[..., tuple[Any, Any]], index: int = 0, wait_s: float = 0.0) -> tuple[int, Any]:
        """Call the library's `ask` for an indexed answer: of who may give it, and with an `index` waiting `wait_s`."""
        consistency = "stale" if self._stale_reads else "default" if index else "consistent"
        blocking = {"index": index, "wait": f"{max(1, round(wait_s * 1000))}ms"} if index else {}

        def read() -> tuple[Any, Any]:
            answer = ask(consistency=consistency, **blocking)
            if self._stale_reads and not self._agent.leader_known:
                raise Unknown("the local Consul agent knows no leader, its copy may be old")
            return answer

        at, found = self._ask(read, wait_s if index else 0.0)
        return int(at or 0), found

    def _ask(self, ask: Callable[[], T], wait_s: float = 0.0) -> T:
        """Do all that one call is, and tell whoever counts when it fails: everything that fails does so in here."""
        try:
            return self._asked(ask, wait_s)
        except (Unknown, Refused) as problem:
            self._on_failure(problem)
            raise

    def _asked(self, ask: Callable[[], T], wait_s: float) -> T:
        """Call the library with a timeout that fits and with the token that is in force."""
        blocking_s = wait_s + wait_s / 16 + BLOCKING_MARGIN_S if wait_s else self._timeout_s
        self._agent.timeout_s = blocking_s
        try:
            return self._translated(ask)
        except UnknownToken:
            # Nothing was done. A token that was replaced costs no call.
            if not self._agent.has_another_token():
                raise
            return self._translated(ask)

    def _translated(self, ask: Callable[[], T]) -> T:
        """Turn what the library raises into `Unknown` or `Refused`."""
        try:
            return ask()
        except (OSError, HTTPException) as error:
            raise Unknown(f"Consul did not answer: {_short(error)}") from None
        except consul.ConsulException as error:
            kinds = {kind.__name__ for kind in type(error).__mro__}
            raise _unknown_or_refused(str(error), refused=bool(kinds & _REFUSALS)) from None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Unknown(f"Consul's answer makes no sense: {_short(error)}") from None

    def _call(
        self,
        verb: str,
        path: str,
        *,
        params: list[tuple[str, str]] | None = None,
        body: Any = None,
        accept: tuple[int, ...] = (200,),
    ) -> tuple[int, str]:
        """Ask what the library has no method for; returns status and body."""
        return self._ask(lambda: self._send(verb, path, params=params, body=body, accept=accept))

    def _send(
        self,
        verb: str,
        path: str,
        *,
        params: list[tuple[str, str]] | None = None,
        body: Any = None,
        accept: tuple[int, ...] = (200,),
    ) -> tuple[int, str]:
        """Send it through the library's HTTP layer; for use within `_ask`."""
        send = getattr(self._agent, verb)
        data = "" if body is None else json.dumps(body)
        response = send(_as_it_is, path=path, params=params, data=data)
        _raise_for(response.code, response.body, accept)
        return int(response.code), str(response.body)


def _as_it_is(response: Any) -> Any:
    """Be the library's callback that interprets nothing."""
    return response


def _raise_for(code: int, body: str, accept: tuple[int, ...] = (200,)) -> None:
    if code not in accept:
        raise _unknown_or_refused(f"{code} {body}", refused=400 <= code < 500)


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error)[:200]}"


def _unknown_or_refused(text: str, *, refused: bool) -> Exception:
    text = text.strip()[:500]
    if _UNKNOWN_TOKEN in text:
        return UnknownToken(f"Consul does not know the token: {text}")
    if text.startswith("429"):  # Consul's rate limit: a retry may well succeed
        return Unknown(text)
    return Refused(text) if refused or any(part in text for part in _NO_BY_SUBSTRING) else Unknown(text)


def _lost_or_raise(body: str) -> TxnOutcome:
    """Read the errors of a transaction that was rolled back: a precondition that did not hold is LOST."""
    try:
        problems = [str(error["What"]) for error in json.loads(body)["Errors"]]
    except (ValueError, KeyError, TypeError):
        raise Unknown(f"Consul rolled a transaction back without saying why: {body[:200]!r}") from None
    odd = [what for what in problems if not any(part in what for part in _LOST_BY_SUBSTRING)]
    if not odd:
        return TxnOutcome.LOST
    if any(part in what for what in odd for part in _UNKNOWN_BY_SUBSTRING):
        raise Unknown("; ".join(odd))
    raise Refused("; ".join(odd))


def _txn_op(op: TxnOp) -> dict[str, Any]:
    """Return one operation in the form of /v1/txn."""
    if isinstance(op, CasPut):
        return {"Verb": "cas", "Key": op.key, "Value": _base64(op.value), "Index": op.index}
    if isinstance(op, CasDelete):
        return {"Verb": "delete-cas", "Key": op.key, "Index": op.index}
    if isinstance(op, CheckIndex):
        if op.index == 0:
            return {"Verb": "check-not-exists", "Key": op.key}
        return {"Verb": "check-index", "Key": op.key, "Index": op.index}
    if isinstance(op, CheckSession):
        return {"Verb": "check-session", "Key": op.key, "Session": op.session}
    verb = "lock" if isinstance(op, LockPut) else "unlock"
    return {"Verb": verb, "Key": op.key, "Value": _base64(op.value), "Session": op.session}


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


def _pair(entry: Mapping[str, Any]) -> KvPair:
    return KvPair(
        key=entry["Key"],
        value=entry["Value"] or b"",
        modify_index=entry["ModifyIndex"],
        session=entry.get("Session") or None,
        lock_index=entry.get("LockIndex", 0),
        flags=entry.get("Flags", 0),
    )


def _check(entry: Mapping[str, Any]) -> Check:
    return Check(
        node=entry["Node"],
        check_id=entry["CheckID"],
        status=entry["Status"],
        output=entry.get("Output") or "",
        service_id=entry.get("ServiceID") or "",
    )


def _session(entry: Mapping[str, Any]) -> Session:
    bound = [
        *(entry.get("NodeChecks") or ()),
        *(check["ID"] for check in entry.get("ServiceChecks") or ()),
        *(entry.get("Checks") or ()),
    ]
    return Session(id=entry["ID"], name=entry.get("Name") or "", node=entry["Node"], checks=tuple(dict.fromkeys(bound)))


def _agent_service(entry: Mapping[str, Any], token_mark: str) -> AgentService:
    meta = dict(entry.get("Meta") or {})
    by = meta.pop(TOKEN, "")
    return AgentService(
        id=entry["ID"],
        name=entry["Service"],
        port=entry.get("Port") or 0,
        address=entry.get("Address") or "",
        tags=tuple(entry.get("Tags") or ()),
        meta=tuple(sorted(meta.items())),
        by_own_token=by == token_mark,
    )


def _agent_check(entry: Mapping[str, Any]) -> AgentCheck:
    return AgentCheck(
        check_id=entry["CheckID"],
        status=entry["Status"],
        service_id=entry.get("ServiceID") or "",
        output=entry.get("Output") or "",
    )
