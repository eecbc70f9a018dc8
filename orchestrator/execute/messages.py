"""Messages that were published by hand: each becomes a request like any other, once.

In: a message without an id. Out: a request in KV. A message that comes twice (its acknowledgement was lost, or it was
sent once more) finds its request again by the digest in the request's id.
"""

from __future__ import annotations

import hashlib
import re
from enum import Enum

from orchestrator.domain import keys
from orchestrator.domain.ids import timed_id
from orchestrator.domain.policy import Policy
from orchestrator.domain.records import Request
from orchestrator.domain.wire import Message, request_of
from orchestrator.store.port import Port
from orchestrator.store.records import create_record

_PLAIN_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
SAME_WITHIN_MS = 3600 * 1000
"""After so long the same bytes are another message: people send what worked the last time."""


class Placed(Enum):
    """What became of a message published by hand."""

    NEW = "it has become a request"
    BEFORE = "it had become a request when it was delivered before"
    REPLAYED = "the very same message has become a request within the last hour: to ask again, change its timestamp"


def hand_request(message: Message, body: bytes, now: float, policy: Policy | None) -> Request:
    """Return the request for a message published by hand; its id ends in a digest of the message.

    `policy`: the one in force, None while it is not known.
    """
    request = request_of(message, "", now, policy)
    name = request.service if _PLAIN_NAME.fullmatch(request.service) else "unknown"
    return request.with_(id=timed_id(now, name, digest_of(body)))


def digest_of(body: bytes) -> str:
    """Return what the ids of all requests for this very message end in."""
    return "m" + hashlib.sha256(body).hexdigest()[:10]


def place_request(port: Port, request: Request, body: bytes, *, redelivered: bool) -> Placed:
    """Write the request, unless the same message has one already. Raises `Unknown`: call again."""
    if _is_placed(port, request, digest_of(body)):
        return Placed.BEFORE if redelivered else Placed.REPLAYED
    # LOST: it was written by an earlier call of which we never heard the answer.
    create_record(port, keys.request(request.id), request)
    return Placed.NEW


def _is_placed(port: Port, request: Request, digest: str) -> bool:
    """Say whether another request of the last hour came from the same message."""
    for key in port.kv_keys(keys.REQUESTS):
        request_id = key.removeprefix(keys.REQUESTS)
        at, _, rest = request_id.partition("-")
        if (
            rest.endswith(f"-{digest}")
            and request_id != request.id
            and at.isdigit()
            and int(request.created * 1000) - int(at) < SAME_WITHIN_MS
        ):
            return True
    return False
