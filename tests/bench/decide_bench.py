"""How long `decide()` takes, and how that grows with the fleet: `python -m tests.bench.decide_bench [--json FILE]`.

Every fleet has four VMs to a service and ten services to each four VMs, so that 1,000 VMs have 10,000 instances.
Two states are timed: all is well, and one VM in fifty has just failed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from types import MappingProxyType

from orchestrator.decide import decide
from orchestrator.domain.decision import Memory
from orchestrator.domain.policy import Policy
from orchestrator.domain.records import Assignment, Endpoint, Endpoints, LockValue, MoveKind, Rotation
from orchestrator.domain.view import InstanceState, InstanceView, Kept, LockView, Reach, ServiceView, View, VmView

NOW = 1_700_000_000.0
VMS_OF_A_SERVICE = 4
SIZES = (4, 40, 100, 250, 500, 1000)
ROUNDS = 7


def policy_of(vms: int) -> Policy:
    """Return a policy with 2.5 services for each VM."""
    names = [f"vm-{n}" for n in range(vms)]
    order = [[names[(start * VMS_OF_A_SERVICE + n) % vms] for n in range(VMS_OF_A_SERVICE)] for start in range(vms)]
    return Policy.model_validate(
        {
            "vms": {
                name: {"address": f"10.{n // 250}.{n % 250}.1", "roles": ["controller", "worker"]}
                for n, name in enumerate(names)
            },
            "services": {
                f"service-{n}": {
                    "order": order[n % vms][n % 4 :] + order[n % vms][: n % 4],
                    "unit": f"unit-{n}",
                    "port": 80,
                    "standby": "hot",
                    "check": {"kind": "http"},
                    "activate": "up.yml",
                    "deactivate": "down.yml",
                }
                for n in range(vms * 10 // VMS_OF_A_SERVICE)
            },
        }
    )


def view_of(policy: Policy, down: frozenset[str]) -> View:
    """Return the fleet in its steady state, but for the VMs that are down."""
    services = {}
    for name, service in policy.services.items():
        home = service.home
        rows = tuple(
            Endpoint(vm=vm, address=policy.vms[vm].address, port=80, backup=vm != home) for vm in service.order
        )
        assignment = Assignment(
            service=name,
            active=home,
            designated=home,
            standbys=service.order[1:],
            epoch=3,
            since=NOW,
            kind=MoveKind.FAILBACK,
            reason="bench",
        )
        services[name] = ServiceView(
            name=name,
            assignment=Kept(assignment, 5),
            lock=LockView(LockValue(vm=home, epoch=3), None if home in down else "session", 6),
            endpoints=Kept(Endpoints(service=name, epoch=3, endpoints=rows), 7),
            rotation=Kept(Rotation(service=name, order=service.order, next_due=NOW + 3600), 8),
            instances=MappingProxyType({vm: InstanceView(vm, InstanceState.HEALTHY) for vm in service.order}),
        )
    vms = {vm: VmView(vm, Reach.DOWN if vm in down else Reach.UP) for vm in policy.vms}
    return View(vms=MappingProxyType(vms), services=MappingProxyType(services))


def timed(view: View, policy: Policy) -> tuple[float, int]:
    """Return the median time of one call in ms, and how many decisions it makes."""
    memory = decide(view, Memory(), policy, NOW).memory
    took, decisions = [], 0
    for _ in range(ROUNDS):
        began = time.perf_counter()
        # Long enough after the first look for gossip to be believed.
        decisions = len(decide(view, memory, policy, NOW + 10).decisions)
        took.append((time.perf_counter() - began) * 1000)
    return statistics.median(took), decisions


def growth() -> list[dict[str, float]]:
    """Time every size and print the table as it grows; returns what it shows."""
    rows: list[dict[str, float]] = []
    print(
        f"{'VMs':>6} {'instances':>10} {'all well, ms':>13} {'1 in 50 down, ms':>17} {'decisions':>10}", file=sys.stderr
    )
    for vms in SIZES:
        policy = policy_of(vms)
        instances = len(policy.services) * VMS_OF_A_SERVICE
        well_ms, _ = timed(view_of(policy, frozenset()), policy)
        hurt_ms, decisions = timed(view_of(policy, frozenset(f"vm-{n}" for n in range(0, vms, 50))), policy)
        rows.append(
            {"vms": vms, "instances": instances, "well_ms": well_ms, "hurt_ms": hurt_ms, "decisions": decisions}
        )
        print(
            f"{vms:>6} {instances:>10} {well_ms:>13.2f} {hurt_ms:>17.2f} {decisions:>10}", file=sys.stderr, flush=True
        )
    return rows


def main() -> int:
    """Time every size, print the table, write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    chosen = parser.parse_args()
    rows = growth()
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(rows, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
