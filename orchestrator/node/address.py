"""The front door's address on this VM: taken, announced, handed over, dropped.

In: a `FrontDoorPolicy`. Out: changes through `ip` and gratuitous ARP (RFC 5227, section 3), or a hook's run.
The state is read from the kernel, so a restarted guard finds what it left. Must never announce an address that
was dropped. Whether it may be held is decided in `node.duty`, not here.
"""

from __future__ import annotations

import logging
import os
import queue
import socket
import struct
import subprocess
import threading
from pathlib import Path
from typing import Protocol

from orchestrator.domain.policy import FrontDoorPolicy
from orchestrator.node.situation import AddressState

_IP_TIMEOUT_S = 5.0
_HOOK_TIMEOUT_S = 60.0
# A neighbour may be busy or the first frame lost: more than the two of RFC 5227, all within the first seconds.
_ANNOUNCE_AGAIN_AFTER_S = (0.05, 0.15, 0.8, 2.0)
_ETH_ARP = 0x0806
_BROADCAST = b"\xff" * 6
# As for any server behind a shared address on its loopback (LVS direct routing): neither answer ARP for it nor use
# it as the sender of our own ARP requests, or the neighbours would go on sending to us.
_SILENT_ON_LOOPBACK = {"arp_ignore": "1", "arp_announce": "2"}

log = logging.getLogger(__name__)


class AddressTrouble(Exception):
    """The address could not be changed; the sentence says why."""


class Door(Protocol):
    """What a guard does with a front door."""

    def state(self) -> AddressState:
        """Read where the address is."""

    def take(self) -> None:
        """Bring it up here and announce it; raises AddressTrouble."""

    def hand_over(self) -> None:
        """Keep it for open connections only; raises AddressTrouble."""

    def drop(self) -> None:
        """Remove it; raises AddressTrouble."""


def door_for(service: str, vm: str, policy: FrontDoorPolicy | None) -> Door | None:
    """Return the door of the policy's kind; None where the guard has nothing to do (none, or Consul DNS)."""
    if policy is None or policy.kind == "dns":
        return None
    if policy.kind == "vip" and policy.address:
        return Vip(policy.address, policy.prefix, policy.interface)
    return Hook(policy.command, {"ORCH_SERVICE": service, "ORCH_VM": vm, "ORCH_ADDRESS": policy.address or ""})


def _ip(*words: str, lines: str = "") -> str:
    """Run `ip` and return what it prints; raises AddressTrouble."""
    try:
        done = subprocess.run(
            ["ip", *words], input=lines, capture_output=True, text=True, timeout=_IP_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise AddressTrouble(f"ip could not be run: {error}") from error
    if done.returncode:
        raise AddressTrouble(f"ip {' '.join(words)} {lines.strip()}: {done.stderr.strip()}")
    return done.stdout


def _run_ip(*lines: str) -> None:
    """Run the lines in one `ip`; later ones run although an earlier one failed."""
    _ip("-force", "-batch", "-", lines="\n".join(lines) + "\n")


def arp_frames(mac: bytes, address: str) -> tuple[bytes, bytes]:
    """Return the announcement as an ARP request and as a reply: some systems heed only one of the two."""
    ip = socket.inet_aton(address)
    ethernet = _BROADCAST + mac + struct.pack("!H", _ETH_ARP)
    head = struct.pack("!HHBB", 1, 0x0800, 6, 4)
    request = ethernet + head + struct.pack("!H", 1) + mac + ip + bytes(6) + ip
    reply = ethernet + head + struct.pack("!H", 2) + mac + ip + mac + ip
    return request, reply


def announce(interface: str, address: str) -> None:
    """Send both frames once; raises OSError."""
    mac = bytes.fromhex(Path(f"/sys/class/net/{interface}/address").read_text().strip().replace(":", ""))
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((interface, 0))
        for frame in arp_frames(mac, address):
            raw.send(frame)


class Vip:
    """An IPv4 address of the fleet's network that follows the role lock."""

    def __init__(self, address: str, prefix: int, interface: str) -> None:
        self._address = address
        self._prefix = prefix
        self._interface = interface
        self._quiet = threading.Event()
        self._announcer: threading.Thread | None = None

    def state(self) -> AddressState:
        """See `Door.state`. UNKNOWN when `ip` does not answer."""
        try:
            devices = self._devices()
        except AddressTrouble:
            return AddressState.UNKNOWN
        if self._interface in devices:
            return AddressState.UP
        return AddressState.HANDED_OVER if "lo" in devices else AddressState.NONE

    def take(self) -> None:
        """See `Door.take`. The first announcement is out when this returns."""
        self._be_quiet()
        _run_ip(f"address replace {self._address}/{self._prefix} dev {self._interface}")
        try:
            announce(self._interface, self._address)
        except OSError as error:
            raise AddressTrouble(f"{self._address} is up, but could not be announced: {error}") from error
        self._quiet = threading.Event()
        self._announcer = threading.Thread(
            target=self._announce_again, args=(self._quiet,), name="announcer", daemon=True
        )
        self._announcer.start()
        if "lo" in self._devices():
            _run_ip(f"address del {self._address}/32 dev lo")

    def hand_over(self) -> None:
        """See `Door.hand_over`."""
        self._be_quiet()
        for name, value in _SILENT_ON_LOOPBACK.items():
            try:
                Path(f"/proc/sys/net/ipv4/conf/{self._interface}/{name}").write_text(value)
            except OSError as error:
                self.drop()
                raise AddressTrouble(f"dropped instead of handed over: {name} cannot be set: {error}") from error
        _run_ip(
            f"address replace {self._address}/32 dev lo",
            f"address del {self._address}/{self._prefix} dev {self._interface}",
        )

    def drop(self) -> None:
        """See `Door.drop`."""
        self._be_quiet()
        prefixes = {self._interface: self._prefix, "lo": 32}
        lines = [f"address del {self._address}/{prefixes[at]} dev {at}" for at in self._devices() if at in prefixes]
        if lines:
            _run_ip(*lines)

    def _devices(self) -> list[str]:
        """Return the devices that have the address; raises AddressTrouble."""
        shown = _ip("-oneline", "address", "show", "to", f"{self._address}/32")
        return [line.split()[1] for line in shown.splitlines()]

    def _be_quiet(self) -> None:
        """End the announcements of the past before anything changes."""
        self._quiet.set()
        if self._announcer is not None:
            self._announcer.join(1.0)
            self._announcer = None

    def _announce_again(self, quiet: threading.Event) -> None:
        for pause_s in _ANNOUNCE_AGAIN_AFTER_S:
            if quiet.wait(pause_s):
                return
            try:
                announce(self._interface, self._address)
            except OSError as error:
                log.warning("%s could not be announced again: %s", self._address, error)


class Hook:
    """A command of the operator's that moves a cloud's address. Called as `COMMAND… take` or `COMMAND… drop`, with
    ORCH_SERVICE, ORCH_VM and ORCH_ADDRESS in the environment. Both must be idempotent (a restarted guard takes again),
    and `drop` must leave an address alone that is on another VM already.
    """

    def __init__(self, command: tuple[str, ...], environment: dict[str, str]) -> None:
        self._command = command
        self._environment = environment
        self._state = AddressState.NONE
        self._actions: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._run_in_order, name="front-door hook", daemon=True).start()

    def state(self) -> AddressState:
        """See `Door.state`: what was last asked for."""
        return self._state

    def take(self) -> None:
        """See `Door.take`. Does not wait: a cloud may take seconds."""
        self._state = AddressState.UP
        self._actions.put("take")

    def hand_over(self) -> None:
        """See `Door.hand_over`. Only the new holder's `take` moves a cloud's address without a gap."""
        self._state = AddressState.NONE

    def drop(self) -> None:
        """See `Door.drop`."""
        self._state = AddressState.NONE
        self._actions.put("drop")

    def _run_in_order(self) -> None:
        while True:
            action = self._actions.get()
            try:
                done = subprocess.run(
                    [*self._command, action],
                    env={**os.environ, **self._environment},
                    capture_output=True,
                    text=True,
                    timeout=_HOOK_TIMEOUT_S,
                    check=False,
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                log.error("the front-door hook could not be run for %s: %s", action, error)
                continue
            if done.returncode:
                log.error("the front-door hook failed on %s (%d): %s", action, done.returncode, done.stderr[-500:])
