"""A slow and lossy link for one VM: `tc netem` where the kernel has it, else a relay of the lab's own.

The relay stands between the VM's port and the bridge. The VM's port is taken off the bridge and a second link
is put on in its place; a process reads frames from the one side by AF_PACKET, waits, drops some, and writes them
to the other.

    VM eth0 ── v-VM  [relay]  s-VM ── b-VM ── bridge
"""

from __future__ import annotations

import contextlib
import heapq
import os
import random
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.machines.commands import run
from deploy.machines.network import BRIDGE, in_namespace, port_of
from deploy.machines.places import CHECKOUT, LabError

if TYPE_CHECKING:
    from deploy.machines.lab import Lab

FORCED_MEANS = "ORCH_SLOW_LINK"
ETH_P_ALL = 0x0003
SOL_PACKET, PACKET_IGNORE_OUTGOING = 263, 23
MAX_FRAME = 65536
# As netem's default limit: beyond it, frames are dropped instead of held.
MAX_HELD = 10_000


def _relay_ports(vm: str) -> tuple[str, str]:
    return f"s-{vm}"[:15], f"b-{vm}"[:15]


def _pid_file(lab: Lab, vm: str) -> Path:
    return lab.places.vm_home(vm) / "slow-link.pid"


def start(lab: Lab, vm: str, latency_ms: float, loss_percent: float) -> tuple[float, str]:
    """Slow the VM's link down, each way; returns the time from which it is slow, and by which means.

    ORCH_SLOW_LINK=relay: not by netem, although this kernel may have it.
    """
    at = time.time()
    if os.environ.get(FORCED_MEANS) != "relay" and _start_netem(lab, vm, latency_ms, loss_percent):
        return at, "netem"
    return _start_relay(lab, vm, latency_ms, loss_percent), "relay"


def _netem_places(lab: Lab, vm: str) -> list[tuple[str, str]]:
    """Both ends of the VM's link: netem works on what leaves an interface."""
    return [(lab.places.switch_namespace, port_of(vm)), (lab.places.vm_namespace(vm), "eth0")]


def _start_netem(lab: Lab, vm: str, latency_ms: float, loss_percent: float) -> bool:
    words = ["root", "netem", "delay", f"{latency_ms:g}ms", "loss", f"{loss_percent:g}%"]
    for namespace, interface in _netem_places(lab, vm):
        argv = ["tc", "-n", namespace, "qdisc", "replace", "dev", interface, *words]
        if run(argv, check=False).returncode != 0:
            _stop_netem(lab, vm)
            return False
    return True


def _stop_netem(lab: Lab, vm: str) -> None:
    for namespace, interface in _netem_places(lab, vm):
        run(["tc", "-n", namespace, "qdisc", "delete", "dev", interface, "root"], check=False)


def _start_relay(lab: Lab, vm: str, latency_ms: float, loss_percent: float) -> float:
    switch, port = lab.places.switch_namespace, port_of(vm)
    side, behind = _relay_ports(vm)
    run(["ip", "-n", switch, "link", "add", side, "type", "veth", "peer", "name", behind])
    for name in (side, behind):
        run(
            ["ip", "netns", "exec", switch, "ethtool", "-K", name, "tx", "off", "gso", "off", "gro", "off"], check=False
        )
        run(["ip", "-n", switch, "link", "set", name, "promisc", "on", "up"])
    run(["ip", "-n", switch, "link", "set", port, "promisc", "on"])
    ready = lab.places.vm_home(vm) / "slow-link.ready"
    ready.unlink(missing_ok=True)
    words = [port, side, str(latency_ms / 1000), str(loss_percent / 100), str(_pid_file(lab, vm)), str(ready)]
    relay = in_namespace(switch, ["setsid", "--fork", sys.executable, "-m", "deploy.machines.slow_link", *words])
    log = lab.places.vm_home(vm) / "slow-link.log"
    with log.open("ab") as sink:
        argv = lab.helper_command(relay)
        subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, cwd=CHECKOUT)
    deadline = time.monotonic() + 10
    while not ready.exists():
        if time.monotonic() > deadline:
            raise LabError(f"the relay for a slow link did not start; see {log}")
        time.sleep(0.01)
    at = time.time()
    run(["ip", "-n", switch, "link", "set", port, "nomaster"])
    run(["ip", "-n", switch, "link", "set", behind, "master", BRIDGE])
    return at


def stop(lab: Lab, vm: str) -> None:
    """Give the VM its plain link back."""
    switch, port = lab.places.switch_namespace, port_of(vm)
    _stop_netem(lab, vm)
    if not _pid_file(lab, vm).exists():
        return
    forget(lab, vm)
    run(["ip", "-n", switch, "link", "set", port, "master", BRIDGE])
    run(["ip", "-n", switch, "link", "set", port, "promisc", "off"])


def forget(lab: Lab, vm: str) -> None:
    """End the relay and remove its link, where there is one."""
    file = _pid_file(lab, vm)
    with contextlib.suppress(FileNotFoundError, ValueError, ProcessLookupError):
        pid = int(file.read_text())
        # PIDs are used again: only what is still this relay is ended.
        if b"deploy.machines.slow_link" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGTERM)
    file.unlink(missing_ok=True)
    run(["ip", "-n", lab.places.switch_namespace, "link", "delete", _relay_ports(vm)[0]], check=False)


# --- the relay itself, a process in the switch's network namespace ------------------------------------------


def _open_port(interface: str) -> socket.socket:
    port = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    port.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    port.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    port.bind((interface, 0))
    port.setblocking(False)
    return port


def relay(first: socket.socket, second: socket.socket, delay_s: float, loss: float) -> None:
    """Carry frames both ways, each after the delay, without a share of them; never returns."""
    peers = {first: second, second: first}
    held: list[tuple[float, int, socket.socket, bytes]] = []
    count = 0
    dice = random.Random()
    while True:
        wait_s = max(0.0, held[0][0] - time.monotonic()) if held else None
        ready, _, _ = select.select([first, second], [], [], wait_s)
        now = time.monotonic()
        for source in ready:
            with contextlib.suppress(BlockingIOError, OSError):
                for _ in range(64):
                    frame = source.recv(MAX_FRAME)
                    if dice.random() >= loss and len(held) < MAX_HELD:
                        count += 1
                        heapq.heappush(held, (now + delay_s, count, peers[source], frame))
        while held and held[0][0] <= time.monotonic():
            _, _, target, frame = heapq.heappop(held)
            with contextlib.suppress(OSError):
                target.send(frame)


def main() -> None:
    port, side, delay_s, loss, pid_file, ready_file = sys.argv[1:]
    Path(pid_file).write_text(str(os.getpid()))
    first, second = _open_port(port), _open_port(side)
    Path(ready_file).touch()
    relay(first, second, float(delay_s), float(loss))


if __name__ == "__main__":
    main()
