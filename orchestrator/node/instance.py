"""PURE: how an instance is written into Consul and read from it, and what its `:unit` check says.

In: a `Situation`. Out: values of `store.port` and sentences for people. No I/O, no clock.
"""

from __future__ import annotations

from datetime import datetime, timezone

from orchestrator.domain import keys
from orchestrator.domain.policy import ServicePolicy
from orchestrator.domain.records import LockValue
from orchestrator.domain.view import LockView
from orchestrator.node.situation import Registration, Situation, UnitState, UnitStatus
from orchestrator.store.port import AgentService, KvPair, ProbeSpec, PushedSpec

KEPT_BY = "orch-guard"
"""Value of the meta key `kept_by`: the guard touches no registration without it."""

# Ten years: a guard that died must be no fault of the service, so the pushed check never expires by itself.
PUSHED_TTL_S = 10 * 365 * 24 * 3600.0

Meta = tuple[tuple[str, str], ...]


def session_name(service: str, vm: str) -> str:
    """Return the name under which a restarted guard finds its session again."""
    return f"orch-guard:{service}@{vm}"


def role_tag(situation: Situation, vm: str, *, lock_held: bool) -> str:
    """Return the one tag of the instance: `active`, `standby` (hot) or `candidate`."""
    assignment = situation.assignment
    if assignment is not None and assignment.active == vm and lock_held:
        return "active"
    if situation.policy.standby == "hot" and assignment is not None and vm in assignment.standbys:
        return "standby"
    return "candidate"


def meta_of(situation: Situation, vm: str) -> Meta:
    """Return the metadata that tells people the epoch and lets the guard see that the probe's definition changed."""
    epoch = situation.assignment.epoch if situation.assignment else 0
    return tuple(
        sorted(
            {
                "epoch": str(epoch),
                "kept_by": KEPT_BY,
                "probe": probe_words(situation.policy, situation.vm_address),
                "service": situation.service,
                "vm": vm,
            }.items()
        )
    )


def agent_service(situation: Situation, vm: str, tag: str) -> AgentService:
    """Return the instance as it is to be registered."""
    service_id = keys.instance_service_id(situation.service)
    return AgentService(
        id=service_id,
        name=service_id,
        port=situation.policy.port,
        address=situation.vm_address,
        tags=(tag,),
        meta=meta_of(situation, vm),
    )


def probe_port(policy: ServicePolicy) -> int:
    """Return the port that the probe asks."""
    return policy.check.port or policy.port


def probe_target(policy: ServicePolicy, address: str) -> str:
    """Return what the agent's probe asks: a URL or host:port on the VM's own address."""
    host = f"[{address}]" if ":" in address else address
    place = f"{host}:{probe_port(policy)}"
    return f"http://{place}{policy.check.path}" if policy.check.kind == "http" else place


def probe_words(policy: ServicePolicy, address: str) -> str:
    """Return the probe's definition as one comparable line."""
    check = policy.check
    return (
        f"{check.kind} {probe_target(policy, address)} every {check.interval_s:g} s, timeout {check.timeout_s:g} s, "
        f"critical after {check.failures_before_critical}"
    )


def probe_spec(situation: Situation, status: str) -> ProbeSpec:
    """Return the check that the agent runs."""
    check = situation.policy.check
    return ProbeSpec(
        check_id=keys.probe_check_id(situation.service),
        name=f"{situation.service} answers",
        kind=check.kind,
        target=probe_target(situation.policy, situation.vm_address),
        interval_s=check.interval_s,
        timeout_s=check.timeout_s,
        failures_before_critical=check.failures_before_critical,
        initial_status=status,
    )


def pushed_spec(situation: Situation, status: str) -> PushedSpec:
    """Return the check that the guard pushes; what it says is pushed when the lock is taken: traffic first."""
    return PushedSpec(
        check_id=keys.unit_check_id(situation.service),
        name=f"{situation.service} unit {situation.policy.unit}",
        ttl_s=PUSHED_TTL_S,
        initial_status=status,
    )


def probe_differs(situation: Situation, registration: Registration) -> bool:
    """Say whether the registered probe is another than the policy's."""
    return dict(registration.meta).get("probe") != probe_words(situation.policy, situation.vm_address)


def describe_unit(unit: str, status: UnitStatus) -> str:
    """Return the sentence that the `:unit` check shows, e.g. `node-app is active (running) since …, PID 123`."""
    if status.state is UnitState.ABSENT:
        return f"{unit} is not installed: systemd knows no such unit"
    if status.state is UnitState.UNKNOWN:
        return f"{unit}: systemd could not be asked"
    words = [f"{unit} is {status.words or status.state.value}"]
    if status.since:
        at = datetime.fromtimestamp(status.since, tz=timezone.utc)
        words.append(f" since {at:%Y-%m-%d %H:%M:%S} UTC")
    if status.pid:
        words.append(f", PID {status.pid}")
    if status.result and status.result != "success":
        words.append(f", result: {status.result}")
    return "".join(words)


def lock_view(pair: KvPair) -> LockView:
    """Return the lock; a value that cannot be read is None, the session that holds it still counts."""
    try:
        value = LockValue.from_json(pair.value)
    except ValueError:
        value = None
    return LockView(value, pair.session, pair.modify_index)
