"""Stands in for `ansible-playbook`: has the warm server run the play, or runs the real program when it cannot.

Run by ansible-runner as `python -I -S playbook_client.py ARGS...`. In: argv, environment, working directory and
the three standard descriptors, all of which are handed to the server (see `warm_server`). Out: the play's exit
status. Nothing here may import more than it must: this program's start is part of every failover.

Dying by any signal closes the connection, upon which the server kills the play and everything that it started.
"""

from __future__ import annotations

import _socket
import os
import struct
import sys

SOCKET_VARIABLE = "ORCH_WARM_SOCKET"
TRACE_VARIABLE = "ORCH_WARM_TRACE"
SERVER_LOST = 70
CONNECT_TIMEOUT_S = 1.0
_PLAIN = "import sys; sys.argv[0] = 'ansible-playbook'; from ansible.cli.playbook import main; main(sys.argv)"
_PR_SET_PDEATHSIG = 1
_SIGKILL = 9


def encode_play(argv: list[str], env: dict[str, str], cwd: str) -> bytes:
    """Return the frame that asks for a play: a length, then NUL-terminated cwd, argc, argv and VARIABLE=value."""
    fields = [cwd, str(len(argv)), *argv, *(f"{name}={value}" for name, value in env.items())]
    body = b"".join(os.fsencode(field) + b"\0" for field in fields)
    return struct.pack("!I", len(body)) + body


def connect_server(path: str) -> _socket.socket | None:
    """Return a connection to the warm server, or None when it is not there."""
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    connection.settimeout(CONNECT_TIMEOUT_S)
    try:
        connection.connect(path)
    except OSError:
        connection.close()
        return None
    return connection


def ask_server(connection: _socket.socket, frame: bytes) -> int | None:
    """Hand the play over; return its exit status, or None when the server declined (nothing was run)."""
    descriptors = struct.pack("iii", 0, 1, 2)
    try:
        sent = connection.sendmsg([frame], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, descriptors)])
        while sent < len(frame):
            sent += connection.send(frame[sent:])
        verdict = connection.recv(1)
    except OSError:
        return SERVER_LOST
    if verdict == b"n":
        return None
    if verdict != b"y":
        return SERVER_LOST
    connection.settimeout(None)
    status = connection.recv(4)
    return int(struct.unpack("!i", status)[0]) if len(status) == 4 else SERVER_LOST


def trace_start(how: str) -> None:
    """Leave a note of how the play was started, for tests and `make bench`."""
    path = os.environ.get(TRACE_VARIABLE)
    if path:
        with open(path, "a") as trace:
            trace.write(how + "\n")


def exec_plain(argv: list[str]) -> None:
    """Become the real ansible-playbook, which dies with ansible-runner's thread as a warm play would."""
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
    os.execv(sys.executable, [sys.executable, "-c", _PLAIN, *argv])


def main() -> None:
    """Run the play warm if possible, plain otherwise; exit with its status."""
    argv = sys.argv[1:]
    path = os.environ.get(SOCKET_VARIABLE)
    connection = connect_server(path) if path else None
    status = None
    if connection is not None:
        status = ask_server(connection, encode_play(argv, dict(os.environ), os.getcwd()))
    if status is not None:
        trace_start("warm")
        sys.exit(status)
    trace_start("plain")
    exec_plain(argv)


if __name__ == "__main__":
    main()
