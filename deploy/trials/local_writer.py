"""A client on a VM that writes straight into a database, past front door and backend, and notes what was acknowledged.

Runs inside the VM (`/opt/orch/venv/bin/python -c ... HOST ...`) under the application's account; needs PyMySQL.
Several connections, so that one commit that never ends does not keep the others from trying. Ends by itself after
`seconds`, or when its standard input does: signals do not reach into the VM.

Writes one JSON line per try: the fields of `ledger.Try`, with status 201 for what the database acknowledged.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import threading
import time
from typing import Any

import pymysql

PASSWORD_FILE = "/etc/orch/app/database_password"
CA_FILE = "/etc/orch/tls/ca.pem"
ACCOUNT, SCHEMA, PORT = "orch_app", "listings", 3306
INSERT = (
    "INSERT INTO listings (request_key, title, city, price, created_at) VALUES (%s, %s, 'Sneek', 1, UTC_TIMESTAMP(3))"
)
CONNECTIONS = 4
# A commit that nobody acknowledges is given up, as its outcome is unknown anyway.
TRY_S = 1.0


def write(link: Any, key: str) -> int:
    """Insert one listing; return its id once the database has acknowledged it."""
    with link.cursor() as cursor:
        cursor.execute(INSERT, (key, key))
        return int(cursor.lastrowid)


def connected(host: str, port: int, password: str, ca_file: str) -> Any:
    """Return a connection that commits each statement by itself."""
    return pymysql.connect(
        host=host, port=port, user=ACCOUNT, password=password, database=SCHEMA, autocommit=True,
        ssl_ca=ca_file, ssl_verify_cert=True, ssl_verify_identity=True,
        connect_timeout=TRY_S, read_timeout=TRY_S, write_timeout=TRY_S,
    )  # fmt: skip


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Write into a database and note what it acknowledged.")
    parser.add_argument("host")
    parser.add_argument("--prefix", required=True, help="of the keys, which are numbered")
    parser.add_argument("--by", required=True, help="the name that the notes give to the database")
    parser.add_argument("--rate", type=float, default=20.0, help="listings per second")
    parser.add_argument("--seconds", type=float, default=300.0, help="end by itself after so long")
    parser.add_argument("--port", type=int, default=PORT)
    parser.add_argument("--password-file", default=PASSWORD_FILE)
    parser.add_argument("--ca-file", default=CA_FILE)
    return parser.parse_args()


def main() -> None:
    """Write on every connection, each on a beat of its own, until the end."""
    given = _options()
    with open(given.password_file) as file:
        password = file.read().strip()
    numbers, lock, ended = itertools.count(1), threading.Lock(), threading.Event()

    def note(told: dict[str, Any]) -> None:
        with lock:
            print(json.dumps(told), flush=True)

    def go_on() -> None:
        link = None
        while not ended.is_set():
            key = f"{given.prefix}{next(numbers)}"
            told: dict[str, Any] = {"key": key, "began": time.time(), "status": 0, "by": given.by, "id": None}
            began, why = time.monotonic(), ""
            try:
                link = link or connected(given.host, given.port, password, given.ca_file)
                told.update(id=write(link, key), status=201)
            except (pymysql.MySQLError, OSError) as error:
                link, why = None, str(error)
            took_s = time.monotonic() - began
            note({**told, "why": why, "ended": time.time(), "took_s": round(took_s, 4)})
            ended.wait(max(0.01, CONNECTIONS / given.rate - took_s))

    for _ in range(CONNECTIONS):
        threading.Thread(target=go_on, daemon=True).start()
    threading.Timer(given.seconds, lambda: os._exit(0)).start()
    sys.stdin.read()
    ended.set()
    # A commit that hangs is not waited for.
    os._exit(0)


if __name__ == "__main__":
    main()
