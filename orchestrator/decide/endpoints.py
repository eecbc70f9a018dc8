"""Endpoints: what traffic is pointed at, which is never empty and never an instance without the role lock."""

from __future__ import annotations

from orchestrator.decide.case import Case, index_of, readable
from orchestrator.decide.writing import of_case
from orchestrator.domain import keys
from orchestrator.domain.decision import Decision, Put
from orchestrator.domain.records import Endpoint, Endpoints
from orchestrator.domain.view import Kept

Row = tuple[str, str, int, bool]
"""VM, address, port, backup."""


def _row(case: Case, vm: str, backup: bool) -> Row:
    return vm, case.policy.vms[vm].address, case.service.port, backup


def rows_wanted(case: Case) -> tuple[Row, ...]:
    """Return the active first, then the healthy hot standbys as backups (nginx retries them).

    Never a standby of a replicated service: it takes no write.
    """
    if case.is_replicated:
        return (_row(case, case.active, False),)
    backups = [vm for vm in case.hot_standbys if vm in case.healthy and not case.in_maintenance(vm)]
    return (_row(case, case.active, False), *[_row(case, vm, True) for vm in backups])


def _rows_now(kept: Kept[Endpoints] | None, epoch: int) -> tuple[Row, ...]:
    """Return what traffic is pointed at in this epoch: nothing where that was written in another one."""
    if kept is None or kept.value.epoch != epoch:
        return ()
    return tuple([(row.vm, row.address, row.port, row.backup) for row in kept.value.endpoints])


def endpoints_are_current(case: Case) -> bool:
    """Say whether traffic is pointed at the active at this epoch (backups may still differ)."""
    rows = _rows_now(readable(case.seen.endpoints), case.now_assigned.epoch)
    return rows[:1] == (_row(case, case.active, False),)


def put_endpoints(case: Case) -> Put:
    """Return the write of the endpoints as they are wanted now."""
    rows = tuple(Endpoint(vm=vm, address=ip, port=port, backup=backup) for vm, ip, port, backup in rows_wanted(case))
    record = Endpoints(service=case.name, epoch=case.now_assigned.epoch, endpoints=rows)
    return Put(keys.endpoints(case.name), record, index_of(case.seen.endpoints))


def corrected_endpoints(case: Case) -> Decision | None:
    """Return the correction where a serving active is not what is pointed at, or the backups changed."""
    if not case.is_serving:
        return None
    wanted = rows_wanted(case)
    if _rows_now(readable(case.seen.endpoints), case.now_assigned.epoch) == wanted:
        return None
    named = ", ".join(f"{vm}{' (backup)' if backup else ''}" for vm, _, _, backup in wanted)
    journal = not endpoints_are_current(case)
    return of_case(
        case, "endpoints", f"Traffic of {case.name} is pointed at {named}.", put_endpoints(case), journal=journal
    )
