"""PURE: a VM's systemd units -> findings, by its roles and by where the services are assigned.

A service that is being moved has its units between two states, which is no fault.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from orchestrator.decide.cluster import Membership, membership_of
from orchestrator.doctor.facts import UnitFacts
from orchestrator.doctor.findings import Finding, error, warning
from orchestrator.domain.policy import Policy
from orchestrator.domain.view import Kept, ServiceView, View

EVERYWHERE = ("orch-firewall", "consul", "consul-template", "orch-guard")
OF_ROLES = {"controller": ("orch-controller",), "worker": ("orch-worker", "orch-playbooks-sync.timer")}


def judge_units(vm: str, units: Mapping[str, UnitFacts], view: View, policy: Policy) -> Iterator[Finding]:
    """Judge the VM's units by its roles and by the assignments."""
    roles = policy.vms[vm].roles
    own = (name for name, facts in units.items() if _is_own(name) and facts.load != "not-found")
    for unit in dict.fromkeys((*EVERYWHERE, *(unit for role in roles for unit in OF_ROLES[role]), *own)):
        facts = units.get(unit)
        if facts is not None:
            yield from _always_on(vm, unit, facts)
    for name, service in policy.services.items():
        facts = units.get(service.unit)
        if facts is not None:
            yield from _as_assigned(vm, name, facts, view.services[name], view, policy)


def _is_own(unit: str) -> bool:
    return unit.startswith("orch-proxy@") or unit.endswith(".timer")


def _always_on(vm: str, unit: str, facts: UnitFacts) -> Iterator[Finding]:
    if facts.load == "not-found":
        yield error(vm, f"there is no unit {unit}", "run site.yml.")
        return
    if facts.active not in ("active", "reloading", "activating"):
        yield error(vm, f"{unit} is {facts.active}", f"`journalctl -u {unit} -n 50` there; `systemctl start {unit}`.")
    if facts.enabled != "enabled":
        wrong = f"{unit} is {facts.enabled or 'not enabled'}: it will not start with the VM"
        yield warning(vm, wrong, f"`systemctl enable {unit}` there.")


def _as_assigned(
    vm: str, name: str, facts: UnitFacts, seen: ServiceView, view: View, policy: Policy
) -> Iterator[Finding]:
    service = policy.services[name]
    if not isinstance(seen.assignment, Kept) or any(kept.value.service == name for kept in view.requests):
        # Without an assignment nobody can say; while it is moved, units are between two states.
        return
    now = seen.assignment.value
    may_run, must_run, at_boot = now.may_run_on(vm), now.active == vm, now.designated == vm
    if service.standby == "hot" and vm in service.order:
        may_run, must_run, at_boot = True, view.vms[vm].maintenance is None or must_run, True
    if service.cluster is not None:
        members = membership_of(service.cluster, seen)
        if not isinstance(members, Membership):
            return
        may_run = at_boot = vm in members.members
        must_run = may_run and view.vms[vm].maintenance is None
    runs = facts.active in ("active", "reloading", "activating", "deactivating")
    unit = service.unit
    if facts.load == "not-found":
        if vm in service.order:
            yield error(vm, f"there is no unit {unit}, so {name} cannot run here", "run pre_install_services.yml.")
        return
    if must_run and not runs:
        yield error(vm, f"{unit} is {facts.active}, and {name} is to run here", f"`orch why {name}`.")
    if runs and not may_run:
        wrong = f"{unit} runs although {name} is assigned to {now.active}"
        yield error(vm, wrong, f"the guard here stops it: `journalctl -u orch-guard -n 50`; `systemctl stop {unit}`.")
    if at_boot and facts.enabled != "enabled":
        wrong = f"{unit} is {facts.enabled or 'not enabled'}: {name} will not start here with the VM"
        yield warning(vm, wrong, f"`systemctl enable {unit}` there.")
    if not at_boot and facts.enabled == "enabled":
        wrong = f"{unit} is enabled, and {name} is designated to {now.designated}: it would start here with the VM"
        yield warning(vm, wrong, f"`systemctl disable {unit}` there.")
