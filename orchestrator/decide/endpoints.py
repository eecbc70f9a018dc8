"""Endpoints: what traffic is pointed at, which is never empty and never an instance without the role lock."""

from __future__ import annotations

from functools import lru_cache

from orchestrator.decide.case import Case, index_of, readable
from orchestrator.decide.writing import of_case
from orchestrator.domain import keys
from orchestrator.domain.decision import Decision, Put
from orchestrator.domain.records import Endpoint, Endpoints


# Each cycle compares the endpoints of every service, and nearly all are what they were.
@lru_cache(maxsize=65536)
def _row(vm: str, address: str, port: int, backup: bool) -> Endpoint:
    return Endpoint(vm=vm, address=address, port=port, backup=backup)


def _endpoint(case: Case, vm: str, backup: bool) -> Endpoint:
    return _row(vm, case.policy.vms[vm].address, case.service.port, backup)


def endpoints_wanted(case: Case) -> Endpoints:
    """Return the active first, then the healthy hot standbys as backups (nginx retries them)."""
    backups = [
        vm
        for vm in case.service.order
        if case.is_hot and vm != case.active and case.is_healthy_on(vm) and not case.in_maintenance(vm)
    ]
    rows = (_endpoint(case, case.active, False), *(_endpoint(case, vm, True) for vm in backups))
    return Endpoints(service=case.name, epoch=case.now_assigned.epoch, endpoints=rows)


def endpoints_are_current(case: Case) -> bool:
    """Say whether traffic is pointed at the active at this epoch (backups may still differ)."""
    kept = readable(case.seen.endpoints)
    if kept is None or kept.value.epoch != case.now_assigned.epoch:
        return False
    return kept.value.endpoints[0] == _endpoint(case, case.active, False)


def put_endpoints(case: Case) -> Put:
    """Return the write of the endpoints as they are wanted now."""
    return Put(keys.endpoints(case.name), endpoints_wanted(case), index_of(case.seen.endpoints))


def corrected_endpoints(case: Case) -> Decision | None:
    """Return the correction where a serving active is not what is pointed at, or the backups changed."""
    kept = readable(case.seen.endpoints)
    wanted = endpoints_wanted(case)
    if not case.is_serving or (kept is not None and kept.value == wanted):
        return None
    named = ", ".join(f"{row.vm}{' (backup)' if row.backup else ''}" for row in wanted.endpoints)
    journal = not endpoints_are_current(case)
    return of_case(
        case, "endpoints", f"Traffic of {case.name} is pointed at {named}.", put_endpoints(case), journal=journal
    )
