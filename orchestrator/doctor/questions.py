"""PURE: what each VM is asked to look at, from the policy: units of services, and the ports that it needs elsewhere.

The ports are those that the deployment's firewall opens (ansible/inventory/group_vars/all/firewall.yml): what a VM
does not need is not tried, since it is rightly refused.
"""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.doctor.facts import Question
from orchestrator.domain.policy import Policy, ServicePolicy

# Gossip, and calls between servers (all VMs are).
CONSUL_PORTS = (8300, 8301)
# Erlang's own, between the members of a cluster.
CLUSTER_PORTS = (4369, 25672)


def questions_for(policy: Policy) -> dict[str, Question]:
    """Return each VM's question."""
    addresses = {name: vm.address for name, vm in policy.vms.items()}
    units = tuple(service.unit for service in policy.services.values())
    return {vm: Question(vms=addresses, units=units, ports=ports_needed_by(vm, policy)) for vm in policy.vms}


def ports_needed_by(vm: str, policy: Policy) -> dict[str, tuple[int, ...]]:
    """Return, of each other VM, the ports that this one needs there whenever something listens."""
    return {
        other: (*CONSUL_PORTS, *sorted({port for port, _ in of_services(vm, other, policy)}))
        for other in policy.vms
        if other != vm
    }


def of_services(vm: str, other: str, policy: Policy) -> set[tuple[int, str]]:
    """Return the ports of services that the VM needs on the other one, each with the service it is of."""
    found: set[tuple[int, str]] = set()
    for name, service in policy.services.items():
        members = members_of(service)
        if other in members and _asks(vm, service, policy.services):
            found.add((service.port, name))
        if service.cluster is not None and {vm, other} <= members:
            found |= {(port, name) for port in CLUSTER_PORTS}
    return found


def members_of(service: ServicePolicy) -> set[str]:
    """Return the VMs on which the service may run."""
    cluster = service.cluster
    spare = {cluster.spare} if cluster is not None and cluster.spare is not None else set()
    return {*service.order, *(cluster.members if cluster is not None else ()), *spare}


def _asks(vm: str, service: ServicePolicy, services: Mapping[str, ServicePolicy]) -> bool:
    """Say whether the VM connects to the service: each one to databases and brokers, by its local proxies; to what has
    no front door, the VMs whose front end asks it."""
    if service.replication is not None or service.cluster is not None or service.front_door is not None:
        return True
    return any(vm in each.order for each in services.values() if each.front_door is not None)
