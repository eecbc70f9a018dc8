"""The outside writers against a front door that fails: what they note, and what they try again."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable
from typing import Any

from deploy.trials import writers as writing
from deploy.trials.ledger import Reading, Try, note_of
from deploy.trials.traffic import notes_in
from deploy.trials.writers import Writers

Answer = tuple[int, dict[str, Any]]


def notes_against(answers: Callable[[str, str, dict[str, str]], Answer | None], monkeypatch: Any) -> list[Any]:
    """Write one listing to a server that answers so (None: not at all); return the notes."""
    monkeypatch.setattr(writing, "FIRST_PAUSE_S", 0.01)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.split("\r\n")
        headers = {name.lower(): text.strip() for name, _, text in (line.partition(":") for line in lines)}
        await reader.readexactly(int(headers.get("content-length", 0)))
        method, path, _ = first.split()
        if (answer := answers(method, path, headers)) is not None:
            body = json.dumps(answer[1]).encode()
            head = f"HTTP/1.1 {answer[0]} X\r\nX-Served-By: vm\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            await writer.drain()
        writer.close()

    async def once() -> str:
        server, out = await asyncio.start_server(serve, "127.0.0.1", 0), io.StringIO()
        async with server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/api/listings"
            with notes_in(out) as note:
                await Writers(url, "p-", note, try_s=2.0).write(asyncio.Event())
        return out.getvalue()

    return [note_of(line) for line in asyncio.run(once()).splitlines()]


def test_an_acknowledged_listing_is_noted_with_its_id_and_server_and_read_back(monkeypatch: Any) -> None:
    def answers(method: str, path: str, headers: dict[str, str]) -> Answer:
        return (201 if method == "POST" else 200), {"listing": {"id": 7, "title": "p-1"}}

    one, back = notes_against(answers, monkeypatch)
    assert isinstance(one, Try)
    assert (one.key, one.status, one.id, one.by, one.is_acknowledged) == ("p-1", 201, 7, "vm", True)
    assert isinstance(back, Reading)
    assert (back.key, back.id, back.status, back.found) == ("p-1", 7, 200, "p-1")


def test_a_listing_whose_outcome_is_unknown_is_sent_again_under_the_same_key(monkeypatch: Any) -> None:
    keys: list[str] = []

    def answers(method: str, path: str, headers: dict[str, str]) -> Answer | None:
        if method == "GET":
            return 404, {"error": "there is no listing"}
        keys.append(headers["idempotency-key"])
        return [None, (503, {"error": "not now"}), (202, {"listing": {"id": 7, "title": "p-1"}})][len(keys) - 1]

    *tries, back = notes_against(answers, monkeypatch)
    assert keys == ["p-1"] * 3
    assert [(one.status, one.is_acknowledged) for one in tries] == [(0, False), (503, False), (202, True)]
    assert tries[1].why == "not now"
    assert (back.status, back.found) == (404, "")


def test_a_listing_that_is_refused_is_not_sent_again(monkeypatch: Any) -> None:
    (one,) = notes_against(lambda *_: (409, {"error": "of another listing"}), monkeypatch)
    assert (one.status, one.is_acknowledged) == (409, False)
