"""A command of the operator's: run once per notice, without a shell. The text comes on its stdin, the entry's fields as
ORCH_* in its environment, which holds nothing else of the daemon's.
"""

from __future__ import annotations

import os
import signal
import subprocess

from orchestrator.domain.sinks import SinkPolicy
from orchestrator.notify.notice import Notice, Templates, Undelivered, fields_of

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def run_command(sink: SinkPolicy, notice: Notice, templates: Templates) -> str:
    """Run the command; exit status 0 means delivered, anything else raises `Undelivered`.

    When its time is over it is killed with everything that it started.
    """
    text = templates.text(f"{sink.template}.txt.j2", notice)
    try:
        process = subprocess.Popen(
            sink.command,
            env=environment_of(notice),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        raise Undelivered(f"the command cannot be run: {getattr(error, 'strerror', None) or error}") from None
    with process:
        try:
            _, complaint = process.communicate(text, timeout=sink.timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise Undelivered(f"the command was killed after {sink.timeout_s:g} s") from None
    if process.returncode:
        said = " ".join(complaint.split())[-300:]
        raise Undelivered(f"the command ended with exit status {process.returncode}: {said or 'it said nothing'}")
    return "the command ended with exit status 0"


def environment_of(notice: Notice) -> dict[str, str]:
    """Return the command's environment; what the entry does not say is empty."""
    fields = {**fields_of(notice), "is_sample": "1" if notice.is_sample else ""}
    told = {f"ORCH_{name.upper()}": "" if value is None else str(value) for name, value in fields.items()}
    # No environment can hold a NUL.
    clean = {name: value.replace("\0", "") for name, value in told.items()}
    return {"PATH": _PATH, "LANG": "C.UTF-8", "HOME": os.environ.get("HOME", "/"), **clean}
