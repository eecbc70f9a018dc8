"""What systemd's words mean to a guard. What is said over D-Bus is tested on the four machines."""

from __future__ import annotations

import queue
import socket
import threading
from pathlib import Path

import pytest

from orchestrator.node.situation import UnitState, UnitStatus
from orchestrator.node.systemd import UnitWatch, full_name, status_of, unit_state

TABLE = [
    ("loaded", "active", "running", None, UnitState.ACTIVE),
    ("loaded", "reloading", "reload", "reload", UnitState.ACTIVE),
    ("loaded", "active", "exited", None, UnitState.ACTIVE),
    ("not-found", "active", "running", None, UnitState.ACTIVE),
    ("loaded", "activating", "start", "start", UnitState.STARTING),
    ("loaded", "activating", "auto-restart", None, UnitState.RESTARTING),
    ("loaded", "activating", "auto-restart-queued", "restart", UnitState.RESTARTING),
    ("loaded", "failed", "failed-before-auto-restart", None, UnitState.RESTARTING),
    ("loaded", "inactive", "dead-before-auto-restart", None, UnitState.RESTARTING),
    ("loaded", "deactivating", "stop-sigterm", "stop", UnitState.STOPPING),
    ("loaded", "deactivating", "stop-sigterm", "restart", UnitState.RESTARTING),
    ("loaded", "deactivating", "stop-sigterm", None, UnitState.RESTARTING),
    ("loaded", "inactive", "dead", "start", UnitState.RESTARTING),
    ("loaded", "inactive", "dead", None, UnitState.STOPPED),
    ("loaded", "failed", "failed", None, UnitState.FAILED),
    ("loaded", "failed", "failed", "start", UnitState.RESTARTING),
    ("masked", "inactive", "dead", None, UnitState.STOPPED),
    ("not-found", "inactive", "dead", None, UnitState.ABSENT),
    ("bad-setting", "inactive", "dead", None, UnitState.STOPPED),
]


@pytest.mark.parametrize(("load", "active", "sub", "job", "expected"), TABLE)
def test_unit_state(load: str, active: str, sub: str, job: str | None, expected: UnitState) -> None:
    assert unit_state(load, active, sub, job) is expected


def test_what_systemd_did_not_say_is_unknown_and_not_stopped() -> None:
    assert status_of("loaded", "failed", "failed", None, 1.0, 0, "signal") == UnitStatus(
        UnitState.FAILED, "failed (failed)", 1.0, 0, "signal"
    )
    for silent in ((None, None, None), ("loaded", None, "dead"), ("loaded", "inactive", None)):
        assert status_of(*silent, None, 0.0, 0, "").state is UnitState.UNKNOWN


def test_a_unit_without_type_is_a_service() -> None:
    assert full_name("node-app") == "node-app.service"
    assert full_name("node-app.socket") == "node-app.socket"
    assert full_name("app@1.2") == "app@1.2.service"


def test_a_bus_that_is_away_is_told_and_tried_again_until_the_watch_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    posted: queue.SimpleQueue[tuple[str, UnitStatus]] = queue.SimpleQueue()
    with socket.socket(socket.AF_UNIX) as bus:
        bus.bind(str(tmp_path / "bus"))
        bus.listen()
        bus.settimeout(10)
        monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/bus")
        watch = UnitWatch(frozenset({"node-app"}), lambda unit, status: posted.put((unit, status)))
        watch.start()
        for _ in range(2):
            bus.accept()[0].close()
        watch.stop()
    unit, status = posted.get(timeout=10)
    assert (unit, status.state) == ("node-app", UnitState.UNKNOWN)
    assert "systemd" not in [thread.name for thread in threading.enumerate()]
