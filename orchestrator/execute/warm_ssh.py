"""SSH connections to every VM, opened before they are needed.

In: Ansible's own inventory. Out: control sockets under `Places.ssh_masters`, which the plays' ssh finds by the same
ControlPath; a first connection costs a play 0.1 to 0.3 s. A VM that cannot be reached is tried again with growing
waits, quietly: the play's own ssh says what is wrong when it matters.
"""

from __future__ import annotations

import configparser
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

from tenacity import RetryCallState, wait_exponential, wait_fixed

from orchestrator.backoff import error_of, pause_s, retry_until_stopped
from orchestrator.execute.environment import Places, play_environment, ssh_options

log = logging.getLogger(__name__)

LONGEST_PAUSE_S = 15.0
PAUSES = wait_exponential(multiplier=1.0, max=LONGEST_PAUSE_S)
INVENTORY_TIMEOUT_S = 30.0
LOOK_EVERY_S = 0.5
_INVENTORY = "import sys; sys.argv[0] = 'ansible-inventory'; from ansible.cli.inventory import main; main(sys.argv)"


@dataclass(frozen=True, slots=True)
class SshHost:
    """One VM as Ansible would call ssh for it."""

    name: str
    address: str
    user: str | None
    port: int | None


def hosts_in(inventory: dict[str, Any], default_user: str | None) -> tuple[SshHost, ...]:
    """Read the answer of `ansible-inventory --list`; VMs that are not reached by ssh are left out."""
    found = []
    for name, variables in sorted(inventory.get("_meta", {}).get("hostvars", {}).items()):
        if str(variables.get("ansible_connection", "ssh")) not in ("ssh", "smart"):
            continue
        user = variables.get("ansible_user", variables.get("ansible_ssh_user", default_user))
        port = variables.get("ansible_port", variables.get("ansible_ssh_port"))
        address = str(variables.get("ansible_host", name))
        found.append(SshHost(name, address, str(user) if user else None, int(port) if port else None))
    return tuple(found)


def master_command(host: SshHost, places: Places) -> list[str]:
    """Return the ssh that holds the connection in the foreground and ends with this process."""
    target = [*(("-o", f"User={host.user}") if host.user else ()), *(("-p", str(host.port)) if host.port else ())]
    return [
        # The kernel ends it with the thread that started it, even if this process is killed.
        *(("setpriv", "--pdeathsig", "TERM") if shutil.which("setpriv") else ()),
        "ssh",
        *("-N", "-T", "-o", "ControlMaster=auto", "-o", "ControlPersist=no"),
        *("-o", f"ControlPath={places.ssh_masters}/%C", "-i", str(places.ssh_key_file)),
        *ssh_options(places),
        *target,
        host.address,
    ]


@dataclass(slots=True)
class _Master:
    host: SshHost
    process: subprocess.Popen[bytes] | None = None
    failures: int = 0
    opened_at: float = 0.0
    next_try: float = 0.0


class WarmSsh:
    """Keeps the connections from a thread of its own until stopped."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._stop = threading.Event()
        self._masters: list[_Master] = []
        self._thread = threading.Thread(target=self._run, name="warm ssh", daemon=True)

    def start(self) -> None:
        """Start the thread; returns at once."""
        self._thread.start()

    def stop(self) -> None:
        """Close every connection."""
        self._stop.set()
        self._thread.join(2.0)

    def _run(self) -> None:
        try:
            self._masters = [_Master(host) for host in self._wait_for_hosts()]
            while not self._stop.wait(LOOK_EVERY_S):
                for master in self._masters:
                    self._tend(master, time.monotonic())
        except Exception:
            log.exception("SSH connections are not kept warm any more; plays open their own.")
        finally:
            for master in self._masters:
                if master.process is not None:
                    master.process.terminate()

    def _tend(self, master: _Master, now: float) -> None:
        if master.process is not None:
            if master.process.poll() is None:
                if now - master.opened_at > LONGEST_PAUSE_S:
                    master.failures = 0
                return
            master.process = None
            master.failures += 1
            master.next_try = now + pause_s(PAUSES, master.failures)
        if now >= master.next_try:
            master.opened_at = now
            master.process = subprocess.Popen(
                master_command(master.host, self._places),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=play_environment(self._places, os.environ),
            )

    def _wait_for_hosts(self) -> tuple[SshHost, ...]:
        troubles = (OSError, ValueError, subprocess.SubprocessError)
        wait = wait_fixed(LONGEST_PAUSE_S)
        return retry_until_stopped(self._read_hosts, self._stop, on=troubles, wait=wait, failed=_tell_trouble) or ()

    def _read_hosts(self) -> tuple[SshHost, ...]:
        """Ask Ansible itself, so that its precedence of variables counts."""
        answer = subprocess.run(
            [sys.executable, "-I", "-c", _INVENTORY, "--list"],
            cwd=self._places.ansible_dir,
            env=play_environment(self._places, os.environ),
            capture_output=True,
            timeout=INVENTORY_TIMEOUT_S,
            check=True,
        )
        return hosts_in(json.loads(answer.stdout), configured_user(self._places))


def _tell_trouble(state: RetryCallState) -> None:
    log.warning("The inventory cannot be read, so no SSH connection is opened ahead: %s", error_of(state))


def configured_user(places: Places) -> str | None:
    """Return the remote user that ansible.cfg names, if any."""
    config = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        config.read(places.ansible_dir / "ansible.cfg")
    except configparser.Error:
        return None
    return config.get("defaults", "remote_user", fallback=None)
