"""One decision cycle over the whole fleet."""

from __future__ import annotations

from types import MappingProxyType

from orchestrator.decide.case import Case
from orchestrator.decide.diagnose import diagnosis
from orchestrator.decide.endpoints import corrected_endpoints
from orchestrator.decide.failback import consider_failback, grace_key
from orchestrator.decide.failover import consider_failover
from orchestrator.decide.founding import consider_founding, consider_repair
from orchestrator.decide.moves import progress, settled_standbys, tidy_commands
from orchestrator.decide.requests import consider_request, pending_of, refusals_of_strangers, refused
from orchestrator.decide.rotation import consider_rotation
from orchestrator.decide.writing import decision
from orchestrator.domain import keys
from orchestrator.domain.decision import Decision, Delete, Diagnosis, Memory, Outcome
from orchestrator.domain.policy import Policy
from orchestrator.domain.view import InstanceState, Kept, Reach, Unreadable, View

Considered = tuple[tuple[Decision, ...], Diagnosis, float | None]


def decide(view: View, memory: Memory, policy: Policy, now: float) -> Outcome:
    """Decide what to do about everything in the view at the time `now` (wall-clock seconds).

    Never raises on what a view may hold. The caller applies each decision as one transaction, publishes the commands
    of those that were accepted, keeps the returned memory and calls again when the view changes or at `wake_at`.
    """
    memory = _remembered(view, memory, policy, now)
    decisions: list[Decision] = [*refusals_of_strangers(view, policy, now), *_strange_triggers(view, now)]
    diagnoses: list[Diagnosis] = []
    wakes: list[float] = []
    for name in policy.services:
        made, found, wake_at = _consider(name, view, memory, policy, now)
        decisions.extend(made)
        diagnoses.append(found)
        if wake_at is not None:
            wakes.append(wake_at)
    return Outcome(
        decisions=tuple(decisions),
        diagnoses=tuple(diagnoses),
        memory=_announced(view, memory, policy, now, tuple(decisions)),
        sentence=_sentence(tuple(decisions), tuple(diagnoses)),
        wake_at=min(wakes, default=None),
    )


def _remembered(view: View, memory: Memory, policy: Policy, now: float) -> Memory:
    healthy_since, last_good = {}, dict(memory.last_good)
    for name, seen in view.services.items():
        for vm, instance in seen.instances.items():
            up = vm in view.vms and view.vms[vm].reach is Reach.UP
            if up and instance.state is InstanceState.HEALTHY:
                healthy_since[name, vm] = memory.healthy_since.get((name, vm), now)
        if isinstance(seen.assignment, Kept):
            last_good[name] = seen.assignment.value
    return Memory(
        healthy_since=MappingProxyType(healthy_since),
        last_good=MappingProxyType({name: last_good[name] for name in last_good if name in policy.services}),
        announced=memory.announced,
    )


def _consider(name: str, view: View, memory: Memory, policy: Policy, now: float) -> Considered:
    seen = view.services[name]
    if seen.assignment is None:
        founded, found = consider_founding(name, view, policy, now)
        return _some(founded), found, None
    if isinstance(seen.assignment, Unreadable):
        repaired, found = consider_repair(name, seen.assignment, seen, memory, policy, now)
        return _some(repaired), found, None
    case = Case(name, view, seen, policy, policy.services[name], seen.assignment, memory, now)
    step, found, wake_at = _next_step(case)
    return (*tidy_commands(case), *_some(step)), found, wake_at


def _some(made: Decision | None) -> tuple[Decision, ...]:
    return (made,) if made is not None else ()


def _next_step(case: Case) -> tuple[Decision | None, Diagnosis, float | None]:
    """Return the one next step for the service: the running move first, then what is broken, then what is asked."""
    asked = pending_of(case.view, case.name)
    running = case.move
    if running is not None:
        step, found, wake_at = progress(case, running)
        if step is None and asked is not None:
            why = f"a move of {case.name} is running (request {running.value.id})."
            return refused(asked, why, case.now), found, wake_at
        return step, found, wake_at
    if asked is not None:
        made = consider_request(case, asked)
        return made, diagnosis("moving", case.name, made.sentence, action=made.code), None
    if case.is_down:
        return consider_failover(case)
    return _settle(case)


def _settle(case: Case) -> tuple[Decision | None, Diagnosis, float | None]:
    """The active instance is not down and no move runs: put right what differs, then come home, then rotate."""
    correction = settled_standbys(case) or corrected_endpoints(case)
    if not case.is_serving:
        why = f"{case.active} is healthy and its guard will take the lock"
        sentence = f"{case.name} is healthy on {case.active} without the role lock of epoch {case.now_assigned.epoch}."
        return correction, diagnosis("unlocked", case.name, sentence, because=why), None
    if case.seen.trigger_index is None and case.active != case.designated:
        step, found, wake_at = consider_failback(case)
        return correction or step, found, wake_at
    rotated, found_rotation, wake_at = consider_rotation(case)
    fine = diagnosis("fine", case.name, f"{case.name} is served by {case.active} at epoch {case.now_assigned.epoch}.")
    return correction or rotated, found_rotation or fine, wake_at


def _strange_triggers(view: View, now: float) -> tuple[Decision, ...]:
    return tuple(
        decision(
            "refused",
            now,
            f"{keys.ROTATE}{name} names no service of this fleet; the key is removed.",
            (Delete(f"{keys.ROTATE}{name}", index),),
        )
        for name, index in view.strange_triggers
    )


def _announced(view: View, memory: Memory, policy: Policy, now: float, made: tuple[Decision, ...]) -> Memory:
    """Note the graces that are reported in this cycle, and forget those that are over.

    A move that ended badly starts the grace of its target anew, so that a failing failback is not tried in a circle.
    """
    healthy_since = dict(memory.healthy_since)
    for ended in made:
        if ended.code == "failed":
            for vm in policy.services[str(ended.service)].order:
                if (str(ended.service), vm) in healthy_since:
                    healthy_since[str(ended.service), vm] = now
    announced = set()
    for name, seen in view.services.items():
        if not isinstance(seen.assignment, Kept):
            continue
        case = Case(name, view, seen, policy, policy.services[name], seen.assignment, memory, now)
        since = case.healthy_since(case.designated)
        if since is not None and case.active != case.designated:
            key = grace_key(case, since)
            started = any(d.code == "grace" and d.service == name for d in made)
            if started or key in memory.announced:
                announced.add(key)
    return Memory(MappingProxyType(healthy_since), memory.last_good, frozenset(announced))


def _sentence(decisions: tuple[Decision, ...], diagnoses: tuple[Diagnosis, ...]) -> str:
    if decisions:
        return " ".join(made.sentence for made in decisions)
    wrong = [found.sentence for found in diagnoses if found.code != "fine"]
    return " ".join(wrong) if wrong else "All services are served where they should be; nothing to do."
