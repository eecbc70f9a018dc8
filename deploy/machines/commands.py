"""Run a program from an argument list, and say what went wrong in its own words. Never a shell string."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from deploy.machines.places import LabError

TAIL_LINES = 30


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
    """Run something long with its output appended to a file; raise LabError with the file's end on failure."""
    log.parent.mkdir(parents=True, exist_ok=True)
    words = [str(word) for word in argv]
    with log.open("ab") as sink:
        done = subprocess.run(
            words, check=False, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT
        )
    if done.returncode != 0:
        said = tail_of(log.read_text(errors="replace"))
        raise LabError(f"`{' '.join(words[:6])}` ended with {done.returncode} (all of it in {log}):\n{said}")
