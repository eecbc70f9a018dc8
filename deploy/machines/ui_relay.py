"""A door from the host's browser to Consul's UI: 127.0.0.1:PORT on the host, 127.0.0.1:8500 inside a VM.

Each connection is served by a thread that enters a VM's network namespace just to connect (the namespace belongs
to a thread, and a socket stays in the one that it was made in). The first VM in the order that answers is used, so
the address outlives the VM that served it.
"""

from __future__ import annotations

import contextlib
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from deploy.machines.network import enter_network
from deploy.machines.places import CHECKOUT, LabError

CONSUL = ("127.0.0.1", 8500)
CONNECT_TIMEOUT_S = 1.0
CHUNK = 65536


def start(as_helper: Callable[[Sequence[str]], list[str]], port: int, namespaces: Sequence[str], log: Path) -> None:
    """Start the relay in the background; returns when it listens."""
    argv = as_helper(["setsid", "--fork", sys.executable, "-m", "deploy.machines.ui_relay", str(port), *namespaces])
    with log.open("ab") as sink:
        subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, cwd=CHECKOUT)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise LabError(f"the relay to Consul's UI did not start; see {log}")


def connect_to_first(namespaces: Sequence[str]) -> socket.socket | None:
    """Return a connection to Consul in the first namespace that answers; changes the thread's namespace."""
    for namespace in namespaces:
        with contextlib.suppress(OSError):
            enter_network(namespace)
            return socket.create_connection(CONSUL, timeout=CONNECT_TIMEOUT_S)
    return None


def serve(client: socket.socket, namespaces: Sequence[str]) -> None:
    """Carry one connection to its end, both ways."""
    with client:
        upstream = connect_to_first(namespaces)
        if upstream is None:
            return
        with upstream:
            upstream.settimeout(None)
            peers = {client: upstream, upstream: client}
            while peers:
                ready, _, _ = select.select(list(peers), [], [])
                for source in ready:
                    try:
                        piece = source.recv(CHUNK)
                        if piece:
                            peers[source].sendall(piece)
                            continue
                        peers[source].shutdown(socket.SHUT_WR)
                    except OSError:
                        return
                    del peers[source]


def main() -> None:
    port, namespaces = int(sys.argv[1]), sys.argv[2:]
    with socket.create_server(("127.0.0.1", port)) as listener:
        while True:
            client, _ = listener.accept()
            threading.Thread(target=serve, args=(client, namespaces), daemon=True).start()


if __name__ == "__main__":
    main()
