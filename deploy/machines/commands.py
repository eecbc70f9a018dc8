"""Run a program from an argument list, and say what went wrong in its own words. Never a shell string."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from deploy.machines.places import LabError

TAIL_LINES = 30
# How often something long shows that it goes on: in place on a terminal, by one more line in a log.
SHOW_EVERY_S, TELL_EVERY_S = 0.5, 30.0
LINE_WITHIN_BYTES = 4096
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")


def tail_of(text: str, lines: int = TAIL_LINES) -> str:
    """Return the last lines of a text: where programs say why they failed."""
    return "\n".join(text.rstrip().splitlines()[-lines:])


def run(
    argv: Sequence[str | Path],
    *,
    check: bool = True,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    text_input: str | None = None,
    timeout_s: float | None = None,
    shown_as: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run to the end and return output; raise LabError with the end of that output when it fails."""
    words = [str(word) for word in argv]
    try:
        done = subprocess.run(
            words,
            check=False,
            env=env,
            cwd=cwd,
            input=text_input,
            stdin=subprocess.DEVNULL if text_input is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
        )
    except FileNotFoundError as missing:
        raise LabError(f"{words[0]} is not installed; deploy/bootstrap.sh installs what the lab needs") from missing
    if check and done.returncode != 0:
        said = tail_of(done.stderr or done.stdout)
        raise LabError(f"`{shown_as or ' '.join(words[:8])}` ended with {done.returncode}:\n{said}")
    return done


def run_logged(
    argv: Sequence[str | Path], log: Path, *, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> None:
    """Run something long with its output appended to a file; raise LabError with the file's end on failure.

    Meanwhile standard error shows the seconds that have passed and the last line of that output.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    words = [str(word) for word in argv]
    with log.open("ab") as sink:
        begin = sink.tell()
        process = subprocess.Popen(
            words, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT
        )
    try:
        _wait_showing(process, log, begin)
    except BaseException:
        process.kill()
        process.wait()
        raise
    if process.returncode != 0:
        said = tail_of(log.read_text(errors="replace"))
        raise LabError(f"`{' '.join(words[:6])}` ended with {process.returncode} (all of it in {log}):\n{said}")


def _wait_showing(process: subprocess.Popen[bytes], log: Path, begin: int) -> None:
    from rich.console import Console
    from rich.text import Text

    began = time.monotonic()
    console = Console(stderr=True)
    if console.is_interactive:
        with console.status("") as status:
            while not _ends_within(process, SHOW_EVERY_S):
                text = f"{time.monotonic() - began:4.0f} s  {last_line(log, begin)}"
                status.update(Text(text, no_wrap=True, overflow="ellipsis"))
        return
    while not _ends_within(process, TELL_EVERY_S):
        print(f"    {time.monotonic() - began:4.0f} s  {last_line(log, begin)}", file=sys.stderr, flush=True)


def _ends_within(process: subprocess.Popen[bytes], seconds: float) -> bool:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    return process.returncode is not None


def last_line(log: Path, begin: int = 0) -> str:
    """Return the last line with something in it that was written to a file after `begin` (bytes), fit to be shown."""
    with log.open("rb") as source:
        source.seek(max(begin, log.stat().st_size - LINE_WITHIN_BYTES))
        text = source.read().decode(errors="replace")
    lines = [_CONTROL.sub("", line).strip() for line in re.split(r"[\r\n]+", text)]
    return next((line for line in reversed(lines) if line), "")
