"""One network segment of the lab's own: a bridge in one namespace, a link from it to each machine's namespace.

The host's own network is not touched: every link is made inside the namespaces. The outside client is one more
port of the same bridge, in a namespace of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import ipaddress
import os
import socket
import struct
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from deploy.machines.commands import run
from deploy.machines.fleet import CLIENT_ADDRESS, PREFIX_LENGTH, Vm
from deploy.machines.places import LabPlaces

BRIDGE = "bridge"
VM_INTERFACE = "eth0"
CLIENT_PORT = "client"
# A veth hands unfinished checksums and oversized segments to its peer, which the relay and captures would see.
_OFFLOADS = ("tx", "off", "rx", "off", "sg", "off", "tso", "off", "gso", "off", "gro", "off")
CLONE_NEWNET = 0x40000000
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 0x1
_PORT_FORWARDING, _PORT_DISABLED = "3", "0"


def namespace_path(name: str) -> Path:
    return Path("/run/netns") / name


def in_namespace(name: str, argv: list[str]) -> list[str]:
    """Prefix a command so that it runs in a network namespace and keeps the host's file system as it is."""
    return ["nsenter", f"--net={namespace_path(name)}", "--", *argv]


def port_of(vm: str) -> str:
    """Return the name of the VM's port on the bridge: interface names have 15 characters at most."""
    return f"v-{vm}"[:15]


class Network:
    """The lab's segment. Every method can be repeated; removing what is not there is no error."""

    def __init__(self, places: LabPlaces) -> None:
        self.places = places

    def _ip(self, namespace: str, *words: str, check: bool = True) -> None:
        run(["ip", "-n", namespace, *words], check=check)

    def make_switch(self) -> None:
        """Make the bridge and the outside client beside it."""
        switch, client = self.places.switch_namespace, self.places.client_namespace
        run(["ip", "netns", "add", switch])
        self._ip(switch, "link", "set", "lo", "up")
        # No spanning tree and no delay: a port that comes up forwards at once. No snooping of multicast.
        options = ["stp_state", "0", "forward_delay", "0", "mcast_snooping", "0"]
        self._ip(switch, "link", "add", BRIDGE, "type", "bridge", *options)
        self._ip(switch, "link", "set", BRIDGE, "up")
        self._connect(client, CLIENT_PORT, CLIENT_ADDRESS)

    def connect_vm(self, vm: Vm) -> None:
        """Make the VM's namespace with its one link, addressed as a hypervisor would."""
        self._connect(self.places.vm_namespace(vm.name), port_of(vm.name), vm.address)

    def _connect(self, namespace: str, port: str, address: str) -> None:
        switch = self.places.switch_namespace
        run(["ip", "netns", "add", namespace])
        self._ip(namespace, "link", "set", "lo", "up")
        # The hardware address follows from the IP address: a machine that was switched off comes back with its own.
        hardware = "02:00:" + ":".join(f"{byte:02x}" for byte in ipaddress.ip_address(address).packed)
        peer = ["peer", "name", VM_INTERFACE, "address", hardware, "netns", namespace]
        self._ip(switch, "link", "add", port, "type", "veth", *peer)
        run(["ip", "netns", "exec", switch, "ethtool", "-K", port, *_OFFLOADS], check=False)
        run(["ip", "netns", "exec", namespace, "ethtool", "-K", VM_INTERFACE, *_OFFLOADS], check=False)
        self._ip(switch, "link", "set", port, "master", BRIDGE, "up")
        self._ip(namespace, "address", "add", f"{address}/{PREFIX_LENGTH}", "brd", "+", "dev", VM_INTERFACE)
        self._ip(namespace, "link", "set", VM_INTERFACE, "up")

    def disconnect_vm(self, vm: str) -> None:
        """Remove the VM's namespace and link, with every address and rule that the VM had put there."""
        self._ip(self.places.switch_namespace, "link", "delete", port_of(vm), check=False)
        remove_namespace(self.places.vm_namespace(vm))

    def link_down(self, vm: str) -> float:
        """Take the VM's link down, both ways; returns the wall-clock time at which that took effect."""
        return set_link(self.places.switch_namespace, port_of(vm), up=False)

    def link_up(self, vm: str) -> float:
        return set_link(self.places.switch_namespace, port_of(vm), up=True)

    def block_port(self, vm: str) -> None:
        """Let the bridge drop the VM's traffic both ways while its link stays up, as for a machine that hangs."""
        self._set_port(vm, _PORT_DISABLED)

    def unblock_port(self, vm: str) -> None:
        self._set_port(vm, _PORT_FORWARDING)

    def _set_port(self, vm: str, state: str) -> None:
        switch = self.places.switch_namespace
        run(["bridge", "-n", switch, "link", "set", "dev", port_of(vm), "state", state])

    def remove(self, vms: list[str]) -> None:
        """Remove every namespace of the lab; links and bridge go with them."""
        for vm in vms:
            remove_namespace(self.places.vm_namespace(vm))
        remove_namespace(self.places.client_namespace)
        remove_namespace(self.places.switch_namespace)


def enter_network(namespace: str) -> None:
    """Move the calling thread into a named network namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    handle = os.open(namespace_path(namespace), os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(handle, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"cannot enter the network namespace {namespace}")
    finally:
        os.close(handle)


def set_link(namespace: str, interface: str, *, up: bool) -> float:
    """Set a link up or down by one system call, in a thread that lives in its namespace.

    Returns the wall-clock time right before the call. Starting a program for it would blur that by
    milliseconds, and more on a busy host.
    """

    def act() -> float:
        enter_network(namespace)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            name = interface.encode()
            answer = fcntl.ioctl(control, SIOCGIFFLAGS, struct.pack("16sH14x", name, 0))
            flags = struct.unpack("16sH14x", answer)[1]
            wanted = flags | IFF_UP if up else flags & ~IFF_UP
            request = struct.pack("16sH14x", name, wanted)
            at = time.time()
            fcntl.ioctl(control, SIOCSIFFLAGS, request)
            return at

    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(act).result()


def remove_namespace(name: str) -> None:
    """Remove a named namespace, also one that an interruption left half-made (a name without a mount)."""
    if run(["ip", "netns", "delete", name], check=False).returncode != 0:
        with contextlib.suppress(FileNotFoundError, OSError):
            subprocess.run(["umount", "-l", str(namespace_path(name))], check=False, stderr=subprocess.DEVNULL)
            os.unlink(namespace_path(name))
