"""Whether one of our daemons is alive: `GET /health` on the loopback, for the agent's check `<daemon>:alive`.

In: a beat from each round of the daemon's loop. Out: HTTP 200 while the last beat is young, else 503, with a JSON
body that a person can read. Must never do anything for the daemon: a stuck loop has to show. Beside it `/metrics`,
where the daemon has any: for Prometheus, also while the loop is stuck.
"""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Protocol


class Page(Protocol):
    """What `/metrics` shows. Called by the threads of the askers."""

    def watch(self, liveness: Liveness) -> None:
        """Tell from now on whether the loop goes round."""

    def page(self) -> tuple[str, bytes]:
        """Return content type and body."""


class Liveness:
    """Serves `http://127.0.0.1:<port>/health`, and `/metrics`, from threads of its own until closed."""

    def __init__(self, port: int, stale_after_s: float, daemon: str = "daemon", metrics: Page | None = None) -> None:
        """Bind the port at once (raises OSError when it is taken). Port 0 takes any; see `port`."""
        self._stale_after_s = stale_after_s
        self._daemon = daemon
        self._beat_at = time.monotonic()
        self._sentence = "has just started"
        self.metrics = metrics
        if metrics is not None:
            metrics.watch(self)
        self._server = _Server(("127.0.0.1", port), self)
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, name="liveness", daemon=True).start()

    def beat(self, sentence: str | None = None) -> None:
        """Say that the loop went round, and with `sentence` what it came to."""
        self._beat_at = time.monotonic()
        if sentence is not None:
            self._sentence = sentence

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()

    def report(self) -> tuple[bool, dict[str, object]]:
        """Return whether the loop is alive, and what `/health` answers."""
        age_s = time.monotonic() - self._beat_at
        alive = age_s <= self._stale_after_s
        # No age while it is alive: the agent hands each new output to the catalog, which wakes whoever watches checks.
        state = "is alive" if alive else f"is stuck: its loop went round {age_s:.1f} s ago"
        return alive, {"alive": alive, "sentence": f"orch {self._daemon} {state}; {self._sentence}"}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], liveness: Liveness) -> None:
        self.liveness = liveness
        super().__init__(address, _Handler)


class _Handler(BaseHTTPRequestHandler):
    timeout = 5
    server: _Server

    def do_GET(self) -> None:
        """Answer /health and /metrics; anything else is 404."""
        path, metrics = self.path.split("?")[0], self.server.liveness.metrics
        if path == "/health":
            alive, answer = self.server.liveness.report()
            self._answer(200 if alive else 503, "application/json", (json.dumps(answer) + "\n").encode())
        elif path == "/metrics" and metrics is not None:
            self._answer(200, *metrics.page())
        else:
            self.send_error(404)

    def _answer(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keep the journal free of one line per second."""
