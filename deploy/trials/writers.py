"""The outside writers: POST listings on a fixed beat, each under a key of its own, and note what became of every try.

Runs as a program in the client's network (`python -m deploy.trials.writers URL ...`); needs only the standard library.
A try without an answer, or with one that leaves it unknown, is made again with the same key, as a client that must not
lose its listing would. What is acknowledged is read back once. Ends by itself after `--seconds`, or on SIGTERM.

Writes one JSON line per try and one per reading: the fields of `ledger.Try` and `ledger.Reading`.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import sys
import time
from typing import Any
from urllib.parse import urlsplit

from deploy.trials.traffic import (
    UNANSWERED,
    Note,
    be_a_machine_of_its_own,
    exchange,
    notes_in,
    on_the_beat,
    request_for,
    server_in,
)

# Longer than the front door waits for the backend, which says itself what became of a request.
TRY_S = 10.0
# So long a listing is tried again; longer than any outage that is asked about.
PATIENCE_S = 40.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 4.0
# The answers that say what became of the listing; after any other it is sent again.
ACKNOWLEDGED, REFUSED = (201, 202), (400, 409, 413, 422)


class Writers:
    """Where to write and where to note."""

    def __init__(self, url: str, prefix: str, note: Note, try_s: float = TRY_S) -> None:
        parts = urlsplit(url)
        self._host, self._port, self._path = parts.hostname or "", parts.port or 80, parts.path
        self._prefix, self._note, self._try_s = prefix, note, try_s
        self._numbers = itertools.count(1)

    async def write(self, stop: asyncio.Event) -> None:
        """Send one new listing until it is known what became of it, patience ends, or everything does."""
        key = f"{self._prefix}{next(self._numbers)}"
        deadline, pause_s = time.monotonic() + PATIENCE_S, FIRST_PAUSE_S
        while True:
            status, number = await self._try(key)
            if status in ACKNOWLEDGED and number is not None:
                await self._read(key, number)
            if status in ACKNOWLEDGED + REFUSED or stop.is_set() or time.monotonic() + pause_s > deadline:
                return
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _try(self, key: str) -> tuple[int, int | None]:
        body = json.dumps({"title": key, "city": "Sneek", "price": 350000}).encode()
        request = request_for(
            "POST", self._host, self._path, body, Idempotency_Key=key, Content_Type="application/json"
        )
        told: dict[str, Any] = {"key": key, "began": time.time()}
        began = time.monotonic()
        told.update(await self._answer(request))
        listing = told.pop("listing", None) or {}
        told.update(id=listing.get("id"), ended=time.time(), took_s=round(time.monotonic() - began, 4))
        self._note(told)
        return told["status"], told["id"]

    async def _read(self, key: str, number: int) -> None:
        told: dict[str, Any] = {"key": key, "at": time.time(), "id": number}
        told.update(await self._answer(request_for("GET", self._host, f"{self._path}/{number}")))
        listing = told.pop("listing", None) or {}
        self._note({**told, "found": str(listing.get("title", ""))})

    async def _answer(self, request: bytes) -> dict[str, Any]:
        """Return status, by and why, and the listing where the answer has one."""
        try:
            status, headers, body = await asyncio.wait_for(
                exchange(self._host, self._port, request, self._try_s), self._try_s
            )
        except UNANSWERED as error:
            return {"status": 0, "by": "", "why": str(error) or type(error).__name__}
        found = read_body(body)
        return {
            "status": status,
            "by": server_in(headers),
            "why": str(found.get("error", "")),
            "listing": found.get("listing"),
        }


def read_body(body: bytes) -> dict[str, Any]:
    """Return the JSON object of an answer; empty where it is none, as a proxy's own page."""
    try:
        found = json.loads(body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description="Write listings on a fixed beat and note what became of each.")
    parser.add_argument("url")
    parser.add_argument("--prefix", required=True, help="of the keys, which are numbered")
    parser.add_argument("--rate", type=float, default=20.0, help="listings per second")
    parser.add_argument("--seconds", type=float, default=300.0, help="end by itself after so long")
    given = parser.parse_args()
    be_a_machine_of_its_own()
    with notes_in(sys.stdout) as note:
        writers = Writers(given.url, given.prefix, note)
        asyncio.run(on_the_beat(given.rate, given.seconds, writers.write, TRY_S + 1))


if __name__ == "__main__":
    main()
