"""A front door that a command moves, with real processes: what it is told, and that it is told until it obeys."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.domain.policy import FrontDoorPolicy
from orchestrator.node.address import door_for
from orchestrator.node.hook import Hook
from orchestrator.node.situation import AddressState

NEVER = (3600.0,)


class Script:
    """A command that notes what it was told and fails while it is broken."""

    def __init__(self, folder: Path) -> None:
        self._path, self._said, self._broken = folder / "hook", folder / "said", folder / "broken"
        self._path.write_text(
            f"""#!/bin/sh
echo "$*" "$ORCH_SERVICE" "$ORCH_VM" "$ORCH_ADDRESS" >> {self._said}
[ ! -e {self._broken} ] || {{ echo "no such account" >&2; exit 3; }}
"""
        )
        self._path.chmod(0o755)
        self.command = (str(self._path), "eip")

    def breaks(self) -> None:
        self._broken.touch()

    def is_mended(self) -> None:
        self._broken.unlink()

    def said(self) -> list[str]:
        return self._said.read_text().splitlines() if self._said.exists() else []


@pytest.fixture
def script(tmp_path: Path) -> Script:
    return Script(tmp_path)


def eventually(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline, "did not come true in time"
        time.sleep(0.005)


def test_a_hook_is_told_what_to_do_for_which_address(script: Script) -> None:
    policy = FrontDoorPolicy(kind="command", address="203.0.113.5", command=script.command)
    door = door_for("frontend", "frontend-server", policy)
    assert door is not None
    assert door.state() is AddressState.NONE
    door.take()
    assert door.state() is AddressState.UP
    eventually(lambda: script.said() == ["eip take frontend frontend-server 203.0.113.5"])
    door.drop()
    assert door.state() is AddressState.NONE
    eventually(lambda: script.said()[1:] == ["eip drop frontend frontend-server 203.0.113.5"])
    assert door.trouble() == ""


def test_a_failing_hook_is_reported_and_repeated_until_it_succeeds(
    script: Script, caplog: pytest.LogCaptureFixture
) -> None:
    script.breaks()
    hook = Hook(script.command, {}, retry_s=(0.01, 0.02))
    with caplog.at_level(logging.INFO):
        hook.take()
        eventually(lambda: len(script.said()) >= 3)
        assert hook.trouble().endswith("on take (exit status 3: no such account)")
        assert hook.state() is AddressState.UP, "it is to be had here, and is dropped when the role lock is lost"
        script.is_mended()
        eventually(lambda: hook.trouble() == "")
        eventually(lambda: "is well again" in caplog.text)
    assert "failed 1 times on take (exit status 3: no such account): tried again in 0.01 s" in caplog.text
    assert "failed 2 times on take (exit status 3: no such account): tried again in 0.02 s" in caplog.text


def test_a_drop_is_repeated_too(script: Script) -> None:
    script.breaks()
    hook = Hook(script.command, {}, retry_s=(0.01,))
    hook.drop()
    eventually(lambda: len(script.said()) >= 3)
    assert "on drop" in hook.trouble()
    script.is_mended()
    eventually(lambda: hook.trouble() == "")


@pytest.mark.parametrize(("give_up", "then"), [("drop", ["eip drop"]), ("hand_over", [])])
def test_a_take_that_fails_is_not_repeated_once_the_role_is_elsewhere(
    script: Script, give_up: str, then: list[str]
) -> None:
    script.breaks()
    hook = Hook(script.command, {}, retry_s=NEVER)
    hook.take()
    eventually(lambda: hook.trouble() != "")
    script.is_mended()
    getattr(hook, give_up)()
    eventually(lambda: hook.trouble() == "")
    assert [" ".join(line.split()) for line in script.said()] == ["eip take", *then]


def test_a_command_that_is_not_there_is_reported(tmp_path: Path) -> None:
    hook = Hook((str(tmp_path / "nothing"),), {}, retry_s=NEVER)
    hook.take()
    eventually(lambda: "No such file" in hook.trouble())


def test_of_several_wishes_the_newest_counts(script: Script) -> None:
    script.breaks()
    hook = Hook(script.command, {}, retry_s=(0.05,))
    for _ in range(20):
        hook.take()
        hook.hand_over()
    hook.take()
    eventually(lambda: hook.trouble() != "")
    script.is_mended()
    eventually(lambda: hook.trouble() == "")
    assert len(script.said()) < 20
    assert script.said()[-1].startswith("eip take")
