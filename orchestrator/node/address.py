"""The front door's address on this VM: taken, announced, handed over, dropped.

In: a `FrontDoorPolicy`. Out: changes of interfaces and gratuitous ARP (RFC 5227, section 3), or a hook's run.
The state is read from the kernel, so a restarted guard finds what it left. Must never announce an address that
was dropped. Whether it may be held is decided in `node.duty`, not here.
"""

from __future__ import annotations

import logging
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from orchestrator.domain.policy import FrontDoorPolicy
from orchestrator.node.duties import Forwarding
from orchestrator.node.handover import Forwarder
from orchestrator.node.hook import Hook
from orchestrator.node.netlink import add_address, delete_address, interfaces_with
from orchestrator.node.situation import AddressState

_LOOPBACK = "lo"
# A neighbour may be busy or the first frame lost: more than the two of RFC 5227, all within the first seconds.
_ANNOUNCE_AGAIN_AFTER_S = (0.05, 0.15, 0.8, 2.0)
_ETH_ARP = 0x0806
_ARP_HEAD = struct.pack("!HHBB", 1, 0x0800, 6, 4)  # Ethernet, IPv4, and the lengths of their addresses
_ARP_LENGTH = 42
_BROADCAST = b"\xff" * 6
# A neighbour answers within a millisecond or two.
_PROBE_WAIT_S = 0.03
# As many frames are still read after that, so that a segment full of ARP does not keep the guard.
_PROBE_BACKLOG = 256
# As for any server behind a shared address on its loopback (LVS direct routing): neither answer ARP for it nor use
# it as the sender of our own ARP requests, or the neighbours would go on sending to us.
# The deployment sets both for all interfaces; where it did not, the guard does for its own.
_SILENT_ON_LOOPBACK = {"arp_ignore": 1, "arp_announce": 2}

log = logging.getLogger(__name__)


class AddressTrouble(Exception):
    """The address could not be changed; the sentence says why."""


class Door(Protocol):
    """What a guard does with a front door."""

    def state(self) -> AddressState:
        """Read where the address is."""

    def take(self, forwarding: Forwarding | None = None) -> None:
        """Bring it up here and announce it, passing on what belongs to the previous holder; raises AddressTrouble."""

    def hand_over(self) -> None:
        """Keep it for open connections only; raises AddressTrouble."""

    def drop(self) -> None:
        """Remove it; raises AddressTrouble."""

    def is_contested(self) -> bool:
        """Ask the network whether another VM has it, too; False when that cannot be found out."""

    def tidy(self, after_s: float) -> None:
        """Remove then what a guard that died may have left of a move."""

    def trouble(self) -> str:
        """Return what hinders it at present, for people; empty when nothing does."""


def door_for(service: str, vm: str, policy: FrontDoorPolicy | None) -> Door | None:
    """Return the door of the policy's kind; None where the guard has nothing to do (none, or Consul DNS)."""
    if policy is None or policy.kind == "dns":
        return None
    if policy.kind == "vip" and policy.address:
        return Vip(policy.address, policy.prefix, policy.interface)
    return Hook(policy.command, {"ORCH_SERVICE": service, "ORCH_VM": vm, "ORCH_ADDRESS": policy.address or ""})


def arp_frames(mac: bytes, address: str) -> tuple[bytes, bytes]:
    """Return the announcement as an ARP request and as a reply: some systems heed only one of the two."""
    ip = socket.inet_aton(address)
    return _arp(mac, 1, ip, bytes(6), ip), _arp(mac, 2, ip, mac, ip)


def arp_probe(mac: bytes, address: str) -> bytes:
    """Return the question whether anybody has the address (sender address 0.0.0.0)."""
    return _arp(mac, 1, bytes(4), bytes(6), socket.inet_aton(address))


def arp_sender(frame: bytes) -> tuple[bytes, str] | None:
    """Return the sender's MAC and IP address of an ARP frame; None when it is none."""
    if len(frame) < _ARP_LENGTH or frame[12:14] != struct.pack("!H", _ETH_ARP) or frame[14:20] != _ARP_HEAD:
        return None
    return frame[22:28], socket.inet_ntoa(frame[28:32])


def _arp(mac: bytes, operation: int, sender_ip: bytes, target_mac: bytes, target_ip: bytes) -> bytes:
    ethernet = _BROADCAST + mac + struct.pack("!H", _ETH_ARP)
    return ethernet + _ARP_HEAD + struct.pack("!H", operation) + mac + sender_ip + target_mac + target_ip


def _mac_of(interface: str) -> bytes:
    return bytes.fromhex(Path(f"/sys/class/net/{interface}/address").read_text().strip().replace(":", ""))


def _be_silent_for_loopback(interface: str) -> None:
    """Make sure of `_SILENT_ON_LOOPBACK`; raises OSError. The kernel takes the higher of the two values."""
    for name, needed in _SILENT_ON_LOOPBACK.items():
        paths = [Path(f"/proc/sys/net/ipv4/conf/{scope}/{name}") for scope in (interface, "all")]
        if max(int(path.read_text()) for path in paths) < needed:
            paths[0].write_text(str(needed))


class Vip:
    """An IPv4 address of the fleet's network that follows the role lock."""

    def __init__(self, address: str, prefix: int, interface: str) -> None:
        self._address = address
        self._prefix = prefix
        self._interface = interface
        self._quiet = threading.Event()
        self._announcer: threading.Thread | None = None
        # Kept open: closing a packet socket waits for the kernel's other CPUs, some 10 ms.
        self._raw: socket.socket | None = None
        self._forwarder = Forwarder(address)

    def state(self) -> AddressState:
        """See `Door.state`. UNKNOWN when the kernel does not answer."""
        try:
            devices = [interface for interface, _ in interfaces_with(self._address)]
        except OSError:
            return AddressState.UNKNOWN
        if self._interface in devices:
            return AddressState.UP
        return AddressState.HANDED_OVER if _LOOPBACK in devices else AddressState.NONE

    def take(self, forwarding: Forwarding | None = None) -> None:
        """See `Door.take`. The first announcement is out when this returns."""
        self._be_quiet()
        if forwarding is not None:
            # Before the first packet can come that this VM would answer with a reset.
            self._forwarder.begin(forwarding)
        with _as_trouble(f"{self._address} cannot be taken on {self._interface}"):
            add_address(self._address, self._prefix, self._interface)
            self._announce()
            delete_address(self._address, 32, _LOOPBACK)
        self._quiet = threading.Event()
        self._announcer = threading.Thread(
            target=self._announce_again, args=(self._quiet,), name="announcer", daemon=True
        )
        self._announcer.start()

    def hand_over(self) -> None:
        """See `Door.hand_over`. Dropped instead when the VM could not be kept from answering ARP for it."""
        self._be_quiet()
        # Two VMs that forward to each other would do so until the packet's time to live is over.
        self._forwarder.end()
        try:
            _be_silent_for_loopback(self._interface)
        except OSError as error:
            self.drop()
            raise AddressTrouble(f"{self._address} was dropped instead of handed over: {error}") from error
        with _as_trouble(f"{self._address} cannot be handed over"):
            add_address(self._address, 32, _LOOPBACK)
            self._delete_from(self._interface)

    def drop(self) -> None:
        """See `Door.drop`."""
        self._be_quiet()
        with _as_trouble(f"{self._address} cannot be dropped"):
            self._delete_from(self._interface, _LOOPBACK)

    def is_contested(self) -> bool:
        """See `Door.is_contested`: an address probe of RFC 5227, which changes nobody's cache."""
        try:
            mac = _mac_of(self._interface)
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_ARP)) as raw:
                raw.bind((self._interface, _ETH_ARP))
                raw.send(arp_probe(mac, self._address))
                deadline, backlog = time.monotonic() + _PROBE_WAIT_S, _PROBE_BACKLOG
                while backlog > 0:
                    left_s = deadline - time.monotonic()
                    backlog -= left_s <= 0
                    # What is in the socket at the deadline came in time: it was this process that had to wait for
                    # a processor. Read without waiting, and nothing left to read ends the loop as a timeout does.
                    raw.settimeout(max(0.0, left_s))
                    sender = arp_sender(raw.recv(2048))
                    if sender is not None and sender[1] == self._address and sender[0] != mac:
                        return True
        except OSError:
            pass
        return False

    def tidy(self, after_s: float) -> None:
        """See `Door.tidy`."""
        self._forwarder.end_after(after_s)

    def trouble(self) -> str:
        """See `Door.trouble`: what cannot be done raises at once."""
        return ""

    def _delete_from(self, *interfaces: str) -> None:
        """Delete it whatever its prefix is: the policy's may have changed since."""
        for interface, prefix in interfaces_with(self._address):
            if interface in interfaces:
                delete_address(self._address, prefix, interface)

    def _be_quiet(self) -> None:
        """End the announcements of the past before anything changes."""
        self._quiet.set()
        if self._announcer is not None:
            self._announcer.join(1.0)
            self._announcer = None

    def _announce(self) -> None:
        if self._raw is None:
            self._raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        for frame in arp_frames(_mac_of(self._interface), self._address):
            self._raw.sendto(frame, (self._interface, 0))

    def _announce_again(self, quiet: threading.Event) -> None:
        for pause_s in _ANNOUNCE_AGAIN_AFTER_S:
            if quiet.wait(pause_s):
                return
            try:
                self._announce()
            except OSError as error:
                log.warning("%s could not be announced again: %s", self._address, error)


@contextmanager
def _as_trouble(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise AddressTrouble(f"{what}: {error}") from error
