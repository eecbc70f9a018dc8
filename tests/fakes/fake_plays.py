"""Plays and a mailbox without processes or brokers: the test or the simulation says what becomes of them."""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.dispatch.consumer import Delivery
from orchestrator.domain.wire import Senders
from orchestrator.execute.play import Ended, Order, PlayEnded, PlayEvent, TaskStarted


class FakePlays:
    """Takes orders; `begin_task` and `end` report as a play would. A cancelled play ends at once."""

    def __init__(self, post: Callable[[PlayEvent], None] | None = None) -> None:
        self.events: list[PlayEvent] = []
        self.post: Callable[[PlayEvent], None] = post or self.events.append
        self.orders: list[Order] = []
        self.running: dict[str, Order] = {}

    def start(self, order: Order) -> None:
        """See `Plays.start`."""
        self.orders.append(order)
        self.running[order.command_id] = order

    def cancel(self, command_id: str) -> None:
        """See `Plays.cancel`."""
        order = self.running.pop(command_id, None)
        if order is not None:
            self.post(PlayEnded(command_id, order.attempt, Ended.CANCELLED, 254))

    def begin_task(self, command_id: str, task: str, at: float) -> None:
        """The play has begun a task."""
        self.post(TaskStarted(command_id, task, at))

    def end(self, command_id: str, rc: int = 0, tail: tuple[str, ...] = ()) -> None:
        """The play has ended by itself."""
        order = self.running.pop(command_id)
        self.post(PlayEnded(command_id, order.attempt, Ended.EXITED, rc, tail))


CONTROLLER, OPERATOR = "orch_controller", "orch_operator"
SENDERS = Senders(CONTROLLER, (OPERATOR,))


class FakeMailbox:
    """Notes what was acknowledged and what was rejected."""

    def __init__(self) -> None:
        self.acked: list[Delivery] = []
        self.rejected: list[Delivery] = []

    def ack(self, delivery: Delivery) -> None:
        """See `Mailbox.ack`."""
        self.acked.append(delivery)

    def reject(self, delivery: Delivery) -> None:
        """See `Mailbox.reject`."""
        self.rejected.append(delivery)
