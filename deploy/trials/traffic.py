"""The outside client: asks a URL again and again on a fixed beat and notes what became of each request.

Runs as a script in the client's network (`python -I traffic.py URL ...`); needs only the standard library. Every
request is an idempotent GET on a connection of its own and starts on the beat whether or not the one before has been
answered, so that an outage is measured and not waited out. Ends by itself after `--seconds`, or on SIGTERM.

Writes one JSON line per request: `at` (start), `end` (wall-clock seconds), `ok`, `status`, `by` (who served), `why`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import time
from typing import TextIO
from urllib.parse import urlsplit


async def ask(host: str, port: int, path: str, timeout_s: float) -> tuple[int, str]:
    """Send one GET; return the status and who served it. Raises OSError, TimeoutError or ValueError."""
    reader, writer = await asyncio.wait_for(asyncio.open_connection(host, port), timeout_s)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), timeout_s)
        lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        # Served is who has the whole answer, however the connection ends afterwards.
        length = headers.get("content-length")
        await asyncio.wait_for(reader.readexactly(int(length)) if length else reader.read(-1), timeout_s)
    finally:
        writer.close()
    by = headers.get("x-served-by") or headers.get("x-front-door", "")
    return int(lines[0].split()[1]), by


async def note(out: TextIO, host: str, port: int, path: str, timeout_s: float) -> None:
    """Send one request and write its line."""
    at, status, by, why = time.time(), 0, "", ""
    try:
        status, by = await asyncio.wait_for(ask(host, port, path, timeout_s), timeout_s)
    except (OSError, ValueError, IndexError, EOFError, asyncio.LimitOverrunError, asyncio.TimeoutError) as error:
        why = str(error) or type(error).__name__
    line = {"at": at, "end": time.time(), "ok": status == 200, "status": status, "by": by, "why": why}
    out.write(json.dumps(line) + "\n")
    out.flush()


async def run(url: str, rate: float, timeout_s: float, seconds: float, out: TextIO) -> None:
    """Send requests at `rate` per second for `seconds`, then wait for the last answers."""
    parts = urlsplit(url)
    host, port, path = parts.hostname or "", parts.port or 80, parts.path or "/"
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    pending: set[asyncio.Task[None]] = set()
    started, sent = time.monotonic(), 0
    while not stop.is_set() and time.monotonic() - started < seconds:
        task = asyncio.create_task(note(out, host, port, path, timeout_s))
        pending.add(task)
        task.add_done_callback(pending.discard)
        sent += 1
        pause_s = started + sent / rate - time.monotonic()
        if pause_s > 0:
            await asyncio.sleep(pause_s)
    if pending:
        await asyncio.wait(pending, timeout=timeout_s + 1)


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description="Ask a URL on a fixed beat and note what became of each request.")
    parser.add_argument("url")
    parser.add_argument("--rate", type=float, default=50.0, help="requests per second")
    parser.add_argument("--timeout", type=float, default=3.0, help="seconds that one request may take")
    parser.add_argument("--seconds", type=float, default=300.0, help="end by itself after so long")
    given = parser.parse_args()
    asyncio.run(run(given.url, given.rate, given.timeout, given.seconds, sys.stdout))


if __name__ == "__main__":
    main()
