"""Something long shows that it goes on: elapsed time and the last line of its output."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.machines import commands
from deploy.machines.places import CHECKOUT, LabError

pytestmark = pytest.mark.timeout(60)

# Goes on until somebody has seen its output.
UNTIL_SEEN = 'echo unpacking; echo; while [ ! -e "$1" ]; do sleep 0.02; done'

RUN_LOGGED = """
import sys
from pathlib import Path
from deploy.machines.commands import run_logged
run_logged(sys.argv[2:], Path(sys.argv[1]))
"""


class _Watched(io.StringIO):
    """Standard error that is no terminal; lets the command end once its line was shown."""

    def __init__(self, seen: Path) -> None:
        super().__init__()
        self._seen = seen

    def write(self, text: str) -> int:
        if "unpacking" in text:
            self._seen.touch()
        return super().write(text)


def test_without_a_terminal_a_line_tells_now_and_then_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "TELL_EVERY_S", 0.05)
    shown = _Watched(tmp_path / "seen")
    monkeypatch.setattr(sys, "stderr", shown)
    commands.run_logged(["sh", "-c", UNTIL_SEEN, "sh", tmp_path / "seen"], tmp_path / "log")
    assert any(line.split()[1:] == ["s", "unpacking"] for line in shown.getvalue().splitlines())


def test_on_a_terminal_the_last_line_is_shown_in_place(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    words = [sys.executable, "-c", RUN_LOGGED, tmp_path / "log", "sh", "-c", UNTIL_SEEN, "sh", tmp_path / "seen"]
    env = {**os.environ, "TERM": "xterm"}
    with subprocess.Popen(words, cwd=CHECKOUT, env=env, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        while b"unpacking" not in shown:
            shown += os.read(ours, 4096)
        (tmp_path / "seen").touch()
        while process.poll() is None:
            try:
                os.read(ours, 4096)
            except OSError:
                break
    os.close(ours)
    assert process.returncode == 0
    assert b" s  unpacking" in shown


def test_what_failed_ends_with_its_own_last_words(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"ended with 3 \(all of it in .*\):\nno space left"):
        commands.run_logged(["sh", "-c", "echo no space left; exit 3"], tmp_path / "log")


def test_the_last_line_is_this_runs_and_without_what_moves_a_cursor(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("of an earlier run\n")
    begin = log.stat().st_size
    assert commands.last_line(log, begin) == ""
    with log.open("a") as sink:
        sink.write("first\n\x1b[32m10 %\x1b[0m\r20 %\n  \n")
    assert commands.last_line(log, begin) == "20 %"
