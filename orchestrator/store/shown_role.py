"""The controller's role where Consul's UI shows it: a tag of the service that the deployment has registered.

In: whether this controller leads. Out: the tag `leader` or `follower` at the local agent; everything else that the
agent has of the service (address, port, meta, other tags) stays. Must never register a service that is not there:
without the deployment's check it would be green whatever became of the controller.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from orchestrator.domain import keys
from orchestrator.store.port import AgentService, Port, Refused, Unknown

log = logging.getLogger(__name__)

LEADER, FOLLOWER, NEITHER = "leader", "follower", "daemon"
"""`daemon` is what the deployment registers, so also what an agent that was restarted or reloaded says."""

# An agent may be reloaded at any time, and nothing tells us. One question to the agent costs some 3 ms.
LOOK_EVERY_S = 5.0

SERVICE_ID = keys.daemon_service_id("controller")


def with_role(service: AgentService, role: str) -> AgentService:
    """Return the service with the role as its first tag, in place of any other role."""
    others = (tag for tag in service.tags if tag not in (LEADER, FOLLOWER, NEITHER))
    return replace(service, tags=(role, *others))


class ShownRole:
    """Used by one thread, whose port it uses. `monotonic` is another in the simulation only."""

    def __init__(self, port: Port, monotonic: Callable[[], float]) -> None:
        self._port = port
        self._monotonic = monotonic
        self._shown: str | None = None
        self._looked_at = 0.0

    def show(self, *, leads: bool) -> None:
        """Have the agent say the role. Asks the agent when the role is another, and every `LOOK_EVERY_S`.

        Never raises: a role that cannot be shown now is tried again at the next look.
        """
        role = LEADER if leads else FOLLOWER
        now = self._monotonic()
        if role != self._shown or now >= self._looked_at + LOOK_EVERY_S:
            self._shown, self._looked_at = role, now
            self._put(role)

    def withdraw(self) -> None:
        """Have the agent say what the deployment does: a controller that was stopped neither leads nor follows."""
        self._put(NEITHER)

    def _put(self, role: str) -> None:
        try:
            found = next((each for each in self._port.agent_services() if each.id == SERVICE_ID), None)
            if found is None:
                log.debug("the agent has no service %s to show the role %s with", SERVICE_ID, role)
            elif found != with_role(found, role) or not found.by_own_token:
                self._port.agent_register(with_role(found, role))
        except (Unknown, Refused) as problem:
            log.debug("cannot show the role %s in Consul: %s", role, problem)
