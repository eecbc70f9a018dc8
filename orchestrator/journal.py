"""Logs of the daemons: one line per event on stdout, which systemd hands to the journal.

In: records of `logging`, with the extra fields of `FIELDS` where they are known
(`log.info("…", extra={"service": "backend", "epoch": 7})`). Out: `LEVEL service=backend epoch=7: sentence`, led by
the syslog priority that systemd understands (sd-daemon(3)), or by the time where stdout is not the journal.
Callers never pass a secret. systemd's own Python module, which would hand fields over
apart, has to be compiled on each VM: the lines carry them.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time

FIELDS = ("service", "vm", "epoch", "request", "command")
"""In the order in which they stand; docs/operations.md says what each is. Of several commands a comma parts the ids."""
# What else a value holds (a request may name anything as its service) must not look like another field.
_PLAIN = re.compile(r"[A-Za-z0-9_.,:@/+-]+")
_PRIORITIES = {logging.CRITICAL: 2, logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6, logging.DEBUG: 7}
# They log every connection that is retried; ours say what it means.
_NOISY = ("urllib3", "requests", "pika", "consul")


class _OneLine(logging.Formatter):
    def __init__(self, *, to_journal: bool) -> None:
        super().__init__()
        self._to_journal = to_journal

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line, its traceback (if any) folded in."""
        fields = "".join(
            f" {name}={_shown(str(value))}" for name in FIELDS if (value := getattr(record, name, None)) is not None
        )
        text = record.getMessage()
        if record.exc_info:
            text = f"{text} | {self.formatException(record.exc_info)}"
        line = f"{record.levelname}{fields}: {text}".replace("\r", "").replace("\n", " | ")
        if self._to_journal:
            return f"<{_PRIORITIES.get(record.levelno, 6)}>{line}"
        at = time.strftime("%H:%M:%S", time.localtime(record.created))
        return f"{at}.{int(record.msecs):03d} {line}"


def _shown(value: str) -> str:
    return value if _PLAIN.fullmatch(value) else json.dumps(value)


def configure_journal(level: int = logging.INFO) -> None:
    """Send every log of this process to stdout. To be called once, by the daemon's `main`."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_OneLine(to_journal="JOURNAL_STREAM" in os.environ))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.CRITICAL)
