"""What a guard tells: of each service that concerns its VM, what it holds and what it has done.

In: duties as they end, confirmations of leases; the view of its last look, which is frozen and read when the page is
asked for. Out: counters and gauges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import Counter, Metric
from prometheus_client.registry import Collector

from orchestrator.metrics.page import Metrics, gauge
from orchestrator.node import duties as do
from orchestrator.node.replication.lease import Confirmation
from orchestrator.node.situation import AddressState, LocalView, Situation, UnitState

LEASE = "lease"
FENCES = (do.StopUnit.__name__, do.DropAddress.__name__, do.CloseWrites.__name__, LEASE)
"""By what an instance is fenced: a duty, or the end of a database's lease."""


def is_fence(duty: do.Duty, at: Situation | None) -> bool:
    """Say whether the duty takes away what another VM may have by now.

    A planned move gives its address and its writes up while the role lock is held, and drops an address only after it
    was handed over: that is no fence.
    """
    if at is None:
        return False
    if isinstance(duty, do.DropAddress):
        return at.address is AddressState.UP and not at.lock_mine
    return isinstance(duty, do.StopUnit) or (isinstance(duty, do.CloseWrites) and not at.lock_mine)


class GuardMetrics(Metrics):
    """The registry of a guard."""

    def __init__(self, look: Callable[[], LocalView | None]) -> None:
        """`look` returns the view of the guard's last look; None before the first one."""
        super().__init__("guard")
        self._duties = Counter(
            "orch_guard_duties",
            "Duties carried out, or failed (to be tried again); questions to an instance are not among them.",
            ["service", "duty", "outcome"],
            registry=self.registry,
        )
        self._fences = Counter(
            "orch_guard_fences",
            "Times that this guard took a unit, an address or writes from an instance because another may be active.",
            ["service", "by"],
            registry=self.registry,
        )
        self._counted: set[str] = set()
        """Services whose counter of fences is there."""
        self._confirmations = Counter(
            "orch_guard_lease_confirmations",
            "Questions by which a database's lease is renewed: confirmed, without an answer, or answered that the role "
            "lock is lost.",
            ["service", "outcome"],
            registry=self.registry,
        )
        self.registry.register(OwnVm(look))

    def note_duty(self, duty: do.Duty, at: Situation | None, done: bool) -> None:
        """Take what became of a duty; `at` is the situation that it was made for."""
        if isinstance(duty, do.ProbeNow):
            return
        self._begin_counting(duty.service)
        name = type(duty).__name__
        self._duties.labels(duty.service, name, "done" if done else "failed").inc()
        if done and is_fence(duty, at):
            self._fences.labels(duty.service, name).inc()

    def _begin_counting(self, service: str) -> None:
        """Have the fences at 0 before the first: a counter that begins at 1 shows no increase."""
        if service not in self._counted:
            self._counted.add(service)
            for by in FENCES:
                self._fences.labels(service, by)

    def note_lease_end(self, service: str) -> None:
        """Take that writes were closed because their lease was over."""
        self._fences.labels(service, LEASE).inc()

    def note_confirmation(self, service: str, outcome: Confirmation) -> None:
        """Take what the question for the role lock came to. From the lease's thread."""
        self._confirmations.labels(service, outcome.value).inc()


class OwnVm(Collector):
    """The VM as the guard last saw it, made into metrics when the page is asked for."""

    def __init__(self, look: Callable[[], LocalView | None]) -> None:
        self._look = look

    def collect(self) -> Iterator[Metric]:
        """Return the families."""
        view = self._look()
        if view is None:
            return
        known = "1 while Consul's KV and sessions are known as they are now, else 0: then everything stays as it is."
        yield gauge("orch_guard_consul_fresh", known, (), {(): view.kv_fresh})
        yield from _instances(view)
        yield from _replication(view)


def _instances(view: LocalView) -> Iterator[Metric]:
    found = {at.service: at for at in view.situations}
    yield gauge(
        "orch_guard_role_lock_held",
        "1 while this VM holds the service's role lock, else 0.",
        ("service",),
        {(name,): at.lock_mine for name, at in found.items()},
    )
    yield gauge(
        "orch_guard_instance_healthy",
        "1 while the instance is registered here and none of its checks is critical, else 0.",
        ("service",),
        {(name,): at.registration is not None and at.registration.is_healthy for name, at in found.items()},
    )
    yield gauge(
        "orch_guard_unit_state",
        "1 for what systemd says of the service's unit, 0 for the other states.",
        ("service", "state"),
        {(name, state.value): at.unit.state is state for name, at in found.items() for state in UnitState},
    )
    yield gauge(
        "orch_guard_address_held",
        "1 while the front door's address is up here, else 0.",
        ("service",),
        {
            (name,): at.address is AddressState.UP
            for name, at in found.items()
            if at.policy.front_door is not None and at.policy.front_door.kind != "dns"
        },
    )


def _replication(view: LocalView) -> Iterator[Metric]:
    found = {at.service: at for at in view.situations if at.policy.replication is not None}
    answering = {name: at.data.facts for name, at in found.items() if at.data.facts and at.data.facts.answers}
    yield gauge(
        "orch_guard_replica_in_sync",
        "1 while the copy here is recorded as holding every acknowledged write, else 0.",
        ("service",),
        {(name,): at.data.sync is not None and view.vm in at.data.sync.complete for name, at in found.items()},
    )
    yield gauge(
        "orch_guard_database_answers",
        "1 while the database server here answers its guard, else 0.",
        ("service",),
        {(name,): name in answering for name in found},
    )
    yield gauge(
        "orch_guard_database_writable",
        "1 while the database server here takes writes, else 0.",
        ("service",),
        {(name,): facts.writable for name, facts in answering.items()},
    )
    yield gauge(
        "orch_guard_replica_lag_seconds",
        "Age of what the copy here is applying, by its source's clock; absent while it is not known.",
        ("service",),
        {
            (name,): facts.replica.behind_s
            for name, facts in answering.items()
            if facts.replica is not None and facts.replica.behind_s is not None
        },
    )
