"""Three network namespaces on one bridge: two VMs with a front door's address between them, and a client."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

VIP = "10.99.0.100"
FIRST, SECOND = "10.99.0.1", "10.99.0.2"
CAN_MAKE_NAMESPACES = os.geteuid() == 0 and shutil.which("ip") is not None

# Runs inside a namespace: one line of words in, one line out.
_SIDE = """
import sys, time
from orchestrator.node.address import Vip
from orchestrator.node.duties import Forwarding
vip = Vip("10.99.0.100", 24, "eth0")
for line in sys.stdin:
    verb, *words = line.split()
    given = [Forwarding(words[0], float(words[1]))] if verb == "take" and words else [float(word) for word in words]
    begin = time.perf_counter()
    answer = getattr(vip, verb)(*given)
    took_ms = (time.perf_counter() - begin) * 1000
    print(getattr(answer, "value", answer), round(took_ms, 1), flush=True)
"""


class Side:
    """One namespace with a `Vip` in a process of its own."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._process = subprocess.Popen(
            inside(name, sys.executable, "-c", _SIDE), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def does(self, *words: str) -> tuple[str, float]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(" ".join(words) + "\n")
        self._process.stdin.flush()
        word, took_ms = self._process.stdout.readline().split()
        return word, float(took_ms)

    def mac(self) -> str:
        return run_inside(self.name, "cat", "/sys/class/net/eth0/address").strip()

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


def inside(namespace: str, *command: str) -> list[str]:
    return ["ip", "netns", "exec", namespace, *command]


def run_inside(namespace: str, *command: str) -> str:
    return subprocess.run(inside(namespace, *command), check=True, capture_output=True, text=True).stdout


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@contextmanager
def two_sides_and_a_client() -> Iterator[tuple[Side, Side, str]]:
    """Two sides and the client's namespace; all of it is gone afterwards."""
    prefix = f"orchadr{os.getpid()}"
    names = [f"{prefix}{letter}" for letter in "abcs"]
    sides: list[Side] = []
    try:
        for name in names:
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        switch = names[3]
        _ip("-n", switch, "link", "add", "br0", "type", "bridge")
        _ip("-n", switch, "link", "set", "br0", "up")
        for number, name in enumerate(names[:3], 1):
            port = f"p{number}"
            _ip("-n", name, "link", "add", "eth0", "type", "veth", "peer", "name", port, "netns", switch)
            _ip("-n", name, "address", "add", f"10.99.0.{number}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")
            _ip("-n", switch, "link", "set", port, "master", "br0", "up")
        sides = [Side(name) for name in names[:2]]
        yield sides[0], sides[1], names[2]
    finally:
        for side in sides:
            side.stop()
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)
