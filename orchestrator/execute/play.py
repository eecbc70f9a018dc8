"""Runs plays by ansible-runner, one thread each, and reports what happens to one queue.

In: orders. Out: `TaskStarted` and `PlayEnded` events, in that order per play, `PlayEnded` exactly once whatever
goes wrong. Artefacts of one command are in `<state_dir>/artefacts/<command id>/`. Never writes KV.
"""

from __future__ import annotations

import datetime
import json
import logging
import os
import re
import shlex
import shutil
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

from ansible_runner import Runner
from ansible_runner.config.runner import RunnerConfig

from orchestrator.domain.records import LAST_MOMENT
from orchestrator.domain.sentence import encodable
from orchestrator.execute import playbook_client
from orchestrator.execute.environment import Places, play_environment, runner_environment
from orchestrator.execute.processes import kill_below_mentioning
from orchestrator.execute.releases import Releases

log = logging.getLogger(__name__)

TAIL_LINES = 20
TAIL_WIDTH = 300
_PLAYBOOK_NAME = re.compile(r"^[A-Za-z0-9_.-]+\.ya?ml$")
# How long ansible-runner waits for output before it asks whether the play is cancelled.
_CANCEL_POLL_S = 0.1


class Ended(str, Enum):
    """How a play came to its end."""

    EXITED = "exited"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed out"
    NOT_RUN = "not run"
    """It could not be started, or ansible-runner failed; `problem` says why."""


@dataclass(frozen=True, slots=True)
class Order:
    """One play to run."""

    command_id: str
    attempt: int
    playbook: str
    variables: Mapping[str, Any]
    timeout_s: float
    playbooks: str | None = None
    """Digest of the playbooks to run it with; None: whichever are current."""


@dataclass(frozen=True, slots=True)
class TaskStarted:
    """The play has begun a task."""

    command_id: str
    task: str
    at: float
    """Wall clock, as the play's process saw it."""


@dataclass(frozen=True, slots=True)
class PlayEnded:
    """Nothing of the play is running any more (on this VM)."""

    command_id: str
    attempt: int
    how: Ended
    rc: int | None
    tail: tuple[str, ...] = ()
    problem: str = ""


PlayEvent = TaskStarted | PlayEnded


class Plays(Protocol):
    """What the worker asks of whatever runs plays; the simulation has its own."""

    def start(self, order: Order) -> None:
        """Start the play; its events follow. Never raises, never waits."""

    def cancel(self, command_id: str) -> None:
        """End the play soon; `PlayEnded` follows. No error where it has ended already."""


@dataclass(slots=True)
class Running:
    """One play of this process."""

    order: Order
    post: Callable[[PlayEvent], None]
    deadline: float
    folder: Path
    cancelled: threading.Event = field(default_factory=threading.Event)
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=TAIL_LINES))
    timed_out: bool = False

    def must_end(self) -> bool:
        """Say to ansible-runner whether to kill the play; and kill what it would miss."""
        if time.monotonic() >= self.deadline:
            self.timed_out = True
        must_end = self.timed_out or self.cancelled.is_set()
        if must_end:
            kill_below_mentioning(str(self.folder))
        return must_end

    def take_event(self, event: dict[str, Any]) -> bool:
        """Take one of ansible-runner's events. Never raises (that would orphan the play); never waits.

        False: the event need not be kept as a file, the output is.
        """
        try:
            lines = encodable(str(event.get("stdout") or "")).splitlines()
            self.tail.extend(line[:TAIL_WIDTH] for line in lines if line.strip())
            if event.get("event") in ("playbook_on_task_start", "playbook_on_handler_task_start"):
                self.post(TaskStarted(self.order.command_id, task_in(event)[:TAIL_WIDTH], event_time(event)))
        except Exception:
            command_id = self.order.command_id
            log.exception("An event of the play %s could not be read.", command_id, extra={"command": command_id})
        return False


def task_in(event: Mapping[str, Any]) -> str:
    """Return the name of the task that the event is about; nothing, where it does not say."""
    data = event.get("event_data")
    return encodable(str(data.get("task") or "")) if isinstance(data, dict) else ""


def event_time(event: Mapping[str, Any]) -> float:
    """Return when the play's process made the event; now, where it names no time that a record takes."""
    try:
        at = datetime.datetime.fromisoformat(str(event["created"])).timestamp()
    except (KeyError, ValueError, OverflowError):
        return time.time()
    return at if 0 <= at <= LAST_MOMENT else time.time()


class AnsiblePlays:
    """Runs plays by ansible-runner. `start` and `cancel` are called by one thread; events come from others."""

    def __init__(self, places: Places, post: Callable[[PlayEvent], None], keep_artefacts: int = 50) -> None:
        self._places = places
        self._releases = Releases(places.ansible_dir)
        self._post = post
        self._running: dict[str, Running] = {}
        self._lock = threading.Lock()
        self.keep_artefacts = keep_artefacts

    def start(self, order: Order) -> None:
        """Start the play in a thread of its own."""
        folder = self._places.artefacts / order.command_id
        running = Running(order, self._post, time.monotonic() + order.timeout_s, folder)
        with self._lock:
            self._running[order.command_id] = running
        threading.Thread(
            target=self._run_and_report, args=(running,), name=f"play {order.command_id}", daemon=True
        ).start()

    def cancel(self, command_id: str) -> None:
        """Kill the play."""
        with self._lock:
            running = self._running.get(command_id)
        if running is not None:
            running.cancelled.set()

    def _run_and_report(self, running: Running) -> None:
        order = running.order
        try:
            ended = self._run(running)
        except Exception as error:
            fields = {"command": order.command_id}
            log.exception("The play of the command %s could not be run.", order.command_id, extra=fields)
            problem = encodable(f"{type(error).__name__}: {error}")
            ended = PlayEnded(order.command_id, order.attempt, Ended.NOT_RUN, None, tuple(running.tail), problem)
        with self._lock:
            if self._running.get(order.command_id) is running:
                del self._running[order.command_id]
            busy = set(self._running)
        self._post(ended)
        prune_artefacts(self._places.artefacts, self.keep_artefacts, busy)

    def _run(self, running: Running) -> PlayEnded:
        order = running.order
        ansible_dir = self._releases.find(order.playbooks) if order.playbooks else self._releases.current()
        if ansible_dir is None:
            problem = f"the playbooks {order.playbooks} that it was decided for are not here any more"
            return PlayEnded(order.command_id, order.attempt, Ended.NOT_RUN, None, (), problem)
        places = replace(self._places, ansible_dir=ansible_dir)
        playbook = ansible_dir / "playbooks" / order.playbook
        if not _PLAYBOOK_NAME.match(order.playbook) or not playbook.is_file():
            problem = f"there is no playbook {playbook}"
            return PlayEnded(order.command_id, order.attempt, Ended.NOT_RUN, None, (), problem)
        config = prepare_run(places, order, playbook)
        runner = Runner(config, event_handler=running.take_event, cancel_callback=running.must_end)
        runner.run()
        how = Ended.EXITED
        if runner.canceled:
            how = Ended.TIMED_OUT if running.timed_out else Ended.CANCELLED
        return PlayEnded(order.command_id, order.attempt, how, runner.rc, tuple(running.tail))


def prepare_run(places: Places, order: Order, playbook: Path) -> RunnerConfig:
    """Lay out the command's folder and return ansible-runner's configuration for it."""
    return runner_config(places, places.artefacts / order.command_id, str(order.attempt), order.variables, playbook)


def runner_config(
    places: Places, folder: Path, ident: str, variables: Mapping[str, Any], playbook: Path, *arguments: str
) -> RunnerConfig:
    """Lay out the folder and return ansible-runner's configuration for one play in it."""
    (folder / "env").mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    write_private(folder / "env" / "extravars", json.dumps(dict(variables)))
    write_private(folder / "env" / "settings", json.dumps({"pexpect_timeout": _CANCEL_POLL_S}))
    config = RunnerConfig(
        private_data_dir=str(folder),
        project_dir=str(places.ansible_dir),
        ident=ident,
        binary=sys.executable,
        cmdline=shlex.join(["-I", "-S", playbook_client.__file__, str(playbook), *arguments]),
        quiet=True,
        # Any other value has ansible-runner set a fact cache of its own; plays gather no facts.
        fact_cache_type="none",
    )
    config.prepare()
    config.env = runner_environment(config.env, os.environ, play_environment(places, os.environ))
    return config


def write_private(path: Path, text: str) -> None:
    """Write a file that only this user may read."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)


def prune_artefacts(folder: Path, keep: int, busy: set[str]) -> None:
    """Delete the oldest commands' folders (their names sort by time) until `keep` are left; never a busy one."""
    try:
        names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    except OSError:
        return
    for name in names[: max(0, len(names) - keep)]:
        if name not in busy:
            shutil.rmtree(folder / name, ignore_errors=True)
