"""Reading the fleet: two reads of Consul become the view that the leader would decide on, and the policy in force.

In: a port. Out: a frozen `Fleet`, or `Stop` where there is no policy to read it by. Never writes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

from tenacity import retry, retry_if_exception_type, stop_after_attempt

from orchestrator.cli.app import App
from orchestrator.cli.exits import Exit, Stop, refuse
from orchestrator.cli.policy_file import Faults, policy_of
from orchestrator.decide.failback import grace_key
from orchestrator.domain import keys
from orchestrator.domain.decision import Memory
from orchestrator.domain.policy import Policy
from orchestrator.domain.records import HistoryEntry, LockValue, Record
from orchestrator.domain.view import Unreadable, View
from orchestrator.observe.parse import parse_view
from orchestrator.store.port import Check, KvPair, Port, Unknown
from orchestrator.store.records import problem_in

# A move that ended badly starts the grace anew, any other makes it needless.
ENDS_A_GRACE = frozenset({"failed", "cancelled", "superseded", "succeeded"})

R = TypeVar("R", bound=Record)

NO_POLICY = "there is no policy yet; write one with `orch config apply FILE`."


@dataclass(frozen=True)
class Fleet:
    """The fleet at one moment, as Consul told it."""

    view: View
    policy: Policy
    leader: str | None
    at: float
    index: int
    pairs: tuple[KvPair, ...]
    checks: tuple[Check, ...]

    @property
    def memory(self) -> Memory:
        """What the leader remembers of graces, as far as its journal tells: it is asked what it would do with them."""
        since: dict[tuple[str, str], float] = {}
        entries, _ = records_under(keys.HISTORY, HistoryEntry, self.pairs)
        for entry in entries:
            if entry.service is None:
                continue
            if entry.kind == "grace" and entry.vm is not None:
                since[entry.service, entry.vm] = entry.at
            elif entry.kind in ENDS_A_GRACE:
                since = {key: at for key, at in since.items() if key[0] != entry.service}
        announced = frozenset(grace_key(service, vm, at) for (service, vm), at in since.items())
        return Memory(healthy_since=MappingProxyType(since), announced=announced)

    def is_alive(self, daemon: str, vm: str) -> bool:
        """Say whether the daemon's liveness check passes on the VM (and the VM can be reached)."""
        wanted = {keys.daemon_check_id(daemon), keys.SERF_HEALTH}
        passing = {c.check_id for c in self.checks if c.node == vm and c.status != "critical"}
        return wanted <= passing


@dataclass(frozen=True)
class NoPolicy:
    """Why the fleet cannot be shown: nothing says what it consists of."""

    sentence: str
    faults: tuple[str, ...] = ()

    def as_stop(self) -> Stop:
        """Return what a verb that needs a policy ends with."""
        if self.faults:
            return Stop(Exit.BROKEN_INPUT, self.sentence, {"faults": list(self.faults)})
        return refuse(self.sentence)


def read_fleet(app: App) -> Fleet:
    """Read the fleet now; ends the verb where there is no valid policy."""
    fleet = look(app.port, app.now())
    if isinstance(fleet, NoPolicy):
        raise fleet.as_stop()
    return fleet


def unknown_service(service: str, policy: Policy) -> Stop:
    """Return the refusal of a service that the policy does not have."""
    return refuse(f"{service} is not a service of this fleet; its services are {', '.join(policy.services)}.")


def check_service(app: App, service: str | None, mentioned: Iterable[str | None]) -> None:
    """End the verb where nobody knows the service: neither what is to be shown (it may tell of one that the fleet
    had) nor the policy in force."""
    if service is None or service in mentioned:
        return
    _, pair = app.port.kv_get(keys.CONFIG)
    policy = policy_of(pair.value) if pair else None
    if isinstance(policy, Policy) and service not in policy.services:
        raise unknown_service(service, policy)


# A read that was sent to a Raft leader whose VM has just died hangs; the second one waits for the next leader.
@retry(retry=retry_if_exception_type(Unknown), stop=stop_after_attempt(2), reraise=True)
def look(port: Port, at: float, *, index: int = 0, wait_s: float = 0.0) -> Fleet | NoPolicy:
    """Read the fleet, with `index` after the next change in KV or after `wait_s`."""
    found_index, pairs = port.kv_list(keys.ROOT, index=index, wait_s=wait_s)
    _, checks = port.checks()
    return fleet_of(pairs, checks, at, index=found_index)


def fleet_of(pairs: tuple[KvPair, ...], checks: tuple[Check, ...], at: float, *, index: int = 0) -> Fleet | NoPolicy:
    """Put together what Consul said."""
    config = next((pair for pair in pairs if pair.key == keys.CONFIG), None)
    if config is None:
        return NoPolicy(NO_POLICY)
    policy = policy_of(config.value)
    if isinstance(policy, Faults):
        first = policy.sentences[0]
        more = f" (and {len(policy.sentences) - 1} more)" if len(policy.sentences) > 1 else ""
        return NoPolicy(
            f"the policy in {keys.CONFIG} is not valid: {first}{more}; the daemons go on with the last good one. "
            "`orch config show` lists every fault.",
            policy.sentences,
        )
    return Fleet(parse_view(pairs, checks, policy), policy, leader_of(pairs), at, index, pairs, checks)


def leader_of(pairs: Iterable[KvPair]) -> str | None:
    """Return the VM whose controller leads now."""
    pair = next((pair for pair in pairs if pair.key == keys.LEADER), None)
    if pair is None or pair.session is None:
        return None
    try:
        return LockValue.from_json(pair.value).vm
    except ValueError:
        return "somebody who does not say where"


def records_under(prefix: str, kind: type[R], pairs: Iterable[KvPair]) -> tuple[list[R], list[Unreadable]]:
    """Read every record under the prefix, oldest first (ids sort by time), and what could not be read."""
    good: list[R] = []
    bad: list[Unreadable] = []
    for pair in pairs:
        # The prefix itself is a folder that Consul's UI makes, not a record.
        if pair.key.startswith(prefix) and pair.key != prefix:
            try:
                good.append(kind.from_json(pair.value))
            except ValueError as error:
                bad.append(Unreadable(pair.key, pair.modify_index, problem_in(error), pair.session))
    return good, bad
