"""PURE: what the VMs see of each other -> findings: ports, SSH, Consul's DNS, releases of orch.

Of a VM that gossip does not reach nothing is said here: that it is away is a finding already. A port that does not
answer is one only where something should listen there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from orchestrator.doctor.facts import Asked, VmFacts
from orchestrator.doctor.findings import Finding, error, warning
from orchestrator.doctor.judge import what_to_do_about_ssh
from orchestrator.doctor.questions import CONSUL_PORTS, of_services
from orchestrator.domain.policy import Policy
from orchestrator.domain.view import Reach, View

RUNS = ("active", "reloading")


def judge_network(asked: Mapping[str, Asked], here: str, view: View, policy: Policy) -> Iterator[Finding]:
    """Judge what each VM that answered says of the others. `here`: the VM that asked."""
    facts = {vm: answer.facts for vm, answer in asked.items() if answer.facts is not None}
    up = {vm for vm, seen in view.vms.items() if seen.reach is Reach.UP}
    for vm, told in facts.items():
        for other, ports in told.ports.items():
            if other in up:
                yield from _ports(vm, other, ports, facts.get(other), policy)
        for other, hindrance in told.ssh.items():
            # From here it is known already: the other one could not be asked.
            if hindrance and other in up and vm != here:
                wrong = f"its worker cannot log in to {other}: {hindrance}"
                yield error(vm, wrong, what_to_do_about_ssh(other, hindrance))
        if told.dns != policy.vms[vm].address:
            says = f"says {told.dns}" if told.dns else "gives no address"
            wrong = f"Consul's DNS there {says} for {vm}.node.consul, which is {policy.vms[vm].address}"
            yield error(vm, wrong, "`journalctl -u consul -n 50` there; `consul members`.")
    yield from _releases(facts)


def _ports(vm: str, other: str, ports: Mapping[int, str], there: VmFacts | None, policy: Policy) -> Iterator[Finding]:
    services = dict(of_services(vm, other, policy))
    for port, came in ports.items():
        if came == "open":
            continue
        name = services.get(port)
        unit = there.units.get(policy.services[name].unit) if there is not None and name is not None else None
        if port not in CONSUL_PORTS and (unit is None or unit.active not in RUNS):
            continue
        what = "is refused" if came == "refused" else "gets no answer"
        wrong = f"it {what} at {other} port {port} ({name or 'Consul'}), where something listens"
        yield error(vm, wrong, f"`nft list table inet orch` on {other}, and the network between the two.")


def _releases(facts: Mapping[str, VmFacts]) -> Iterator[Finding]:
    versions = {told.orch for told in facts.values()}
    if len(versions) > 1:
        said = ", ".join(f"{vm} has {told.orch}" for vm, told in sorted(facts.items()))
        yield warning("fleet", f"the VMs have different releases of orch: {said}", "run site.yml.")
