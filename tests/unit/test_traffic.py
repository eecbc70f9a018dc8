"""The outside client: what counts as served."""

from __future__ import annotations

import asyncio
import io
import socket
import struct
import threading

import pytest

from deploy.trials.traffic import ask, notes_in

WHOLE = b"HTTP/1.1 200 OK\r\nX-Served-By: vm\r\nContent-Length: 5\r\n\r\nhello"


async def _answer_with(answer: bytes, *, reset: bool) -> tuple[int, str]:
    """Serve one request with these bytes, end the connection, and return what the client makes of it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        if reset:
            # What is written must have left: a reset takes what the client has not read yet with it.
            await asyncio.sleep(0.5)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        return await ask("127.0.0.1", server.sockets[0].getsockname()[1], "/", 2.0)


@pytest.mark.parametrize("reset", [False, True])
def test_a_whole_answer_counts_however_the_connection_ends(reset: bool) -> None:
    assert asyncio.run(_answer_with(WHOLE, reset=reset)) == (200, "vm")


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("answer", [WHOLE[:-1], WHOLE[:20], b""])
def test_half_an_answer_does_not(answer: bytes, reset: bool) -> None:
    with pytest.raises((EOFError, OSError)):
        asyncio.run(_answer_with(answer, reset=reset))


class BusyDisk(io.StringIO):
    """Takes nothing before it is free."""

    def __init__(self) -> None:
        super().__init__()
        self.is_free = threading.Event()

    def write(self, text: str) -> int:
        """Wait, then take it."""
        assert self.is_free.wait(10)
        return super().write(text)


def test_a_disk_that_is_busy_holds_up_nobody_and_gets_every_note() -> None:
    disk = BusyDisk()
    with notes_in(disk) as note:
        for number in range(3):
            note({"at": number})
        assert disk.getvalue() == ""
        disk.is_free.set()
    assert disk.getvalue() == '{"at": 0}\n{"at": 1}\n{"at": 2}\n'
