"""Which VMs gossip calls unreachable without being believed yet.

In: the view, who is reachable, what is remembered. Out: a `Doubt` for each of them, and what to remember of the VMs.

Servers that did not see each other hold each other for failed, and say so to all others in the moment in which they
meet again: then VMs that are well count as unreachable until they have answered that, some 0.1 s later (measured on the
lab: in one of fifteen returns of a VM whose link was cut). A check that fails is believed at any time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from orchestrator.domain.decision import Reached
from orchestrator.domain.view import View

# After a lost quorum many may have to answer, and the Raft leader may be one that was cut off itself.
QUORUM_SETTLES_S = 6.0
# A VM that returns tells what it held the others for within its first second.
RETURN_SETTLES_S = 3.0
SECOND_MUST_LAST_S = 1.0
"""So long must a VM be unreachable to be believed while another one is too, or has just returned."""
NAMED = 2
"""More VMs are not named in a sentence."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """Why gossip is not believed, and until when at the latest."""

    why: str
    until: float


def reached_now(before: Reached, vms: frozenset[str], up: frozenset[str], now: float) -> Reached:
    """Return what is to be remembered of these VMs."""
    down = {vm: before.down_since.get(vm, now) for vm in sorted(vms - up)}
    returned = {vm: now for vm in sorted(up) if vm in before.down_since}
    recent = {vm: at for vm, at in before.returned_at.items() if vm in up and now < at + RETURN_SETTLES_S}
    return Reached(MappingProxyType(down), MappingProxyType({**recent, **returned}))


def doubts(view: View, reached: Reached, now: float) -> Mapping[str, Doubt]:
    """Return the doubt about each VM that is unreachable without being believed to be."""
    quorum = view.quorum_since
    if quorum is not None and now < quorum + QUORUM_SETTLES_S:
        why = (
            f"Consul has had a quorum again for only {max(0.0, now - quorum):.1f} s, "
            "so what it says of VMs may be from before"
        )
        return MappingProxyType(dict.fromkeys(reached.down_since, Doubt(why, quorum + QUORUM_SETTLES_S)))
    recent = {vm: since for vm, since in reached.down_since.items() if now < since + SECOND_MUST_LAST_S}
    if not recent:
        return MappingProxyType({})
    cut_off = sorted({*reached.returned_at, *reached.down_since})
    found = {vm: _second(vm, since, cut_off) for vm, since in recent.items() if cut_off != [vm]}
    return MappingProxyType(found)


def _second(vm: str, since: float, cut_off: Sequence[str]) -> Doubt:
    """Return the doubt about a VM that is not the only one that gossip has lately lost."""
    others = [other for other in cut_off[: NAMED + 1] if other != vm][:NAMED]
    more = " and others" if len(cut_off) > len(others) + 1 else ""
    why = (
        f"{' and '.join(others)}{more} is or was cut off and may be what says so, "
        f"so {vm} has {SECOND_MUST_LAST_S:g} s to show that it is there"
    )
    return Doubt(why, since + SECOND_MUST_LAST_S)
