"""The reference fleet with every kind of record in KV, all of them right."""

from __future__ import annotations

import json
from typing import Any

from orchestrator.domain import keys
from orchestrator.domain.policy import Policy
from orchestrator.domain.records import (
    Assignment,
    Command,
    CommandState,
    Endpoint,
    Endpoints,
    LockValue,
    Maintenance,
    Members,
    MoveKind,
    Paused,
    Play,
    Record,
    Release,
    Request,
    RequestKind,
    RequestState,
    Rotation,
    Sync,
)
from orchestrator.store.port import Check, KvPair
from tests.simulation.world import policy_document

NOW = 1_700_000_000.0
DOCUMENT: dict[str, Any] = policy_document("hot", 60.0, 86400.0, lease_s=1.0)
MEMBERS = ("backend-server", "messaging-server", "database-server")
DOCUMENT["services"]["backend"]["cluster"] = {
    "kind": "rabbitmq",
    "members": list(MEMBERS),
    "spare": "frontend-server",
    "replace_after_s": 300.0,
    "change": "change_member.yml",
}
POLICY = Policy.model_validate(DOCUMENT)
SERVICES, VMS = tuple(POLICY.services), tuple(POLICY.vms)
ASKED, MOVING, STARTED = (f"{int(NOW * 1000) - n:013d}-backend-r{n}" for n in (1, 2, 3))
PENDING = f"{int(NOW * 1000) - 1:013d}-frontend-c1"
RUNNING = f"{int(NOW * 1000) - 2:013d}-backend-c2"


def _of_service(name: str) -> dict[str, Record]:
    order = POLICY.services[name].order
    home, second = order
    row = Endpoint(vm=home, address=POLICY.vms[home].address, port=POLICY.services[name].port)
    return {
        keys.assignment(name): Assignment(
            service=name,
            active=home,
            designated=home,
            standbys=(second,),
            epoch=4,
            since=NOW - 500,
            kind=MoveKind.FAILOVER,
            reason="test",
            failovers=(NOW - 50,),
            hold_until=NOW - 10,
        ),
        keys.lock(name): LockValue(vm=home, epoch=4, at=NOW - 499),
        keys.endpoints(name): Endpoints(service=name, epoch=4, endpoints=(row,)),
        keys.rotation(name): Rotation(service=name, order=order, index=0, last=NOW - 900, next_due=NOW + 900),
    }


def _request(request_id: str, **more: Any) -> Request:
    fields = {"kind": RequestKind.FAILOVER, "service": "backend", "created": NOW - 5, "updated": NOW - 5, **more}
    return Request(id=request_id, **fields)


def _command(command_id: str, service: str, **more: Any) -> Command:
    policy = POLICY.services[service]
    return Command(
        id=command_id,
        request_id=MOVING,
        service=service,
        kind=MoveKind.FAILOVER,
        play=Play.ACTIVATE,
        playbook=policy.activate,
        target=policy.order[1],
        unit=policy.unit,
        epoch=4,
        created=NOW - 4,
        **more,
    )


RECORDS: dict[str, Record] = {
    **{key: record for name in SERVICES for key, record in _of_service(name).items()},
    keys.sync("database"): Sync(
        service="database",
        primary="database-server",
        epoch=4,
        complete=("database-server",),
        since=NOW - 300,
        reason="test",
    ),
    keys.RELEASE: Release(digest="d1" * 32, at=NOW - 300, by="ana@desk", orch="0.1.0"),
    keys.members("backend"): Members(
        service="backend",
        members=("backend-server", "messaging-server", "frontend-server"),
        joining="frontend-server",
        leaving="database-server",
        since=NOW - 300,
        reason="test",
    ),
    keys.request(ASKED): _request(ASKED, target="messaging-server", origin="cli:anna@desk", redesignate=True),
    keys.request(MOVING): _request(MOVING, state=RequestState.RUNNING, epoch=4, times={"decided": NOW - 4}),
    keys.request(STARTED): _request(
        STARTED, kind=RequestKind.STANDBY, state=RequestState.FAILED, target="messaging-server", outcome="it failed"
    ),
    keys.command(PENDING): _command(PENDING, "frontend"),
    keys.command(RUNNING): _command(
        RUNNING,
        "backend",
        state=CommandState.RUNNING,
        worker="messaging-server",
        attempt=1,
        claimed=NOW - 3,
        tail=("ok",),
    ),
}
"""Every kind of record of a fleet that is at work."""
SWITCHES: dict[str, Record] = {
    keys.PAUSED: Paused(by="anna@desk", at=NOW - 9, reason="test"),
    keys.maintenance("messaging-server"): Maintenance(by="anna@desk", at=NOW - 9, reason="test"),
}
"""Records whose existence alone excludes something."""
HELD = {
    **{keys.lock(name): f"of-{name}" for name in SERVICES},
    keys.command(RUNNING): "of-the-worker",
}


def document_of(record: Record) -> dict[str, Any]:
    """Return the record as JSON says it, with what is absent there as null."""
    document: dict[str, Any] = json.loads(record.model_dump_json())
    return document


def pairs_with(key: str | None = None, value: bytes = b"") -> tuple[KvPair, ...]:
    """Return what Consul would, with the value at the key."""
    texts = {each: record.to_json().encode() for each, record in RECORDS.items()}
    if key is not None:
        texts[key] = value
    return tuple(KvPair(each, text, n, HELD.get(each)) for n, (each, text) in enumerate(texts.items(), start=10))


def checks_without(*down: str) -> tuple[Check, ...]:
    """Return the checks of a fleet in which these VMs have gone."""
    of_vms = [
        Check(vm, check, "critical" if vm in down else "passing", "")
        for vm in VMS
        for check in (keys.SERF_HEALTH, keys.LOAD_CHECK, keys.daemon_check_id("guard"))
    ]
    of_instances = [
        Check(vm, probe_id, "critical" if vm in down else "passing", "said", keys.instance_service_id(name))
        for name, service in POLICY.services.items()
        for vm in service.order
        for probe_id in (keys.probe_check_id(name), keys.unit_check_id(name))
    ]
    return tuple(of_vms + of_instances)
