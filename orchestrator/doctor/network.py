"""Looks from this VM at the others: ports, Consul's DNS, and whether its worker may log in. Never raises."""

from __future__ import annotations

import errno
import os
import socket
import struct
import subprocess
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from orchestrator.doctor.facts import Port
from orchestrator.domain.sentence import one_line
from orchestrator.execute.environment import ACCOUNT, Places, as_keyholder, ssh_options
from orchestrator.settings import LocalSettings

CONNECT_TIMEOUT_S = 2.0
LOGIN_TIMEOUT_S = 5.0
DNS_PORT = 8600
DNS_TIMEOUT_S = 1.0
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
_A, _IN = 1, 1


# -- ports --------------------------------------------------------------------------------------------------


def reached_ports(addresses: Mapping[str, str], ports: Mapping[str, tuple[int, ...]]) -> dict[str, dict[int, Port]]:
    """Connect to each port of each VM, all at once."""
    pairs = [(vm, port) for vm, wanted in ports.items() for port in wanted]
    if not pairs:
        return {}
    with ThreadPoolExecutor(len(pairs), "connecting") as pool:
        found = list(pool.map(lambda pair: reached(addresses[pair[0]], pair[1]), pairs))
    told: dict[str, dict[int, Port]] = {vm: {} for vm in ports}
    for (vm, port), came in zip(pairs, found, strict=True):
        told[vm][port] = came
    return told


def reached(address: str, port: int) -> Port:
    """Say what comes of connecting."""
    try:
        socket.create_connection((address, port), CONNECT_TIMEOUT_S).close()
    except OSError as problem:
        return "refused" if problem.errno == errno.ECONNREFUSED else "silent"
    return "open"


# -- DNS ----------------------------------------------------------------------------------------------------


def dns_address(vm: str, port: int = DNS_PORT) -> str | None:
    """Ask this VM's Consul agent by DNS for the VM's own address; None: no answer, or it knows none."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.settimeout(DNS_TIMEOUT_S)
            asking.connect(("127.0.0.1", port))
            asking.send(dns_question(f"{vm}.node.consul"))
            return dns_answer(asking.recv(4096))
    except OSError:
        return None


def dns_question(name: str) -> bytes:
    """Return the packet that asks for the name's IPv4 address (RFC 1035, 4.1)."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack("!6H", 1, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", _A, _IN)


def dns_answer(packet: bytes) -> str | None:
    """Return the first IPv4 address of the answer; None where there is none, or the packet cannot be read."""
    try:
        _, _, questions, answers, _, _ = struct.unpack_from("!6H", packet)
        at = 12
        for _ in range(questions):
            at = _after_name(packet, at) + 4
        for _ in range(answers):
            at = _after_name(packet, at)
            kind, _, _, length = struct.unpack_from("!2HIH", packet, at)
            if kind == _A:
                return socket.inet_ntoa(packet[at + 10 : at + 14])
            at += 10 + length
    except (struct.error, IndexError, OSError):
        pass
    return None


def _after_name(packet: bytes, at: int) -> int:
    while packet[at]:
        if packet[at] & 0xC0:
            return at + 2
        at += packet[at] + 1
    return at + 1


# -- SSH ----------------------------------------------------------------------------------------------------


def ssh_command(settings: LocalSettings, address: str, command: tuple[str, ...]) -> tuple[str, ...]:
    """Return the ssh that a worker's play would use, on a connection of its own: a master that was opened earlier would
    hide a host key or an account that has changed."""
    places = Places(settings.ansible_dir, settings.state_dir, settings.ssh_key_file)
    own = ("ControlPath=none", "IdentitiesOnly=yes", "HostKeyAlgorithms=ssh-ed25519", "UpdateHostKeys=no")
    options = (*ssh_options(places), *(word for option in own for word in ("-o", option)))
    return ("ssh", "-T", *options, "-i", str(settings.ssh_key_file), "-l", ACCOUNT, address, *command)


def logins(settings: LocalSettings, vms: Mapping[str, str]) -> dict[str, str]:
    """Log in to each VM as this VM's worker would, all at once; return what hinders it."""
    if not vms:
        return {}
    with ThreadPoolExecutor(len(vms), "logging in") as pool:
        hindrances = pool.map(lambda address: _hindrance(ssh_command(settings, address, ("true",))), vms.values())
        return dict(zip(vms, hindrances, strict=True))


def _hindrance(argv: tuple[str, ...]) -> str:
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LOGIN_TIMEOUT_S,
            env=environment(),
            **as_keyholder(),
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {LOGIN_TIMEOUT_S:g} s"
    except OSError as error:
        return f"ssh cannot be run: {error.strerror}"
    return "" if done.returncode == 0 else last_words(done.stderr) or f"exit status {done.returncode}"


def environment() -> dict[str, str]:
    """Return the environment of what is run: nothing of whoever runs the doctor."""
    return ENVIRONMENT | {"HOME": os.environ.get("HOME", "/")}


def last_words(stderr: str) -> str:
    """Return what ssh or sudo said in the end; ssh's banner about a changed host key ends in the telling line."""
    lines = [one_line(line).rstrip(".") for line in stderr.splitlines() if line.strip()]
    return lines[-1] if lines else ""
