"""The old system's JSON document -> a policy. Pure.

The old document names VMs by address and says of a service only where it runs, how it was checked and which play
started it. What the fleet has in force stays, but for order and rotation; where nothing is in force, the rest is
assumed as in the reference fleet. Whatever is assumed, kept or left out is returned as a note.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orchestrator.cli.inventory import Vms
from orchestrator.cli.policy_file import Faults, fault_sentences, policy_of
from orchestrator.domain.document import BrokenDocument, json_document_in
from orchestrator.domain.policy import Policy, ServicePolicy
from orchestrator.domain.sentence import one_line
from orchestrator.domain.wire import OLD_SERVICE_NAMES


class NotConvertible(Exception):
    """The document cannot be converted; the message is one sentence."""

    def __init__(self, sentence: str) -> None:
        super().__init__(one_line(sentence))


class _Old(BaseModel):
    # What is not known is kept, so that a note can say that it was left out.
    model_config = ConfigDict(frozen=True, extra="allow")


class _OldService(_Old):
    primary_vm: str
    secondary_vms: tuple[str, ...] = ()
    check_command: str = ""
    activate_command: str = ""


class _OldRotation(_Old):
    enabled: bool = False
    interval_hours: float = 24.0
    exclude_services: tuple[str, ...] = ()


class _OldDocument(_Old):
    services: dict[str, _OldService] = Field(min_length=1)
    round_robin: _OldRotation = _OldRotation()


@dataclass(frozen=True, slots=True)
class _Known:
    """What the reference fleet knows of a service (design.md, the table of services)."""

    unit: str
    port: int
    path: str | None


_KNOWN = {
    "database": _Known("mysql", 3306, None),
    "messaging": _Known("rabbitmq-server", 5672, None),
    "frontend": _Known("nginx", 80, "/orch-health"),
    "backend": _Known("node-app", 3000, "/health"),
}
_UNIT_IN_CHECK = re.compile(r"systemctl\s+(?:-\S+\s+)*(?:is-active|status)\s+(?:-\S+\s+)*([A-Za-z0-9:_.@-]+)")
_PLAY_IN_COMMAND = re.compile(r"(\S+\.ya?ml)")


def converted(text: str | bytes, vms: Vms, in_force: Policy | None) -> tuple[Policy, tuple[str, ...]]:
    """Return the policy and the notes; raises `NotConvertible`."""
    old = _old_document(text)
    names = _names_of(old)
    notes = [f"{was} is called {name} here." for was, name in names.items() if was != name]
    strange = list(_strangers(old))
    if strange:
        notes.append(f"not carried over, as nothing here corresponds to it: {', '.join(strange)}.")
    name_of = {str(vm["address"]): name for name, vm in vms.items()} | {name: name for name in vms}
    if in_force is None:
        services = {name: _assumed(name, was, old.services[was], name_of, notes) for was, name in names.items()}
        document: dict[str, Any] = {"version": 1, "services": services}
        notes.append(_needed_plays(services))
    else:
        document = in_force.model_dump(mode="json")
        document["services"] |= _with_old_orders(in_force, names, old, name_of, notes)
    document |= {"vms": dict(vms), "rotation": _rotation(old, names, document, notes)}
    policy = policy_of(json.dumps(document))
    if isinstance(policy, Faults):
        raise NotConvertible(f"what it says makes no valid policy: {'; '.join(policy.sentences)}")
    return policy, tuple(one_line(note) for note in notes)


def vms_of_policy(policy: Policy | None) -> Vms:
    """Return the VMs of the policy in force; without one the inventory must say who is who."""
    if policy is None:
        raise NotConvertible("it names VMs by address, and there is no policy in KV that names them; give --inventory.")
    return {name: vm.model_dump(mode="json") for name, vm in policy.vms.items()}


def _old_document(text: str | bytes) -> _OldDocument:
    try:
        document = json_document_in(text)
    except BrokenDocument as broken:
        raise NotConvertible(str(broken)) from None
    if not isinstance(document, dict) or not document.get("services"):
        raise NotConvertible("it is not the old document: it has no services.")
    try:
        return _OldDocument.model_validate(document)
    except ValidationError as error:
        raise NotConvertible(f"{'; '.join(fault_sentences(error))}.") from None


def _names_of(old: _OldDocument) -> dict[str, str]:
    """Return what each of its services is called here, by its old name."""
    names = {was: OLD_SERVICE_NAMES.get(was, was) for was in old.services}
    for was, name in names.items():
        twin = next((other for other, same in names.items() if same == name and other != was), None)
        if twin is not None:
            raise NotConvertible(f"services.{was} and services.{twin} are one service here, {name}: leave one out.")
    return names


def _strangers(old: _OldDocument) -> Iterator[str]:
    """Name every field that the old system did not have, or that this one has no use for."""
    yield from sorted(old.model_extra or {})
    for name, entry in old.services.items():
        yield from (f"services.{name}.{field}" for field in sorted(entry.model_extra or {}))
    yield from (f"round_robin.{field}" for field in sorted(old.round_robin.model_extra or {}))


def _with_old_orders(
    in_force: Policy, names: Mapping[str, str], old: _OldDocument, name_of: Mapping[str, str], notes: list[str]
) -> dict[str, Any]:
    """Return the services in force with the old document's orders."""
    found = {name: service.model_dump(mode="json") for name, service in in_force.services.items()}
    for was, name in names.items():
        entry = old.services[was]
        order = _order(f"services.{was}", entry, name_of)
        if name not in found:
            notes.append(
                f"{name}: left out: the fleet has no plays for it; services in force are {', '.join(found)}. To have "
                "it moved too, add it to orch_services with its plays, deploy, and import again."
            )
            continue
        found[name]["order"] = order
        notes.append(f"{name}: its order is the old one; everything else of it stays as it is in force.")
        notes += _not_taken_over(name, entry, in_force.services[name])
    notes += [
        f"{name}: it is not in the old document and stays as it is in force."
        for name in found
        if name not in names.values()
    ]
    notes.append("failback, flapping, load, dispatch and drain_s stay as they are in force.")
    return found


def _not_taken_over(name: str, entry: _OldService, service: ServicePolicy) -> Iterator[str]:
    """Say where the old document has another unit, check or play than the policy in force."""
    unit = _unit_of(entry)
    if entry.check_command and unit is None:
        yield f"{name}: its check_command ({entry.check_command}) is not taken over; it is probed as it is now."
    elif unit is not None and unit != service.unit:
        yield f"{name}: its check_command asks for the unit {unit}; its unit stays {service.unit}."
    play = _play_of(entry)
    if entry.activate_command and play is None:
        yield f"{name}: its activate_command ({entry.activate_command}) is not taken over; {service.activate} stays."
    elif play is not None and play != service.activate:
        yield f"{name}: its activate_command names {play}; its play stays {service.activate}."


def _assumed(name: str, was: str, entry: _OldService, name_of: Mapping[str, str], notes: list[str]) -> dict[str, Any]:
    """Return a service as the reference fleet has it."""
    known = _KNOWN.get(name)
    if known is None:
        names = ", ".join((*_KNOWN, *OLD_SERVICE_NAMES))
        raise NotConvertible(f"services.{was}: the old document does not say what {name} is; known are {names}.")
    unit, activate = _unit_of(entry), _play_of(entry)
    if unit is None:
        notes.append(f"{name}: its check_command names no unit; {known.unit} is assumed.")
    if activate is None:
        activate = f"activate_{name}.yml"
        notes.append(f"{name}: its activate_command names no activate_*.yml; {activate} is assumed.")
    probed = f"http {known.path}" if known.path else "tcp"
    notes.append(f"{name}: port {known.port}, probed by {probed}, cold standby are assumed.")
    if name == "frontend":
        notes.append("frontend: no front door; set services.frontend.front_door to give clients one address.")
    return {
        "order": _order(f"services.{was}", entry, name_of),
        "unit": unit or known.unit,
        "port": known.port,
        "check": {"kind": "http", "path": known.path} if known.path else {"kind": "tcp"},
        "activate": activate,
        "deactivate": activate.replace("activate_", "deactivate_", 1),
    }


def _needed_plays(services: Mapping[str, Mapping[str, Any]]) -> str:
    plays = ", ".join(f"{entry['activate']}, {entry['deactivate']}" for entry in services.values())
    return f"nothing is in force yet: before you apply this, ansible/playbooks must have {plays}."


def _unit_of(entry: _OldService) -> str | None:
    found = _UNIT_IN_CHECK.search(entry.check_command)
    return found.group(1).removesuffix(".service") if found else None


def _play_of(entry: _OldService) -> str | None:
    """The play's file in the old activate_command: the one named activate_*, not inventories or variables."""
    found = [PurePosixPath(path).name for path in _PLAY_IN_COMMAND.findall(entry.activate_command)]
    return next((file for file in found if file.startswith("activate_")), None)


def _order(where: str, entry: _OldService, name_of: Mapping[str, str]) -> list[str]:
    addresses = (entry.primary_vm, *entry.secondary_vms)
    strangers = [address for address in addresses if address not in name_of]
    if strangers:
        known = ", ".join(sorted(name_of))
        raise NotConvertible(f"{where}: no VM is known by {', '.join(strangers)}; known are {known}.")
    return [name_of[address] for address in addresses]


def _rotation(
    old: _OldDocument, names: Mapping[str, str], document: Mapping[str, Any], notes: list[str]
) -> dict[str, Any]:
    """Return the policy's rotation: what round_robin says, then what is in force, then what the old system did."""
    said = old.round_robin
    before = document.get("rotation")
    fallback = before or said.model_dump(include={"enabled", "interval_hours", "exclude_services"})
    found = {}
    for field in ("enabled", "interval_hours", "exclude_services"):
        found[field] = getattr(said, field) if field in said.model_fields_set else fallback[field]
        if field not in said.model_fields_set:
            kept = "stays as it is in force" if before else "is assumed"
            shown = json.dumps(fallback[field])
            notes.append(f"round_robin says nothing of {field}: {shown} {kept}.")
    if "exclude_services" in said.model_fields_set:
        found["exclude_services"] = _excluded(said.exclude_services, names, document["services"], notes)
    return found


def _excluded(
    given: tuple[str, ...], names: Mapping[str, str], services: Mapping[str, Any], notes: list[str]
) -> list[str]:
    excluded = [OLD_SERVICE_NAMES.get(name, name) for name in given]
    strangers = [was for was, name in zip(given, excluded, strict=True) if name not in {*names.values(), *services}]
    if strangers:
        known = ", ".join(names)
        raise NotConvertible(f"round_robin.exclude_services names {', '.join(strangers)}; its services are {known}.")
    left_out = [name for name in excluded if name not in services]
    if left_out:
        notes.append(f"round_robin.exclude_services: {', '.join(left_out)} left out, as the service is.")
    return [name for name in excluded if name in services]
