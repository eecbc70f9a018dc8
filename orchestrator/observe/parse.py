"""Stage 1, PURE: Consul's raw answers -> the frozen `View` that decisions look at.

In: KV pairs and checks as read, and the policy in force. Out: a `View`, for whatever bytes the keys hold; nothing
here raises. Must never turn a value that cannot be read into an absent one: it becomes `Unreadable`, and where the
key's mere existence matters (paused, maintenance, rotate) it keeps its effect.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from types import MappingProxyType
from typing import TypeVar

from orchestrator.domain import keys
from orchestrator.domain.policy import Policy
from orchestrator.domain.records import (
    Assignment,
    Command,
    Endpoints,
    HistoryEntry,
    LockValue,
    Maintenance,
    Members,
    Paused,
    Record,
    Release,
    Request,
    Rotation,
    Sync,
)
from orchestrator.domain.view import (
    InstanceState,
    InstanceView,
    Kept,
    Load,
    LockView,
    Reach,
    ServiceView,
    Unreadable,
    View,
    VmView,
)
from orchestrator.store.port import Check, KvPair, is_unasked
from orchestrator.store.records import kept_policy, problem_in

R = TypeVar("R", bound=Record)

PASSING, CRITICAL = "passing", "critical"
MAX_OUTPUT = 200
# By then the pause before the next start has its greatest length (`decide.standbys`).
MAX_STARTS = 6
BY_NOBODY_KNOWN = "unknown"


def parse_policy(pair: KvPair | None) -> Kept[Policy] | Unreadable | None:
    """Read `orch/config`: the policy, or why it is none, or None where the key is absent."""
    return None if pair is None else kept_policy(pair)


def parse_view(pairs: Iterable[KvPair], checks: Iterable[Check], policy: Policy) -> View:
    """Build the view. Keys that are not orch's, services and VMs that the policy does not know are left out."""
    by_key = {pair.key: pair for pair in pairs}
    of_vm: dict[str, dict[str, str]] = {vm: {} for vm in policy.vms}
    of_service: dict[str, dict[str, list[Check]]] = {}
    for check in checks:
        if check.node in of_vm:
            of_vm[check.node][check.check_id] = check.status
            of_service.setdefault(check.service_id, {}).setdefault(check.node, []).append(check)
    unreadable: list[Unreadable] = []
    requests, ended, starts = _requests(by_key, unreadable)
    brokers = _instances(of_service.get(keys.BROKER_SERVICE, {}))
    release = _read(by_key.get(keys.RELEASE), Release)
    if isinstance(release, Unreadable):
        unreadable.append(release)
    return View(
        vms=_frozen({vm: _vm_view(vm, of_vm[vm], by_key, unreadable) for vm in policy.vms}),
        services=_frozen(
            {
                name: replace(
                    _service_view(name, by_key, of_service.get(keys.instance_service_id(name), {}), unreadable),
                    brokers=brokers if service.cluster else _frozen({}),
                )
                for name, service in policy.services.items()
            }
        ),
        requests=requests,
        ended_requests=ended,
        ended_starts=starts,
        commands=_commands_of_interest(by_key, {kept.value.id for kept in requests}, unreadable),
        release=release,
        paused=_paused(by_key, unreadable),
        refused=_refused(by_key, unreadable),
        unreadable=tuple(unreadable),
        strange_triggers=_strange_triggers(by_key, policy),
    )


def telling(checks: Iterable[Check]) -> tuple[Check, ...]:
    """Return the checks with no more of them than a view shows: the output of an instance's check that does not pass.

    All others print something else at every look (a load, an age, a counter), which is no news.
    """
    return tuple(
        check if check.output == "" or (check.status != PASSING and check.service_id) else replace(check, output="")
        for check in checks
    )


# -- records ----------------------------------------------------------------------------------------------------


def _read(pair: KvPair | None, record_type: type[R]) -> Kept[R] | Unreadable | None:
    """Read a pair as the record, which must be the one that its key names."""
    if pair is None:
        return None
    record = _record_in(record_type, pair.value)
    problem = record if isinstance(record, str) else _misplaced(pair.key, record)
    if problem is not None:
        return Unreadable(pair.key, pair.modify_index, problem, pair.session)
    assert not isinstance(record, str)
    return Kept(record, pair.modify_index, pair.session)


# A view is built anew after each change, and nearly all of its records are the ones of the view before.
@lru_cache(maxsize=4096)
def _record_in(record_type: type[R], value: bytes) -> R | str:
    try:
        return record_type.from_json(value)
    except ValueError as error:
        return problem_in(error)


def _misplaced(key: str, record: Record) -> str | None:
    """Say what is wrong when the record names another service or id than its key does."""
    named: str | None = None
    in_key = key
    if isinstance(record, Assignment | Endpoints | Rotation | Sync | Members):
        named, in_key = record.service, key.removeprefix(keys.SERVICES).split("/")[0]
    elif isinstance(record, Request):
        named, in_key = record.id, key.removeprefix(keys.REQUESTS)
    elif isinstance(record, Command):
        named, in_key = record.id, key.removeprefix(keys.COMMANDS)
    elif isinstance(record, HistoryEntry):
        named, in_key = record.id, key.removeprefix(keys.REFUSED)
    if named is None or named == in_key:
        return None
    return f"it is of {named[:80]!r}, its key of {in_key[:80]!r}"


def _under(by_key: Mapping[str, KvPair], prefix: str) -> Iterator[KvPair]:
    """Yield the pairs under the prefix; the prefix itself is a folder that Consul's UI makes, not a record."""
    return (pair for key, pair in by_key.items() if key.startswith(prefix) and key != prefix)


# -- services ---------------------------------------------------------------------------------------------------


def _service_view(
    name: str,
    by_key: Mapping[str, KvPair],
    checks: Mapping[str, Sequence[Check]],
    unreadable: list[Unreadable],
) -> ServiceView:
    trigger = by_key.get(keys.rotate(name))
    return ServiceView(
        name=name,
        assignment=_read(by_key.get(keys.assignment(name)), Assignment),
        lock=_lock_view(by_key.get(keys.lock(name)), unreadable),
        endpoints=_read(by_key.get(keys.endpoints(name)), Endpoints),
        rotation=_read(by_key.get(keys.rotation(name)), Rotation),
        sync=_read(by_key.get(keys.sync(name)), Sync),
        members=_read(by_key.get(keys.members(name)), Members),
        trigger_index=trigger.modify_index if trigger else None,
        trigger_value=trigger.value.decode("utf-8", "replace")[:MAX_OUTPUT] if trigger else "",
        instances=_instances(checks),
    )


def _instances(checks: Mapping[str, Sequence[Check]]) -> Mapping[str, InstanceView]:
    return _frozen({vm: _instance(vm, of_instance) for vm, of_instance in checks.items()})


def _lock_view(pair: KvPair | None, unreadable: list[Unreadable]) -> LockView | None:
    if pair is None:
        return None
    value = _read(pair, LockValue)
    if isinstance(value, Kept):
        return LockView(value.value, pair.session, pair.modify_index)
    # A free lock that nobody has written to yet is empty, which is no fault.
    if value is not None and (pair.value or pair.session):
        unreadable.append(value)
    return LockView(None, pair.session, pair.modify_index)


def _instance(vm: str, checks: Sequence[Check]) -> InstanceView:
    """Say what the checks of a registered instance (at least one) mean together."""
    unasked = [check for check in checks if is_unasked(check)]
    failing = [check for check in checks if check.status == CRITICAL and check not in unasked]
    telling = failing or [check for check in checks if check.status != PASSING]
    output = "; ".join(_one_line(check) for check in telling)[:MAX_OUTPUT]
    if failing:
        return InstanceView(vm, InstanceState.FAILED, output)
    return InstanceView(vm, InstanceState.UNKNOWN if unasked else InstanceState.HEALTHY, output)


def _one_line(check: Check) -> str:
    if is_unasked(check):
        return f"{check.check_id} has not been made since the Consul agent started"
    said = " ".join(check.output.split())
    return f"{check.check_id} is {check.status}: {said}" if said else f"{check.check_id} is {check.status}"


# -- VMs ----------------------------------------------------------------------------------------------------------


def _vm_view(vm: str, status: Mapping[str, str], by_key: Mapping[str, KvPair], unreadable: list[Unreadable]) -> VmView:
    alive = status.get(keys.daemon_check_id("guard"), CRITICAL) != CRITICAL
    return VmView(
        name=vm,
        reach=Reach.UP if status.get(keys.SERF_HEALTH, CRITICAL) != CRITICAL else Reach.DOWN,
        load=_load(status.get(keys.LOAD_CHECK)),
        guard_alive=alive,
        maintenance=_maintenance(by_key.get(keys.maintenance(vm)), unreadable),
    )


def _load(status: str | None) -> Load:
    if status is None:
        return Load.UNKNOWN
    return Load.NORMAL if status == PASSING else Load.HIGH


def _maintenance(pair: KvPair | None, unreadable: list[Unreadable]) -> Maintenance | None:
    """Return why the VM is excluded. The key's existence does that, whatever it holds."""
    found = _read(pair, Maintenance)
    if not isinstance(found, Unreadable):
        return found.value if found else None
    unreadable.append(found)
    return Maintenance(by=BY_NOBODY_KNOWN, at=0.0, reason=f"{found.key} cannot be read: {found.problem}")


def _paused(by_key: Mapping[str, KvPair], unreadable: list[Unreadable]) -> Paused | None:
    """Return why automation is off. The key's existence does that, whatever it holds."""
    found = _read(by_key.get(keys.PAUSED), Paused)
    if not isinstance(found, Unreadable):
        return found.value if found else None
    unreadable.append(found)
    return Paused(by=BY_NOBODY_KNOWN, at=0.0, reason=f"{found.key} cannot be read: {found.problem}")


# -- requests, commands, triggers -----------------------------------------------------------------------------------


def _requests(
    by_key: Mapping[str, KvPair], unreadable: list[Unreadable]
) -> tuple[tuple[Kept[Request], ...], frozenset[str], tuple[Request, ...]]:
    """Return the open requests, the ids of the ended ones, and the last of those that are no moves."""
    found: list[Kept[Request]] = []
    ended: set[str] = set()
    starts: list[Request] = []
    for pair in _under(by_key, keys.REQUESTS):
        kept = _read(pair, Request)
        if isinstance(kept, Unreadable):
            unreadable.append(kept)
        elif kept is not None and kept.value.is_final:
            ended.add(kept.value.id)
            if not kept.value.is_move:
                starts.append(kept.value)
        elif kept is not None:
            found.append(kept)
    by_age = tuple(sorted(found, key=lambda kept: (kept.value.created, kept.value.id)))
    return by_age, frozenset(ended), _last_starts(starts)


def _last_starts(starts: Iterable[Request]) -> tuple[Request, ...]:
    """Return the last `MAX_STARTS` of each kind, service and VM, oldest first."""
    by_place: dict[tuple[str, str, str | None], list[Request]] = {}
    for request in sorted(starts, key=lambda request: (request.updated, request.id)):
        by_place.setdefault((request.kind.value, request.service, request.target), []).append(request)
    return tuple(request for some in by_place.values() for request in some[-MAX_STARTS:])


def _commands_of_interest(
    by_key: Mapping[str, KvPair], open_requests: set[str], unreadable: list[Unreadable]
) -> tuple[Kept[Command], ...]:
    found: list[Kept[Command]] = []
    for pair in _under(by_key, keys.COMMANDS):
        kept = _read(pair, Command)
        if isinstance(kept, Unreadable):
            unreadable.append(kept)
        elif kept is not None and (not kept.value.is_final or kept.value.request_id in open_requests):
            found.append(kept)
    return tuple(sorted(found, key=lambda kept: (kept.value.created, kept.value.id)))


def _refused(by_key: Mapping[str, KvPair], unreadable: list[Unreadable]) -> tuple[Kept[HistoryEntry], ...]:
    found: list[Kept[HistoryEntry]] = []
    for pair in _under(by_key, keys.REFUSED):
        kept = _read(pair, HistoryEntry)
        if isinstance(kept, Unreadable):
            unreadable.append(kept)
        elif kept is not None:
            found.append(kept)
    return tuple(sorted(found, key=lambda kept: kept.value.id))


def _strange_triggers(by_key: Mapping[str, KvPair], policy: Policy) -> tuple[tuple[str, int], ...]:
    named = ((pair.key.removeprefix(keys.ROTATE), pair.modify_index) for pair in _under(by_key, keys.ROTATE))
    return tuple(sorted((name, index) for name, index in named if name not in policy.services))


K = TypeVar("K")
V = TypeVar("V")


def _frozen(mapping: dict[K, V]) -> Mapping[K, V]:
    return MappingProxyType(mapping)
