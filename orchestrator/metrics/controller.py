"""What a controller tells: of itself always, of the fleet only while it leads.

In: each `Cycle` as it ends. The newest view and outcome are kept as they are (both are frozen) and read when the page
is asked for. A follower's view would be old: it tells nothing of the fleet, so that each fact has one source.
"""

from __future__ import annotations

import time
from collections import Counter as Tally
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING

from prometheus_client import Counter, Gauge, Histogram, Metric
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from orchestrator.decide.diagnose import DIAGNOSES
from orchestrator.domain.decision import Decision, Memory, Outcome, Put
from orchestrator.domain.policy import Policy
from orchestrator.domain.records import CommandState, Request, RequestKind, RequestState
from orchestrator.domain.view import Kept, Reach, View
from orchestrator.metrics.page import Metrics, gauge

if TYPE_CHECKING:
    from orchestrator.controller import Cycle

Decide = Callable[[View, Memory, Policy, float], Outcome]

STEPS = ("detected", "decided", "assigned", "locked", "endpoints", "finished")
"""The times in a move's record, in their order (`Request.times`)."""
ORIGINS = frozenset({"rule", "message", "key", "cli"})
# A series is kept for ever: what a request may say freely must not make one.
OTHER = "other"
DECIDE_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
MOVE_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0, 300.0)


def step_durations(times: Mapping[str, float]) -> Iterator[tuple[str, float]]:
    """Return each step of a move that is known, with the seconds since the known one before it.

    The clocks of two VMs may disagree by some milliseconds: nothing lasts less than 0 s.
    """
    known = [step for step in STEPS if step in times]
    for before, step in pairwise(known):
        yield step, max(0.0, times[step] - times[before])


def origin_of(request: Request) -> str:
    """Return who wanted it, without the name of a person."""
    kind = request.origin.partition(":")[0]
    return kind if kind in ORIGINS else OTHER


class ControllerMetrics(Metrics):
    """The registry of a controller."""

    def __init__(
        self,
        leads: Callable[[], bool],
        messages_waiting: Callable[[], int] = lambda: 0,
        lines_dropped: Callable[[], int] = lambda: 0,
    ) -> None:
        """All three are asked by the thread that makes the page: they must not block."""
        super().__init__("controller")
        registry = self.registry
        Gauge("orch_controller_leader", "1 on the controller that leads, else 0.", registry=registry).set_function(
            lambda: float(leads())
        )
        Gauge(
            "orch_controller_messages_waiting",
            "Messages of commands that no broker has confirmed yet.",
            registry=registry,
        ).set_function(lambda: float(messages_waiting()))
        self._cycles = Counter(
            "orch_controller_cycles",
            "Cycles of this controller while it led, those without news too.",
            registry=registry,
        )
        self._decide = Histogram(
            "orch_controller_decide_duration_seconds",
            "How long decide() took, without reading and writing.",
            buckets=DECIDE_BUCKETS,
            registry=registry,
        )
        self._decisions = Counter(
            "orch_controller_decisions",
            "Decisions: applied, or overtaken by another write (or without an answer), to be decided anew.",
            ["code", "outcome"],
            registry=registry,
        )
        self._requests = Counter(
            "orch_requests",
            "Requests that got their final state from this controller.",
            ["service", "kind", "origin", "outcome"],
            registry=registry,
        )
        self._moves = Histogram(
            "orch_move_duration_seconds",
            "Of moves that succeeded: from the detection (where somebody asked: the decision) until the traffic was "
            "pointed at the new active.",
            ["kind", "origin"],
            buckets=MOVE_BUCKETS,
            registry=registry,
        )
        self._steps = Histogram(
            "orch_move_step_duration_seconds",
            "Each step of a move that succeeded, since the known step before it.",
            ["kind", "origin", "step"],
            buckets=MOVE_BUCKETS,
            registry=registry,
        )
        self._counted: frozenset[str] = frozenset()
        """Services whose counters are there."""
        self._fleet = Fleet(leads, lines_dropped)
        registry.register(self._fleet)

    def timed(self, decide: Decide) -> Decide:
        """Return the same function, with its duration observed."""

        def timed(view: View, memory: Memory, policy: Policy, now: float) -> Outcome:
            began = time.perf_counter()
            try:
                return decide(view, memory, policy, now)
            finally:
                self._decide.observe(time.perf_counter() - began)

        return timed

    def note(self, cycle: Cycle) -> None:
        """Take what a cycle came to."""
        self._cycles.inc()
        if cycle.view is None or cycle.outcome is None:
            return
        self._fleet.newest = cycle.view, cycle.outcome
        self._begin_counting(frozenset(cycle.view.services))
        for decision in cycle.outcome.decisions:
            outcome = "applied" if decision in cycle.applied else "overtaken"
            self._decisions.labels(decision.code, outcome).inc()
        for decision in cycle.applied:
            self._note_ended(decision, cycle.view)

    def _begin_counting(self, services: frozenset[str]) -> None:
        """Have what rules do at 0 before the first: a counter that begins at 1 shows no increase."""
        for service in services - self._counted:
            for kind in RequestKind:
                for state in (RequestState.SUCCEEDED, RequestState.FAILED):
                    self._requests.labels(service, kind.value, "rule", state.value)
        self._counted |= services

    def _note_ended(self, decision: Decision, view: View) -> None:
        for change in decision.changes:
            if isinstance(change, Put) and isinstance(change.record, Request) and change.record.is_final:
                self._note_request(change.record, view)

    def _note_request(self, request: Request, view: View) -> None:
        service = request.service if request.service in view.services else OTHER
        kind, origin = request.kind.value, origin_of(request)
        self._requests.labels(service, kind, origin, request.state.value).inc()
        times = request.times
        if request.state is not RequestState.SUCCEEDED or "endpoints" not in times:
            return
        began = times.get("detected", times.get("decided", request.created))
        self._moves.labels(kind, origin).observe(max(0.0, times["endpoints"] - began))
        for step, took_s in step_durations(times):
            self._steps.labels(kind, origin, step).observe(took_s)


class Fleet(Collector):
    """The fleet as the leader last saw it, made into metrics when the page is asked for."""

    def __init__(self, leads: Callable[[], bool], lines_dropped: Callable[[], int]) -> None:
        self.newest: tuple[View, Outcome] | None = None
        self._leads = leads
        self._lines_dropped = lines_dropped

    def collect(self) -> Iterator[Metric]:
        """Return the families."""
        dropped = "Cycles that the recorder could not write to its disk."
        yield CounterMetricFamily("orch_controller_recorder_dropped", dropped, value=self._lines_dropped())
        newest = self.newest
        if newest is None or not self._leads():
            return
        view, outcome = newest
        yield from _services(view)
        yield from _diagnoses(view, outcome)
        yield from _vms(view)
        yield from _records(view)


def _services(view: View) -> Iterator[Metric]:
    assigned = {
        name: seen.assignment.value for name, seen in view.services.items() if isinstance(seen.assignment, Kept)
    }
    pairs = [(name, vm) for name in assigned for vm in view.vms]
    yield gauge(
        "orch_service_epoch",
        "Epoch of the service's assignment; every change of the active VM raises it by one.",
        ("service",),
        {(name,): now.epoch for name, now in assigned.items()},
    )
    yield gauge(
        "orch_service_active",
        "1 for the VM on which the service is to be active, 0 for the others.",
        ("service", "vm"),
        {(name, vm): vm == assigned[name].active for name, vm in pairs},
    )
    yield gauge(
        "orch_service_designated",
        "1 for the VM to which the service belongs now, 0 for the others.",
        ("service", "vm"),
        {(name, vm): vm == assigned[name].designated for name, vm in pairs},
    )
    yield gauge(
        "orch_service_served",
        "1 while the active instance is healthy, holds the role lock of the epoch and gets the traffic, else 0.",
        ("service",),
        {(name,): seen.is_served for name, seen in view.services.items()},
    )
    yield gauge(
        "orch_service_hold_until_timestamp_seconds",
        "Until when no automatic move of the service happens, because it failed over too often; 0 without a hold.",
        ("service",),
        {(name,): now.hold_until or 0.0 for name, now in assigned.items()},
    )


def _diagnoses(view: View, outcome: Outcome) -> Iterator[Metric]:
    found = Tally((each.service, each.code) for each in outcome.diagnoses)
    yield gauge(
        "orch_service_diagnosis",
        "1 for what is the matter with the service (docs/failures.md), 0 for what is not.",
        ("service", "code"),
        {(name, code): found[name, code] > 0 for name in view.services for code in DIAGNOSES},
    )
    yield gauge(
        "orch_service_standbys_missing",
        "VMs that should run a standby of the service and have none that is healthy and among the endpoints.",
        ("service",),
        {(name,): found[name, "standby_missing"] for name in view.services},
    )


def _vms(view: View) -> Iterator[Metric]:
    vms = view.vms.items()
    yield gauge(
        "orch_vm_reachable",
        "1 while gossip reaches the VM, else 0.",
        ("vm",),
        {(name,): vm.reach is Reach.UP for name, vm in vms},
    )
    yield gauge(
        "orch_vm_guard_alive",
        "1 while the VM's guard passes its check, else 0.",
        ("vm",),
        {(name,): vm.guard_alive for name, vm in vms},
    )
    yield gauge(
        "orch_vm_maintenance",
        "1 while the VM is in maintenance, else 0.",
        ("vm",),
        {(name,): vm.maintenance is not None for name, vm in vms},
    )


def _records(view: View) -> Iterator[Metric]:
    states = Tally(kept.value.state for kept in view.commands)
    yield gauge(
        "orch_commands",
        "Commands that wait for a worker or run.",
        ("state",),
        {(state.value,): states[state] for state in (CommandState.PENDING, CommandState.RUNNING)},
    )
    unended = sum(1 for kept in view.requests if not kept.value.is_final)
    yield gauge("orch_requests_open", "Requests without a final state.", (), {(): unended})
    yield gauge("orch_paused", "1 while an operator has automation paused, else 0.", (), {(): view.paused is not None})
    unreadable = "Requests, commands, maintenance and rotate keys in Consul's KV that cannot be read."
    yield gauge("orch_records_unreadable", unreadable, (), {(): len(view.unreadable)})
