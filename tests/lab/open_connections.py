"""The outside client with connections that stay open: one that is kept for its next request, and a slow download.

Runs as a script in the client's network (`python -I open_connections.py HOST PATH`); needs only the standard library.
Says `open` when both are, ends when the kept one has ended (90 s later at the latest), and prints one JSON object:
`kept_by` (who answered on the kept connection), `while_moved` (its answers while new connections were answered
by another VM), `ended` (closed, open, or what went wrong), `download` (bytes, or what went wrong).
"""

from __future__ import annotations

import http.client
import json
import select
import socket
import sys
import threading
import time

EVERY_S = 0.1
LONGEST_S = 90.0
CHUNK = 256 * 1024


def connected(host: str) -> http.client.HTTPConnection:
    """Return a connection that is never opened again by itself."""
    link = http.client.HTTPConnection(host, timeout=5)
    link.connect()
    link.auto_open = False  # type: ignore[assignment]
    return link


def asked(link: http.client.HTTPConnection) -> str:
    """Send one request; return who answered."""
    link.request("GET", "/")
    answer = link.getresponse()
    answer.read()
    return answer.getheader("X-Front-Door") or ""


def ends(sock: socket.socket) -> bool:
    """Wait for the next turn; say whether the server has closed the connection meanwhile."""
    readable, _, _ = select.select([sock], [], [], EVERY_S)
    return bool(readable) and sock.recv(1) == b""


def slowly(link: http.client.HTTPConnection, told: dict[str, object]) -> None:
    """Read the answer, some 2.5 MB per second."""
    try:
        answer, read = link.getresponse(), 0
        while chunk := answer.read(CHUNK):
            read += len(chunk)
            time.sleep(EVERY_S)
        told["download"] = read
    except (OSError, http.client.HTTPException) as error:
        told["download"] = repr(error)


def main() -> None:
    """Keep both open and tell what became of them."""
    host, path = sys.argv[1:]
    told: dict[str, object] = {"download": "did not end"}
    kept, download = connected(host), connected(host)
    sock = kept.sock
    by, while_moved, ended = {asked(kept)}, 0, "open"
    download.request("GET", path)
    reader = threading.Thread(target=slowly, args=(download, told), daemon=True)
    reader.start()
    print("open", flush=True)
    deadline = time.monotonic() + LONGEST_S
    try:
        while ended == "open" and time.monotonic() < deadline:
            new = asked(connected(host))
            now = asked(kept)
            by.add(now)
            while_moved += new != now
            ended = "closed" if ends(sock) else "open"
    except (OSError, http.client.HTTPException) as error:
        ended = repr(error)
    reader.join(LONGEST_S)
    print(json.dumps({**told, "kept_by": sorted(by), "while_moved": while_moved, "ended": ended}), flush=True)


if __name__ == "__main__":
    main()
