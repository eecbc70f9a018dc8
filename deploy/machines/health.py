"""When is the lab up? Each VM has finished its boot and answers SSH; a deployed fleet has its Consul and orch.

Every wait has a deadline and says what it is still waiting for.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from deploy.machines.commands import run
from deploy.machines.fleet import Fleet
from deploy.machines.network import in_namespace
from deploy.machines.places import LabError, LabPlaces
from deploy.machines.vm import Machine

BOOTED = frozenset({"running", "degraded"})
POLL_S = 0.2


@dataclass(frozen=True)
class VmHealth:
    """What a VM says of itself; `system` is systemd's word for the whole machine."""

    running: bool
    system: str
    failed_units: tuple[str, ...] = ()


def health_of(machine: Machine) -> VmHealth:
    """Ask systemd in the VM. An answer that does not come within 3 s counts as none."""
    if not machine.is_running():
        return VmHealth(False, "off")
    if machine.cgroup.is_frozen():
        return VmHealth(True, "frozen")
    try:
        system = machine.run(["systemctl", "is-system-running"], check=False, timeout_s=3).stdout.strip()
        failed: tuple[str, ...] = ()
        if system == "degraded":
            argv = ["systemctl", "list-units", "--failed", "--plain", "--no-legend"]
            lines = machine.run(argv, check=False, timeout_s=3).stdout.splitlines()
            failed = tuple(line.split()[0] for line in lines if line.strip())
    except Exception as problem:
        return VmHealth(True, f"no answer ({type(problem).__name__})")
    return VmHealth(True, system or "no answer", failed)


def wait_for(
    conditions: dict[str, Callable[[], bool]],
    timeout_s: float,
    say: Callable[[str], None],
    what: str,
    explain: Callable[[], str] = str,
) -> None:
    """Wait until every condition holds, telling `say` what is still awaited; LabError at the deadline.

    `explain` adds what else is known about why they do not hold.
    """
    deadline = time.monotonic() + timeout_s
    pending = dict(conditions)
    last_said = ""
    while True:
        for name in [name for name, holds in pending.items() if holds()]:
            del pending[name]
        if not pending:
            return
        awaited = f"{what}: waiting for {', '.join(pending)}"
        if awaited != last_said:
            say(awaited)
            last_said = awaited
        if time.monotonic() > deadline:
            reason = f"{what}: after {timeout_s:.0f} s still waiting for {', '.join(pending)}"
            raise LabError(f"{reason}\n{explain()}".rstrip())
        time.sleep(POLL_S)


def wait_for_boot(machines: Iterable[Machine], say: Callable[[str], None], timeout_s: float = 120.0) -> None:
    """Wait until systemd has finished its start on every VM."""
    conditions = {machine.name: _has_booted(machine) for machine in machines}
    wait_for(conditions, timeout_s, say, "boot")


def _has_booted(machine: Machine) -> Callable[[], bool]:
    return lambda: health_of(machine).system in BOOTED


def wait_for_ssh(places: LabPlaces, fleet: Fleet, say: Callable[[str], None], timeout_s: float = 30.0) -> None:
    """Wait until every VM's sshd greets the outside client."""
    conditions = {f"sshd on {vm.name}": _ssh_greets(places, vm.address) for vm in fleet.vms}
    wait_for(conditions, timeout_s, say, "SSH")


def _ssh_greets(places: LabPlaces, address: str) -> Callable[[], bool]:
    script = (
        "import socket,sys\n"
        "with socket.create_connection((sys.argv[1], 22), timeout=1) as s:\n"
        "    s.settimeout(2)\n"
        "    sys.exit(not s.recv(4) == b'SSH-')\n"
    )
    argv = in_namespace(places.client_namespace, ["python3", "-I", "-S", "-c", script, address])
    return lambda: run(argv, check=False).returncode == 0


def consul_members(machine: Machine) -> dict[str, str]:
    """Return the status of each Consul member as one VM's agent sees it; empty when the agent does not answer."""
    done = machine.run(["consul", "members"], check=False, timeout_s=5)
    members = {}
    for line in done.stdout.splitlines()[1:] if done.returncode == 0 else []:
        words = line.split()
        if len(words) > 2:
            members[words[0]] = words[2]
    return members


def consul_has_leader(machine: Machine) -> bool:
    argv = ["curl", "-s", "-m", "2", "http://127.0.0.1:8500/v1/status/leader"]
    return ":" in machine.run(argv, check=False, timeout_s=5).stdout


def wait_for_fleet(
    machines: Sequence[Machine], controllers: Sequence[str], say: Callable[[str], None], timeout_s: float = 120.0
) -> None:
    """Wait for Consul (all members alive, a leader) and, where it is deployed, for `orch status`."""
    present = [machine for machine in machines if (machine.root / "usr/local/bin/consul").exists()]
    if not present:
        return
    first = present[0]
    conditions: dict[str, Callable[[], bool]] = {
        "all Consul members alive": lambda: _all_alive(first, len(machines)),
        "a Consul leader": lambda: consul_has_leader(first),
    }
    controller = next((machine for machine in machines if machine.name in controllers), first)
    if (controller.root / "usr/local/bin/orch").is_symlink() or (controller.root / "usr/local/bin/orch").exists():
        conditions["`orch status` to say that all is well"] = lambda: orch_is_healthy(controller)
    wait_for(conditions, timeout_s, say, "fleet", lambda: _words_of_orch(controller))


def _words_of_orch(controller: Machine) -> str:
    """Return what `orch status` says to a person, for the message of a wait that failed."""
    try:
        done = controller.run(["orch", "status"], check=False, timeout_s=20)
    except Exception as problem:
        return f"`orch status` on {controller.name}: {problem}"
    return f"`orch status` on {controller.name} says:\n{done.stdout}{done.stderr}"


def _all_alive(machine: Machine, count: int) -> bool:
    members = consul_members(machine)
    return len(members) == count and set(members.values()) == {"alive"}


def orch_is_healthy(controller: Machine) -> bool:
    """Ask `orch status` on a controller: its own word for a fleet that is as it should be."""
    done = controller.run(["orch", "status", "--json"], check=False, timeout_s=20)
    if done.returncode != 0:
        return False
    try:
        return bool(json.loads(done.stdout).get("healthy", True))
    except (json.JSONDecodeError, AttributeError):
        return False


def free_port(first: int = 8500) -> int:
    """Return the first free port of the host's loopback address from `first` on."""
    for port in range(first, first + 500):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise LabError(f"no free port between {first} and {first + 500} on 127.0.0.1")
