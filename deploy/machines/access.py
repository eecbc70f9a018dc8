"""The operator's way into the fleet: a key pair of this lab, and the VMs' host keys pinned from their disks.

Host keys are read from the VMs' file systems and not by asking over the network, so that host-key checking
means something in the lab too.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from deploy.machines.commands import run
from deploy.machines.places import LabError, LabPlaces
from deploy.machines.vm import OPERATOR_COMMENT, Machine


def make_operator_key(places: LabPlaces) -> str:
    """Return the public half of the lab's key, making the pair when there is none."""
    key = places.operator_key
    if not key.exists():
        key.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", OPERATOR_COMMENT, "-f", key])
    return key.with_suffix(".pub").read_text()


def pin_host_keys(places: LabPlaces, machines: Iterable[Machine], timeout_s: float = 30.0) -> None:
    """Write known_hosts from the VMs' disks, waiting for keys that a first boot is still making."""
    deadline = time.monotonic() + timeout_s
    lines = []
    for machine in machines:
        public = machine.root / "etc" / "ssh" / "ssh_host_ed25519_key.pub"
        while not public.is_file() or not public.read_text().endswith("\n"):
            if time.monotonic() > deadline:
                raise LabError(f"{machine.name} made no SSH host key within {timeout_s:.0f} s of its boot")
            time.sleep(0.05)
        kind, key, *_ = public.read_text().split()
        lines.append(f"{machine.name},{machine.vm.address} {kind} {key}")
    fresh = places.known_hosts.with_suffix(".new")
    fresh.write_text("\n".join(lines) + "\n")
    fresh.replace(places.known_hosts)


def ssh_options(places: LabPlaces) -> list[str]:
    """Return ssh options that use this lab's key and pinned host keys and nothing of the user's own."""
    return [
        *("-i", str(places.operator_key)),
        *("-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-o", "StrictHostKeyChecking=yes"),
        *("-o", f"UserKnownHostsFile={places.known_hosts}", "-o", "GlobalKnownHostsFile=/dev/null"),
    ]
