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
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TextIO
from urllib.parse import urlsplit

# What asking raises when there is no whole answer.
UNANSWERED = (OSError, ValueError, IndexError, EOFError, asyncio.LimitOverrunError, asyncio.TimeoutError)


Note = Callable[[Mapping[str, Any]], None]
"""Takes what is to be noted, one line as JSON. Never waits."""


@contextmanager
def notes_in(out: TextIO) -> Iterator[Note]:
    """Write notes by a thread of its own, all of them by the end of the block: a disk that the fleet keeps busy holds
    up nobody's beat (seen: the client stood still for 3 s, and its requests timed out)."""
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def write() -> None:
        while (line := lines.get()) is not None:
            out.write(line)
            out.flush()

    writing = threading.Thread(target=write, name="notes")
    writing.start()
    try:
        yield lambda told: lines.put(json.dumps(told) + "\n")
    finally:
        lines.put(None)
        writing.join()


def be_a_machine_of_its_own() -> None:
    """Have the cores when they are needed: the client is no part of the fleet, which computes on the same ones."""
    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))


async def exchange(host: str, port: int, request: bytes, timeout_s: float) -> tuple[int, dict[str, str], bytes]:
    """Send one request on a connection of its own; return status, headers (lower case) and body.

    Raises OSError, TimeoutError, EOFError or ValueError.
    """
    reader, writer = await asyncio.wait_for(asyncio.open_connection(host, port), timeout_s)
    try:
        writer.write(request)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), timeout_s)
        lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        # Served is who has the whole answer, however the connection ends afterwards.
        length = headers.get("content-length")
        body = await asyncio.wait_for(reader.readexactly(int(length)) if length else reader.read(-1), timeout_s)
    finally:
        writer.close()
    return int(lines[0].split()[1]), headers, body


def server_in(headers: dict[str, str]) -> str:
    """Return the VM that an answer says it comes from."""
    return headers.get("x-served-by") or headers.get("x-front-door", "")


def request_for(method: str, host: str, path: str, body: bytes = b"", **headers: str) -> bytes:
    """Return an HTTP request that ends its connection; an underscore in a header's name stands for a hyphen."""
    named = {"Host": host, "Connection": "close", **{name.replace("_", "-"): text for name, text in headers.items()}}
    if body:
        named["Content-Length"] = str(len(body))
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {text}" for name, text in named.items()), "", ""]
    return "\r\n".join(lines).encode() + body


async def ask(host: str, port: int, path: str, timeout_s: float) -> tuple[int, str]:
    """Send one GET; return the status and who served it. Raises as `exchange` does."""
    status, headers, _ = await exchange(host, port, request_for("GET", host, path), timeout_s)
    return status, server_in(headers)


async def ask_and_note(note: Note, host: str, port: int, path: str, timeout_s: float) -> None:
    """Send one request and write its line."""
    at, status, by, why = time.time(), 0, "", ""
    try:
        status, by = await asyncio.wait_for(ask(host, port, path, timeout_s), timeout_s)
    except UNANSWERED as error:
        why = str(error) or type(error).__name__
    note({"at": at, "end": time.time(), "ok": status == 200, "status": status, "by": by, "why": why})


async def run(url: str, rate: float, timeout_s: float, seconds: float, note: Note) -> None:
    """Send requests at `rate` per second for `seconds`, then wait for the last answers."""
    parts = urlsplit(url)
    host, port, path = parts.hostname or "", parts.port or 80, parts.path or "/"
    await on_the_beat(rate, seconds, lambda _: ask_and_note(note, host, port, path, timeout_s), timeout_s + 1)


async def on_the_beat(
    rate: float, seconds: float, start: Callable[[asyncio.Event], Coroutine[Any, Any, None]], last_s: float
) -> None:
    """Start one task per beat until `seconds` are over or SIGTERM comes, which sets the event that each task is given;
    then wait up to `last_s` for those under way."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    pending: set[asyncio.Task[None]] = set()
    started, sent = time.monotonic(), 0
    while not stop.is_set() and time.monotonic() - started < seconds:
        task = asyncio.create_task(start(stop))
        pending.add(task)
        task.add_done_callback(pending.discard)
        sent += 1
        pause_s = started + sent / rate - time.monotonic()
        if pause_s > 0:
            await asyncio.sleep(pause_s)
    stop.set()
    if pending:
        await asyncio.wait(pending, timeout=last_s)


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description="Ask a URL on a fixed beat and note what became of each request.")
    parser.add_argument("url")
    parser.add_argument("--rate", type=float, default=50.0, help="requests per second")
    parser.add_argument("--timeout", type=float, default=3.0, help="seconds that one request may take")
    parser.add_argument("--seconds", type=float, default=300.0, help="end by itself after so long")
    given = parser.parse_args()
    be_a_machine_of_its_own()
    with notes_in(sys.stdout) as note:
        asyncio.run(run(given.url, given.rate, given.timeout, given.seconds, note))


if __name__ == "__main__":
    main()
