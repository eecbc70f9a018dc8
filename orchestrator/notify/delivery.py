"""One delivery, whatever the sink: the only way that the daemon and `orch notify test` take."""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.domain.sinks import SinkPolicy
from orchestrator.notify.command import run_command
from orchestrator.notify.mail import send_notice
from orchestrator.notify.notice import Notice, Templates
from orchestrator.notify.webhook import post_notice

Deliver = Callable[[SinkPolicy, Notice, Templates], str]

_BY_KIND: dict[str, Deliver] = {"webhook": post_notice, "email": send_notice, "command": run_command}


def deliver(sink: SinkPolicy, notice: Notice, templates: Templates) -> str:
    """Deliver the notice within the sink's `timeout_s`; return what the receiver said, or raise `Undelivered`."""
    return _BY_KIND[sink.kind](sink, notice, templates)
