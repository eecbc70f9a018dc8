"""A receiver of notices in the outside client's network.

Runs as a script (`python -I notice_sink.py ADDRESS PORT [mute]`); needs only the standard library. Writes one JSON line
per POST: `key` (its `Idempotency-Key`) and `notice` (the body). One that is mute takes it and never answers.
"""

from __future__ import annotations

import json
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer


class Sink(BaseHTTPRequestHandler):
    """Takes whatever is posted."""

    def do_POST(self) -> None:
        """Note it, then say that it was taken, or nothing for longer than anybody waits."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        print(json.dumps({"key": self.headers["Idempotency-Key"], "notice": body}), flush=True)
        if "mute" in sys.argv[3:]:
            time.sleep(600)
        self.send_response(204)
        self.end_headers()


if __name__ == "__main__":
    HTTPServer((sys.argv[1], int(sys.argv[2])), Sink).serve_forever()
