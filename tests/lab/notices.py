"""Who is told of what the fleet does: webhooks in the outside client's network, and a command on the leader's VM."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deploy.machines.fleet import CLIENT_ADDRESS
from deploy.machines.lab import Lab
from deploy.trials.client import Background
from deploy.trials.policy import apply_policy, policy_now
from deploy.trials.status import wait_until
from tests.lab.fleet import CONTROLLERS, kv_get

PORT, MUTE_PORT = 8087, 8088
# What a pager's program would be; it may write nowhere, but to the VM's journal.
TAG = "notice-of-a-test"
SINKS: list[dict[str, Any]] = [
    {"name": "desk", "kind": "webhook", "url": f"http://{CLIENT_ADDRESS}:{PORT}/events", "timeout_s": 2},
    # Takes what is posted and never answers.
    {"name": "mute", "kind": "webhook", "url": f"http://{CLIENT_ADDRESS}:{MUTE_PORT}/events", "timeout_s": 60},
    {"name": "pager", "kind": "command", "command": ["/usr/bin/logger", "--skip-empty", "--tag", TAG]},
]


@contextlib.contextmanager
def people_are_told(lab: Lab) -> Iterator[None]:
    """Have all of them told of what happens in the block."""
    before = policy_now(lab)
    apply_policy(lab, {**before, "notifications": SINKS})
    try:
        for sink in SINKS:
            # A new one is told of what is journalled from then on.
            key = f"orch/notified/{sink['name']}"
            wait_until(f"{key} is there", lambda key=key: kv_get(lab, key) is not None, 30)
        yield
    finally:
        apply_policy(lab, before)


class Desk(Background):
    """`with Desk(lab, notes) as desk:` takes what is posted until the block ends; a mute one never answers."""

    def __init__(self, lab: Lab, notes: Path, *, mute: bool = False) -> None:
        script = str(Path(__file__).with_name("notice_sink.py"))
        here = [CLIENT_ADDRESS, *([str(MUTE_PORT), "mute"] if mute else [str(PORT)])]
        super().__init__(lab.client_command([sys.executable, "-I", script, *here]), notes)

    def received(self) -> list[dict[str, Any]]:
        """Return the notices so far; one that came again is there once."""
        lines = [json.loads(line) for line in self._notes.read_text().splitlines(keepends=True) if line.endswith("\n")]
        return list({line["key"]: line["notice"] for line in lines}.values())


def paged(lab: Lab) -> str:
    """Return what the command was told on either controller's VM."""
    argv = ["journalctl", "--quiet", "--no-pager", "--output=cat", f"--identifier={TAG}"]
    return "\n".join(lab.run(vm, argv, timeout_s=20).stdout for vm in CONTROLLERS)


def said_by_controllers(lab: Lab, since: float) -> str:
    """Return what the controllers have logged since then."""
    argv = ["journalctl", "--quiet", "--no-pager", "--output=cat", "--unit=orch-controller", f"--since=@{since:.0f}"]
    return "\n".join(lab.run(vm, argv, timeout_s=20).stdout for vm in CONTROLLERS)
