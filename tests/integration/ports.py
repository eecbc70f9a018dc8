"""Ports for servers that a test starts: free now, and nobody else's while this process lives.

Below the range that the kernel takes the ports of outgoing connections from: one from inside it is free when it is
looked for, and some connection's own by the time the server listens.
"""

from __future__ import annotations

import errno
import random
import socket
from pathlib import Path

_LOWEST = 10_000
_TRIES = 1_000
_EPHEMERAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_reservations: list[socket.socket] = []
# Of its own: a seeded test must not give two processes the same ports to try.
_random = random.SystemRandom()


def free_port() -> int:
    """Return a loopback port that is free for TCP and UDP and reserved against other test processes."""
    highest = max(_LOWEST + 1, int(_EPHEMERAL_RANGE.read_text().split()[0]) - 1)
    for _ in range(_TRIES):
        port = _random.randint(_LOWEST, highest)
        if _is_free(port) and _reserved(port):
            return port
    raise RuntimeError(f"no free port between {_LOWEST} and {highest} in {_TRIES} tries")


def _is_free(port: int) -> bool:
    with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        try:
            tcp.bind(("127.0.0.1", port))
            udp.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _reserved(port: int) -> bool:
    """Claim the port for the life of this process, by a name in the abstract namespace that ends with it."""
    claim = socket.socket(socket.AF_UNIX)
    try:
        claim.bind(f"\0orch-test-port-{port}")
    except OSError as error:
        claim.close()
        if error.errno != errno.EADDRINUSE:
            raise
        return False
    _reservations.append(claim)
    return True
