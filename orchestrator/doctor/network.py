"""Looks from this VM at the others: ports, Consul's DNS, and whether its worker may log in. Never raises."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import dns.exception
import dns.message
import dns.query
import dns.rdatatype
from dns.rdtypes.IN.A import A

from orchestrator.doctor.facts import Port
from orchestrator.domain.sentence import one_line
from orchestrator.execute.environment import ACCOUNT, Places, as_keyholder, ssh_options
from orchestrator.settings import LocalSettings

CONNECT_TIMEOUT_S = 2.0
LOGIN_TIMEOUT_S = 5.0
DNS_PORT = 8600
DNS_TIMEOUT_S = 1.0
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}


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
    here = "127.0.0.1"
    try:
        question = dns.message.make_query(f"{vm}.node.consul", dns.rdatatype.A)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.setblocking(False)
            # Connected, it hears at once that nobody listens there.
            asking.connect((here, port))
            answer = dns.query.udp(question, here, DNS_TIMEOUT_S, port, sock=asking)
    except (OSError, dns.exception.DNSException):
        return None
    return next((str(found.address) for found in _of_type_a(answer)), None)


def _of_type_a(answer: dns.message.Message) -> Iterator[A]:
    return (record for records in answer.answer for record in records if isinstance(record, A))


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
