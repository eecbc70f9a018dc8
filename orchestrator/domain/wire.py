"""The messages on the queue `failover_commands`.

They keep the fields of the system that orch replaces (`command_type`, `instance_type`, `failed_instance` or
`recovered_instance`, `timestamp`), so that a message published by hand still works. A message with an `id` is
only transport for the command record of that id in KV; one without becomes a request. What nothing here reads
(`timestamp`, anything unknown) may be whatever its sender made of it.

A message starts nothing by itself: only the controller's user may announce a command, which must be the one in KV,
and only a requester may ask for something. The broker has checked the name that a message bears (`user_id`).
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from orchestrator.domain.policy import Policy
from orchestrator.domain.records import FORMAT, Command, Request, RequestKind, known_format
from orchestrator.domain.sentence import one_line

QUEUE = "failover_commands"
DEAD_LETTER_QUEUE = "failover_commands.dead"
MAX_BYTES = 64 * 1024

# The old system named some services by their software, and people name them by their units.
OLD_SERVICE_NAMES = {"mysql": "database", "rabbitmq": "messaging"}
_UNITS = {"mariadb": "database", "rabbitmq-server": "messaging", "nginx": "frontend", "node-app": "backend"}
# What a message says of its command, beside the id.
_ANNOUNCED = (
    "command_type",
    "instance_type",
    "target",
    "epoch",
    "playbooks",
    "failed_instance",
    "recovered_instance",
)
_BY_THE_LEADER_ONLY = {
    "initial": "assigns a service for the first time",
    "standby": "has standbys started",
    "member": "changes a cluster",
}


class Message(BaseModel):
    """One message, checked."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: int = Field(default=FORMAT, ge=1)
    """Absent in a message by hand, which means what it always meant."""
    command_type: str = Field(pattern=r"^(initial|failover|failback|rotation|switchover|standby|member)$")
    instance_type: str = Field(min_length=1, max_length=63)
    failed_instance: str | None = Field(default=None, max_length=63)
    recovered_instance: str | None = Field(default=None, max_length=63)
    id: str | None = Field(default=None, pattern=r"^[A-Za-z0-9._-]{1,128}$")
    target: str | None = Field(default=None, max_length=63)
    epoch: Any = None
    playbooks: Any = None

    _known_format = field_validator("format")(known_format)

    @model_validator(mode="after")
    def _says_which_instance(self) -> Message:
        if self.id is None and self.command_type == "failback" and not self.recovered_instance:
            raise ValueError("a failback message needs recovered_instance")
        if self.id is None and self.command_type in _BY_THE_LEADER_ONLY:
            does = _BY_THE_LEADER_ONLY[self.command_type]
            raise ValueError(
                f"a message of type {self.command_type} needs the id of its command: only the leader {does}"
            )
        return self


@dataclass(frozen=True, slots=True)
class Senders:
    """Whose messages mean something, by the names under which the broker knows them."""

    controller: str
    requesters: Collection[str]

    def objection_to(self, message: Message, sender: str) -> str:
        """Return why the sender may not send this, as a clause; empty where it may."""
        if not sender:
            return "it does not say whose it is (user_id)"
        if message.id is not None:
            return "" if sender == self.controller else f"{_named(sender)} may not announce commands"
        return "" if sender in self.requesters else f"{_named(sender)} may not ask for anything"


def _named(sender: str) -> str:
    """Return the name for a sentence: spelled out where it is none that people could read."""
    return sender if sender.isprintable() and sender.strip() else repr(sender)


def message_of(command: Command, now: float) -> bytes:
    """Return the body that announces the command."""
    fields: dict[str, Any] = {
        "format": FORMAT,
        "command_type": command.kind.value,
        "instance_type": command.service,
        "timestamp": now,
        "id": command.id,
        "target": command.target,
        "epoch": command.epoch,
        "playbooks": command.playbooks,
    }
    if command.failed_instance:
        fields["failed_instance"] = command.failed_instance
    if command.recovered_instance:
        fields["recovered_instance"] = command.recovered_instance
    return json.dumps(fields).encode()


def contradiction(message: Message, command: Command) -> str:
    """Return what the message says otherwise than the record that it names, as a clause; empty where they agree."""
    recorded = json.loads(message_of(command, 0.0))
    for name in _ANNOUNCED:
        if (said := getattr(message, name)) != recorded.get(name):
            return f"its {name} is {one_line(repr(said))[:80]}, and {recorded.get(name)!r} in the command's record"
    return ""


def parse_message(body: bytes) -> Message:
    """Read a message body; raises ValueError with one sentence when it is none."""
    if len(body) > MAX_BYTES:
        raise ValueError(f"the message is {len(body)} bytes long; at most {MAX_BYTES} are accepted")
    try:
        return Message.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "message"
        raise ValueError(one_line(f"not a command message: {where}: {first['msg']}")) from None


def service_meant(name: str, policy: Policy | None) -> str:
    """Return the service that `instance_type` means: one of the policy's by its name, else by its unit, else by a name
    of the old system. A name that means none is returned as it is: the leader refuses it with a sentence.
    """
    services = policy.services if policy is not None else {}
    if name in services:
        return name
    unit = name.removesuffix(".service")
    by_unit = [service for service, each in services.items() if each.unit.removesuffix(".service") == unit]
    return by_unit[0] if len(by_unit) == 1 else (OLD_SERVICE_NAMES | _UNITS).get(unit, name)


def request_of(message: Message, request_id: str, now: float, policy: Policy | None) -> Request:
    """Return the request that a hand-published message (one without an id) stands for.

    A failover names the instance that failed; a failback names the one that recovered, which is where the
    service goes. Neither changes the designation, as in the old system.
    """
    kind = {"failback": RequestKind.FAILBACK, "rotation": RequestKind.ROTATION}.get(
        message.command_type, RequestKind.FAILOVER
    )
    target = message.recovered_instance if kind is RequestKind.FAILBACK else message.target
    return Request(
        id=request_id,
        kind=kind,
        service=service_meant(message.instance_type, policy),
        target=target,
        failed_instance=message.failed_instance,
        reason="published by hand on the queue",
        origin="message",
        created=now,
        updated=now,
    )
