"""The fleet's policy changed for a while: other times, another kind of standby, applied like any operator would."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

from deploy.machines.lab import Lab
from deploy.trials.status import fleet_status, settle, witness_of

# The services that can be cold or hot; data is always copied to a hot standby, brokers always run.
EITHER = ("backend", "frontend")
# Long enough for two failed checks to show, short enough to repeat many trials.
GRACE_S = 2.0


def policy_now(lab: Lab, vm: str | None = None) -> dict[str, Any]:
    """Return the policy in force."""
    return dict(json.loads(lab.run(vm or witness_of(lab), ["orch", "--json", "config", "show"]).stdout))


def apply_policy(lab: Lab, policy: dict[str, Any], vm: str | None = None) -> None:
    """Apply the policy with `orch config apply`, from a file in the VM."""
    vm = vm or witness_of(lab)
    lab.run(vm, ["tee", "/run/orch-trial-policy.json"], text_input=json.dumps(policy))
    lab.run(vm, ["orch", "config", "apply", "/run/orch-trial-policy.json"])


def end_holds(lab: Lab, say: Callable[[str], None]) -> None:
    """Acknowledge every hold that earlier failovers have left: a service that is held would not be moved."""
    for name, service in fleet_status(lab).get("services", {}).items():
        if service.get("hold_until"):
            say(f"{name} is held after too many failovers: acknowledging that (`orch resume {name}`)")
            lab.run(witness_of(lab), ["orch", "resume", name, "--wait", "--timeout", "30"], timeout_s=60)


@contextlib.contextmanager
def policy_with(
    lab: Lab, *, standby: str = "cold", grace_s: float = GRACE_S, max_failovers: int = 1000
) -> Iterator[dict[str, Any]]:
    """Run the block under a policy with these values, then put the former one back. `standby`: of the services without
    data of their own."""
    before = policy_now(lab)
    changed = json.loads(json.dumps(before))
    for name in EITHER:
        changed["services"][name]["standby"] = standby
    changed["failback"]["grace_s"] = grace_s
    changed["flapping"]["max_failovers"] = min(max_failovers, 100)
    changed["flapping"]["window_s"] = 60.0
    try:
        apply_policy(lab, changed)
        settle(lab)
        yield changed
    finally:
        apply_policy(lab, before)
