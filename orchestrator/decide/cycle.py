"""One decision cycle over the whole fleet."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from orchestrator.decide.case import UNHEARD_S, Case, by_service, reachable_vms
from orchestrator.decide.diagnose import diagnosis
from orchestrator.decide.endpoints import corrected_endpoints
from orchestrator.decide.failback import consider_failback, grace_key
from orchestrator.decide.failover import consider_failover, consider_unready
from orchestrator.decide.founding import Unfounded, consider_unfounded
from orchestrator.decide.gossip import doubts, reached_now
from orchestrator.decide.members import away_members, returned_member, tend_members
from orchestrator.decide.news import news
from orchestrator.decide.progress import progress
from orchestrator.decide.requests import consider_request, endings_of_strangers, refused
from orchestrator.decide.rotation import consider_rotation
from orchestrator.decide.standbys import lacking_standbys, tend_standbys
from orchestrator.decide.tidying import settled_standbys, tidy_commands
from orchestrator.decide.writing import decision
from orchestrator.domain import keys
from orchestrator.domain.decision import Decision, Delete, Diagnosis, Memory, Outcome, Put, Reached
from orchestrator.domain.history import REFUSED_MESSAGE
from orchestrator.domain.policy import Policy
from orchestrator.domain.records import Assignment
from orchestrator.domain.view import Kept, ServiceView, View

Considered = tuple[tuple[Decision, ...], tuple[Diagnosis, ...], float | None]


def decide(view: View, memory: Memory, policy: Policy, now: float) -> Outcome:
    """Decide what to do about everything in the view at the time `now` (wall-clock seconds).

    Never raises on what a view may hold. The caller applies each decision as one transaction, publishes the commands
    of those that were accepted, keeps the returned memory and calls again when the view changes or at `wake_at`.
    """
    decisions = [*endings_of_strangers(view, policy, now), *_strange_triggers(view, now), *_journalled(view)]
    diagnoses: list[Diagnosis] = []
    told: list[Decision] = []
    kept_in_mind = _NextMemory()
    requests, commands = by_service(view.requests), by_service(view.commands)
    up = reachable_vms(view, policy)
    reached = reached_now(memory.reached, frozenset(policy.vms), up, now)
    doubted = doubts(view, reached, now)
    wakes = [doubt.until for doubt in doubted.values()]
    for name in policy.services:
        seen = view.services.get(name) or ServiceView(name)
        asked = requests.get(name, ())
        if isinstance(seen.assignment, Kept):
            sent = commands.get(name, ())
            case = Case(name, view, seen, policy, policy.services[name], seen.assignment, now, up, doubted, asked, sent)
            for complete in (_with_grace, _with_lacking, _with_unready, _with_members):
                case = complete(case, memory)
            made, found, wake_at = _consider(case)
            entries, said = news(case, found[0], memory.announced)
            kept_in_mind.note(case, made, said)
            told.extend(entries)
        else:
            good = memory.last_good.get(name)
            step, what = consider_unfounded(Unfounded(name, view, seen, policy, good, now, asked))
            made, found, wake_at = _some(step), (what,), None
            kept_in_mind.keep(name, good)
        decisions.extend(made)
        diagnoses.extend(found)
        if wake_at is not None:
            wakes.append(wake_at)
    return Outcome(
        decisions=tuple(decisions),
        diagnoses=tuple(diagnoses),
        memory=kept_in_mind.frozen(reached),
        sentence=_sentence(tuple(decisions), tuple(diagnoses)),
        wake_at=min(wakes, default=None),
        news=tuple(told),
    )


def _with_grace(case: Case, memory: Memory) -> Case:
    """Return the case with since when its designated VM has been fit. A service that is at home has no grace."""
    home = case.designated
    if case.active == home or not case.is_fit(home):
        return case
    since = memory.healthy_since.get((case.name, home), case.now)
    announced = grace_key(case.name, home, since) in memory.announced
    return replace(case, fit_since=since, grace_is_announced=announced)


def _with_lacking(case: Case, memory: Memory) -> Case:
    """Return the case with since when its hot standbys that could run have been seen not to."""
    lacking = lacking_standbys(case)
    if not lacking:
        return case
    since = {vm: memory.lacking_since.get((case.name, vm), case.now) for vm in lacking}
    return replace(case, lacking_since=MappingProxyType(since))


def _with_unready(case: Case, memory: Memory) -> Case:
    """Return the case with since when the holder of its role lock has not been ready."""
    if not case.is_unready:
        return case
    return replace(case, unready_since=memory.unready_since.get(case.name, case.now))


def _with_members(case: Case, memory: Memory) -> Case:
    """Return the case with since when members of its cluster are away, and the replaced one is back.

    While there was no quorum nobody was seen: then it counts from its end.
    """
    away, back = away_members(case), returned_member(case)
    if not away and back is None:
        return case
    seen_since = case.view.quorum_since or 0.0
    return replace(
        case,
        away_since=MappingProxyType(
            {vm: max(seen_since, memory.away_since.get((case.name, vm), case.now)) for vm in away}
        ),
        back_since=max(seen_since, memory.back_since.get((case.name, back), case.now)) if back else None,
    )


class _NextMemory:
    """The memory for the next cycle, put together service by service."""

    def __init__(self) -> None:
        self._healthy_since: dict[tuple[str, str], float] = {}
        self._lacking_since: dict[tuple[str, str], float] = {}
        self._unready_since: dict[str, float] = {}
        self._away_since: dict[tuple[str, str], float] = {}
        self._back_since: dict[tuple[str, str], float] = {}
        self._last_good: dict[str, Assignment] = {}
        self._announced: set[str] = set()

    def note(self, case: Case, made: tuple[Decision, ...], said: frozenset[str]) -> None:
        """Keep what the case tells, and the news that count as `said`. A move that ended badly starts the grace of its
        target anew, so that a failing failback is not tried in a circle."""
        self._announced |= said
        self._last_good[case.name] = case.now_assigned
        self._lacking_since.update({(case.name, vm): since for vm, since in case.lacking_since.items()})
        self._away_since.update({(case.name, vm): since for vm, since in case.away_since.items()})
        back = returned_member(case)
        if back is not None and case.back_since is not None:
            self._back_since[case.name, back] = case.back_since
        if case.unready_since is not None:
            self._unready_since[case.name] = case.unready_since
        if case.fit_since is None:
            return
        codes = {decision.code for decision in made}
        since = case.now if codes & {"failed", "cancelled"} else case.fit_since
        self._healthy_since[case.name, case.designated] = since
        if "grace" in codes or (case.grace_is_announced and since == case.fit_since):
            self._announced.add(grace_key(case.name, case.designated, since))

    def keep(self, name: str, good: Assignment | None) -> None:
        """Keep the last good assignment of a service that has none now."""
        if good is not None:
            self._last_good[name] = good

    def frozen(self, reached: Reached) -> Memory:
        """Return the memory."""
        return Memory(
            healthy_since=MappingProxyType(self._healthy_since),
            last_good=MappingProxyType(self._last_good),
            lacking_since=MappingProxyType(self._lacking_since),
            unready_since=MappingProxyType(self._unready_since),
            away_since=MappingProxyType(self._away_since),
            back_since=MappingProxyType(self._back_since),
            announced=frozenset(self._announced),
            reached=reached,
        )


def _consider(case: Case) -> Considered:
    step, found, wake_at = _next_step(case)
    standbys, members = tend_standbys(case, idle=step is None), tend_members(case, idle=step is None)
    decisions = (*standbys.decisions, *members.decisions)
    beside = (*standbys.diagnoses, *members.diagnoses)
    told = beside if found.code == "fine" and beside else (found, *beside)
    wakes = [at for at in (wake_at, standbys.wake_at, members.wake_at) if at is not None]
    return (*tidy_commands(case), *_some(step), *decisions), told, min(wakes, default=None)


def _some(made: Decision | None) -> tuple[Decision, ...]:
    return (made,) if made is not None else ()


def _next_step(case: Case) -> tuple[Decision | None, Diagnosis, float | None]:
    """Return the one next step for the service: the running move first, then what is broken, then what is asked."""
    asked, running = case.asked, case.move
    if running is not None:
        step, found, wake_at = progress(case, running)
        if step is None and asked is not None:
            why = f"a move of {case.name} is running (request {running.value.id})."
            return refused(asked, why, case.now), found, wake_at
        return step, found, wake_at
    since, moved_by = case.now_assigned.since, case.now_assigned.request_id
    if moved_by is not None and not case.has_heard_of(moved_by, since):
        why = f"the request {moved_by} that moved it has not been heard of yet"
        return None, diagnosis("moving", case.name, f"{case.name}: {why}.", because=why), since + UNHEARD_S
    if asked is not None:
        made = consider_request(case, asked)
        return made, diagnosis("moving", case.name, made.sentence, action=made.code), None
    if case.is_down:
        return consider_failover(case)
    return _settle(case)


def _settle(case: Case) -> tuple[Decision | None, Diagnosis, float | None]:
    """The active instance is not down and no move runs: put right what differs, then come home, then rotate."""
    if not case.is_serving:
        return _unlocked(case) if case.unready_since is None else consider_unready(case, case.unready_since)
    correction = corrected_endpoints(case) or settled_standbys(case)
    if case.seen.trigger_index is None and case.active != case.designated:
        step, found, wake_at = consider_failback(case)
        return correction or step, found, wake_at
    rotated, found_rotation, wake_at = consider_rotation(case)
    fine = diagnosis("fine", case.name, f"{case.name} is served by {case.active} at epoch {case.now_assigned.epoch}.")
    return correction or rotated, found_rotation or fine, wake_at


def _unlocked(case: Case) -> tuple[Decision | None, Diagnosis, float | None]:
    """The active is not down, but not seen healthy with the lock either: that takes its guard a moment."""
    why = f"the guard on {case.active} takes the lock as soon as it can"
    epoch = case.now_assigned.epoch
    sentence = f"{case.name} is not seen healthy on {case.active} with the role lock of epoch {epoch}; {why}."
    return None, diagnosis("unlocked", case.name, sentence, because=why), None


def _strange_triggers(view: View, now: float) -> tuple[Decision, ...]:
    return tuple(
        decision(
            "refused",
            now,
            f"{keys.ROTATE}{name} names no service of this fleet; the key is removed.",
            (Delete(f"{keys.ROTATE}{name}", index),),
            about=f"trigger-{number}",
        )
        for number, (name, index) in enumerate(view.strange_triggers, start=1)
    )


def _journalled(view: View) -> tuple[Decision, ...]:
    """Journal what workers have left. They may leave one kind of entry, and none that says it is another."""
    return tuple(
        Decision(
            REFUSED_MESSAGE,
            None,
            kept.value.reason,
            (
                Put(keys.history(kept.value.id), kept.value.with_(kind=REFUSED_MESSAGE, service=None), 0),
                Delete(keys.refused(kept.value.id), kept.index),
            ),
        )
        for kept in view.refused
    )


def _sentence(decisions: tuple[Decision, ...], diagnoses: tuple[Diagnosis, ...]) -> str:
    if decisions:
        return " ".join(made.sentence for made in decisions)
    wrong = [found.sentence for found in diagnoses if found.code != "fine"]
    return " ".join(wrong) if wrong else "All services are served where they should be; nothing to do."
