"""Where things are on the host: the checkout, the caches, and one lab's own directory and names.

Caches stand outside the checkout, so that a fresh clone finds them. A lab's directory holds everything that
belongs to one running lab (keys, overlay layers, state), so that `down` removes one directory and is done.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
DEFAULT_LAB_NAME = "orch"
LONGEST_LAB_NAME = 20
_LAB_NAME = re.compile(rf"[a-z][a-z0-9-]{{0,{LONGEST_LAB_NAME - 1}}}")


class LabError(Exception):
    """Something that the caller can act on; the text says what, and what would be possible."""


def cache_dir() -> Path:
    """Return the directory of all caches: ORCH_CACHE, else orch/ in the user's cache directory."""
    explicit = os.environ.get("ORCH_CACHE")
    if explicit:
        return Path(explicit).resolve()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "orch"


def beside(name: str, what: str) -> str:
    """Return the name of another lab that the tests bring up beside the lab of this name; `what`: up to 4 characters.

    Never the name itself: that lab is taken down while the other stays.
    """
    long = f"{name}-{what}"
    if len(long) <= LONGEST_LAB_NAME:
        return long
    # Shorter than any name that comes here.
    return f"{what}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def bare_twin(name: str) -> str:
    """Return the name of the lab without a deployment beside the lab of this name."""
    return beside(name, "bare")


def lab_of_process(name: str, process: str | None) -> str:
    """Return the name of the lab of one of the processes that share the tests (`pytest -n`: gw0, gw1, ...).

    None: the tests are shared by nobody, and the lab is the one of this name.
    """
    return beside(name, process) if process else name


@dataclass(frozen=True)
class LabPlaces:
    """The names that one lab uses on the host; two labs with different names share none of them."""

    name: str

    @classmethod
    def from_environment(cls, name: str | None = None) -> LabPlaces:
        """Take the lab's name from the argument, else ORCH_LAB_NAME, else the default."""
        chosen = name or os.environ.get("ORCH_LAB_NAME") or DEFAULT_LAB_NAME
        if not _LAB_NAME.fullmatch(chosen):
            raise LabError(
                f"{chosen!r} is no name for a lab: up to {LONGEST_LAB_NAME} of a-z, 0-9 and '-', "
                "beginning with a letter"
            )
        return cls(chosen)

    @property
    def home(self) -> Path:
        """Everything of this lab. On a disk and not in /run: overlay layers would fill the memory."""
        return Path(os.environ.get("ORCH_LAB_DIR", "/var/lib/orch-lab")) / self.name

    @property
    def lock(self) -> Path:
        return cache_dir() / "locks" / f"lab-{self.name}.lock"

    @property
    def state_file(self) -> Path:
        return self.home / "state.json"

    @property
    def operator_key(self) -> Path:
        return self.home / "ssh" / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        return self.home / "ssh" / "known_hosts"

    @property
    def secrets(self) -> Path:
        """What the deployment makes that is secret, encrypted; the same is needed for every further play."""
        return self.home / "secrets"

    @property
    def vault_password(self) -> Path:
        """What it is encrypted with. Kept beside it, and so with it in the cache: a lab has nothing to hide."""
        return self.secrets / "vault-password"

    @property
    def deploy_log(self) -> Path:
        return self.home / "deploy.log"

    @property
    def switch_namespace(self) -> str:
        return f"{self.name}-switch"

    @property
    def client_namespace(self) -> str:
        return f"{self.name}-client"

    def vm_home(self, vm: str) -> Path:
        return self.home / "vms" / vm

    def vm_root(self, vm: str) -> Path:
        """The mount point of the VM's overlay."""
        return self.vm_home(vm) / "root"

    def vm_namespace(self, vm: str) -> str:
        return f"{self.name}-{vm}"
