"""Real plays by ansible-runner, started warm and plain."""

from __future__ import annotations

import json
import os
import queue
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.execute.play import AnsiblePlays, Ended, Order, PlayEnded, PlayEvent, TaskStarted, prune_artefacts
from orchestrator.execute.warm import WarmServer
from tests.integration.playground import Playground, processes_with
from tests.integration.waiting import WAIT_S, wait_for


class Stage:
    """Plays and their events."""

    def __init__(self, ground: Playground) -> None:
        self.ground = ground
        self.events: queue.SimpleQueue[PlayEvent] = queue.SimpleQueue()
        self.plays = AnsiblePlays(ground.places, self.events.put)
        self.warm = WarmServer(ground.places)

    def start(self, playbook: str, command_id: str = "c1", **more: Any) -> None:
        timeout_s = more.pop("timeout_s", WAIT_S)
        playbooks = more.pop("playbooks", None)
        variables = {"target": "messaging-server", "service": "backend", "epoch": 7, "failed_instance": "x"} | more
        self.plays.start(Order(command_id, 1, playbook, variables, timeout_s, playbooks))

    def until_ended(self) -> tuple[list[TaskStarted], PlayEnded]:
        tasks = []
        while True:
            event = self.events.get(timeout=WAIT_S)
            if isinstance(event, PlayEnded):
                return tasks, event
            tasks.append(event)

    def run(self, playbook: str, **more: Any) -> tuple[list[TaskStarted], PlayEnded]:
        self.start(playbook, **more)
        return self.until_ended()


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """No warm server."""
    ground = Playground(tmp_path)
    monkeypatch.setenv("ORCH_WARM_TRACE", str(ground.trace))
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", "a-secret")
    stage = Stage(ground)
    yield stage
    stage.warm.stop()


@pytest.fixture
def warm_stage(stage: Stage) -> Stage:
    """With a warm server."""
    stage.warm.ensure_running()
    assert stage.warm.wait_ready(WAIT_S)
    stage.warm.wait_rehearsed(WAIT_S)
    stage.ground.trace.unlink()
    return stage


def test_a_play_starts_warm_and_tells_its_tasks_and_its_end(warm_stage: Stage) -> None:
    before = time.time()
    tasks, ended = warm_stage.run("quick.yml")
    assert [task.task for task in tasks] == ["note it", "the second task"]
    assert (ended.how, ended.rc) == (Ended.EXITED, 0)
    assert warm_stage.ground.lines == ["backend 7 x"]
    assert warm_stage.ground.starts == ["warm"]
    assert before <= tasks[0].at <= tasks[1].at <= time.time()
    print(f"first task after {(tasks[0].at - before) * 1000:.0f} ms warm")


def test_without_a_warm_server_a_play_starts_plain(stage: Stage) -> None:
    before = time.time()
    tasks, ended = stage.run("quick.yml")
    assert (ended.how, ended.rc, stage.ground.starts) == (Ended.EXITED, 0, ["plain"])
    assert len(tasks) == 2
    print(f"first task after {(tasks[0].at - before) * 1000:.0f} ms plain")


def test_a_failed_play_tells_why_in_its_tail(warm_stage: Stage) -> None:
    _, ended = warm_stage.run("failing.yml")
    assert (ended.how, ended.rc) == (Ended.EXITED, 2)
    assert any("this is why" in line for line in ended.tail)


def test_a_playbook_that_is_missing_or_elsewhere_is_not_run(stage: Stage) -> None:
    for name in ("absent.yml", "../hosts.yml", "/etc/passwd"):
        _, ended = stage.run(name)
        assert ended.how is Ended.NOT_RUN
        assert "there is no playbook" in ended.problem


@pytest.mark.parametrize("how", ["warm", "plain"])
def test_a_cancelled_play_leaves_no_process_behind(stage: Stage, how: str) -> None:
    if how == "warm":
        stage.warm.ensure_running()
        assert stage.warm.wait_ready(WAIT_S)
        stage.warm.wait_rehearsed(WAIT_S)
    stage.start("slow.yml")
    wait_for(lambda: stage.ground.lines == ["begin"], "the play has begun")
    stage.plays.cancel("c1")
    _, ended = stage.until_ended()
    assert (ended.how, stage.ground.starts[-1]) == (Ended.CANCELLED, how)
    if how == "warm":
        assert processes_with(str(stage.ground.lock)) == []
    wait_for(lambda: processes_with(str(stage.ground.lock)) == [], "the task is gone")


def test_a_play_that_takes_too_long_is_killed(warm_stage: Stage) -> None:
    _, ended = warm_stage.run("slow.yml", timeout_s=3.0)
    assert ended.how is Ended.TIMED_OUT
    assert processes_with(str(warm_stage.ground.lock)) == []


def test_plays_run_side_by_side(warm_stage: Stage) -> None:
    for number in range(3):
        warm_stage.start("quick.yml", f"c{number}", service=f"s{number}")
    ended = [warm_stage.until_ended()[1] for _ in range(3)]
    assert [each.rc for each in ended] == [0, 0, 0]
    assert sorted(warm_stage.ground.lines) == [f"s{number} 7 x" for number in range(3)]


def test_when_the_worker_is_killed_its_warm_server_ends_with_all_plays(warm_stage: Stage) -> None:
    warm_stage.start("slow.yml")
    wait_for(lambda: warm_stage.ground.lines == ["begin"], "the play has begun")
    server = warm_stage.warm._process
    assert server is not None
    assert server.stdin is not None
    server.stdin.close()  # What the kernel does to the pipe of a worker that dies.
    wait_for(lambda: server.poll() is not None, "the server has ended")
    wait_for(lambda: processes_with(str(warm_stage.ground.lock)) == [], "the task is gone")
    _, ended = warm_stage.until_ended()
    assert ended.rc != 0


def test_a_warm_server_that_was_killed_fails_its_play_and_is_replaced(warm_stage: Stage) -> None:
    warm_stage.start("slow.yml")
    wait_for(lambda: warm_stage.ground.lines == ["begin"], "the play has begun")
    pid = warm_stage.warm.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    _, ended = warm_stage.until_ended()
    assert (ended.how, ended.rc) == (Ended.EXITED, 70)
    assert warm_stage.run("quick.yml", command_id="c2")[1].rc == 0, "plays run meanwhile"

    def is_replaced() -> bool:
        warm_stage.warm.ensure_running()
        return warm_stage.warm.pid not in (None, pid)

    wait_for(is_replaced, "there is another server")


def test_a_play_never_runs_under_a_configuration_that_the_warm_server_has_not_read(warm_stage: Stage) -> None:
    config = warm_stage.ground.places.ansible_dir / "ansible.cfg"
    config.write_text(config.read_text() + "timeout = 9\n")
    assert warm_stage.run("quick.yml")[1].rc == 0
    assert warm_stage.ground.starts == ["plain"]


def test_a_play_is_run_with_the_release_that_was_ordered_and_goes_on_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ground = Playground(tmp_path)
    one = ground.release("one")
    monkeypatch.setenv("ORCH_WARM_TRACE", str(ground.trace))
    stage = Stage(ground)
    try:
        stage.warm.ensure_running()
        assert stage.warm.wait_ready(WAIT_S)
        stage.warm.wait_rehearsed(WAIT_S)
        stage.start("slow.yml", "c1", timeout_s=10 * WAIT_S)
        wait_for(lambda: ground.lines == ["begin"], "the play has begun")
        two = ground.release("two")
        server = stage.warm.pid
        stage.warm.ensure_running()
        assert stage.warm.pid == server, "a play runs that it would end"
        for number, (digest, line) in enumerate([(one, "backend 7 of one"), (two, "backend 7 of two")], start=2):
            assert stage.run("quick.yml", command_id=f"c{number}", playbooks=digest)[1].rc == 0
            assert ground.lines[-1] == line
        _, ended = stage.run("quick.yml", command_id="c4", playbooks="d0" * 32)
        assert (ended.how, ended.problem) == (
            Ended.NOT_RUN,
            f"the playbooks {'d0' * 32} that it was decided for are not here any more",
        )
        assert "c1" in stage.plays._running
        stage.plays.cancel("c1")
        assert stage.until_ended()[1].how is Ended.CANCELLED

        def serves_the_current() -> bool:
            stage.warm.ensure_running(may_end=True)
            return stage.warm.pid not in (None, server)

        wait_for(serves_the_current, "the warm server serves the current release")
        assert stage.warm.wait_ready(WAIT_S)
        stage.warm.wait_rehearsed(WAIT_S)
        assert stage.run("quick.yml", command_id="c5")[1].rc == 0
        assert (ground.lines[-1], ground.starts[-1]) == ("backend 7 of two", "warm")
    finally:
        stage.warm.stop()


def test_artefacts_hold_the_output_and_no_secret_and_are_for_this_user_only(warm_stage: Stage) -> None:
    warm_stage.run("quick.yml")
    folder = warm_stage.ground.places.artefacts / "c1"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert "TASK [note it]" in (folder / "artifacts" / "1" / "stdout").read_text()
    assert json.loads((folder / "env" / "extravars").read_text())["epoch"] == 7
    for path in folder.rglob("*"):
        if path.is_file():
            assert b"a-secret" not in path.read_bytes(), path
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0 or path.parent != folder / "env", path


def test_the_rehearsal_leaves_packed_modules_and_runs_nothing(warm_stage: Stage) -> None:
    packed = list((warm_stage.ground.places.state_dir / "ansible" / "tmp").rglob("ansiballz_cache/*command*"))
    assert packed
    assert warm_stage.ground.lines == []
    assert not warm_stage.ground.places.rehearsal.exists()


def test_a_rehearsal_removes_what_a_killed_one_has_left(stage: Stage) -> None:
    left = stage.ground.places.rehearsal / "artifacts" / "1" / "job_events" / "7-partial.json"
    left.parent.mkdir(parents=True)
    left.write_text("{}")
    stage.warm.ensure_running()
    assert stage.warm.wait_ready(WAIT_S)
    stage.warm.wait_rehearsed(WAIT_S)
    assert stage.ground.starts == ["warm"]
    assert not stage.ground.places.rehearsal.exists()


def test_each_play_leaves_only_so_many_artefacts_behind(warm_stage: Stage) -> None:
    warm_stage.plays.keep_artefacts = 2
    for number in range(4):
        assert warm_stage.run("quick.yml", command_id=f"c{number}")[1].rc == 0
    folder = warm_stage.ground.places.artefacts
    wait_for(lambda: sorted(path.name for path in folder.iterdir()) == ["c2", "c3"], "the two newest are left")


def test_only_so_many_artefacts_are_kept_and_never_a_running_one_deleted(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"c{number}").mkdir()
    prune_artefacts(tmp_path, 2, {"c0"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c0", "c3", "c4"]


PLAYBOOKS = Path(__file__).resolve().parents[2] / "ansible" / "playbooks"


def by_hand(playbook: str, *more: str) -> subprocess.CompletedProcess[str]:
    """Run a play of this checkout; nothing is changed (--check), and what needs systemd is not there."""
    return subprocess.run(
        [
            str(Path(sys.executable).with_name("ansible-playbook")),
            "-c",
            "local",
            "--check",
            *more,
            f"playbooks/{playbook}",
        ],
        cwd=PLAYBOOKS.parent,
        env={**os.environ, "ANSIBLE_CONFIG": str(PLAYBOOKS.parent / "ansible.cfg")},
        capture_output=True,
        text=True,
        timeout=WAIT_S,
    )


@pytest.mark.parametrize("playbook", sorted(path.name for path in PLAYBOOKS.glob("*.yml")))
def test_every_playbook_has_a_syntax_that_ansible_accepts(playbook: str) -> None:
    done = by_hand(playbook, "--syntax-check", "-e", "target=database-server leaves=backend-server vm=database-server")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("playbook", sorted(path.name for path in PLAYBOOKS.glob("*activate_*.yml")))
def test_a_play_refuses_a_vm_that_is_not_in_the_service_s_order(playbook: str) -> None:
    stranger = "messaging-server" if "database" in playbook or "frontend" in playbook else "database-server"
    done = by_hand(playbook, "-e", f"target={stranger}")
    assert done.returncode != 0
    service = playbook.partition("_")[2].removesuffix(".yml")
    assert f"{stranger} is not one VM of the order of {service}" in (done.stdout + done.stderr).replace("\n", " ")
