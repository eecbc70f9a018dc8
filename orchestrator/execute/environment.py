"""The environment of every play, the same for the warm server and for ansible-runner.

In: where things are on this VM. Out: variables. Only what is named here reaches a play, so that no secret of the
worker's own environment ends up in an artefact.
"""

from __future__ import annotations

import os
import pwd
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_runner.utils import get_callback_dir

from orchestrator.execute.playbook_client import SOCKET_VARIABLE

_PASSED_ON = ("PATH", "HOME", "USER", "LOGNAME", "TZ", "ORCH_WARM_TRACE")
_CONNECT_TIMEOUT_S = 3
ACCOUNT, KEYHOLDER = "orch", "orch-worker"
"""What workers log in as on every VM, and what they run as, whose their key is."""
# What ansible-runner sets itself in every run; the warm server must have been started with the same.
_RUNNER_SETTINGS = {"ANSIBLE_STDOUT_CALLBACK": "awx_display", "ANSIBLE_RETRY_FILES_ENABLED": "False"}


@dataclass(frozen=True, slots=True)
class Places:
    """Where the worker finds and keeps things on its VM."""

    ansible_dir: Path
    state_dir: Path
    ssh_key_file: Path

    @property
    def artefacts(self) -> Path:
        """One folder per command."""
        return self.state_dir / "artefacts"

    @property
    def warm_socket(self) -> Path:
        """Where the warm server listens."""
        return self.state_dir / "run" / "warm"

    @property
    def rehearsal(self) -> Path:
        """Folder of the warm server's rehearsal while it lasts."""
        return self.state_dir / "run" / "rehearsal"

    @property
    def ssh_masters(self) -> Path:
        """Folder of the SSH control sockets. With the socket's 57 characters it must stay below 104."""
        return self.state_dir / "run" / "ssh"

    @property
    def known_hosts(self) -> Path:
        """The host keys of the fleet, beside the key."""
        return self.ssh_key_file.parent / "known_hosts"

    def make(self) -> None:
        """Create the folders, readable by this user only."""
        for folder in (self.artefacts, self.ssh_masters, self.state_dir / "ansible"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.chmod(0o700)


def ssh_options(places: Places) -> tuple[str, ...]:
    """Return the options that a play's ssh and a pre-opened master share, without the control path.

    A master whose VM has died ends itself after about 3 s (ServerAlive), so that it does not hang a later play.
    """
    options = {
        "BatchMode": "yes",
        "PreferredAuthentications": "publickey",
        "ConnectTimeout": str(_CONNECT_TIMEOUT_S),
        "ServerAliveInterval": "1",
        "ServerAliveCountMax": "2",
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": str(places.known_hosts),
        "GSSAPIAuthentication": "no",
    }
    return tuple(word for name, value in options.items() for word in ("-o", f"{name}={value}"))


def as_keyholder() -> dict[str, Any]:
    """Return, for root, what has `subprocess` run a program as a worker: what root may read a worker may not be able
    to, and what root leaves behind a worker could not change."""
    if os.geteuid() != 0:
        return {}
    try:
        pwd.getpwnam(KEYHOLDER)
    except KeyError:
        return {}
    return {"user": KEYHOLDER, "group": KEYHOLDER}


def play_environment(places: Places, inherited: Mapping[str, str]) -> dict[str, str]:
    """Return the whole environment of a play."""
    passed = {name: inherited[name] for name in _PASSED_ON if name in inherited}
    mux = ("-o", "ControlMaster=auto", "-o", "ControlPersist=60s")
    config = places.ansible_dir / "ansible.cfg"
    return {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(places.state_dir),
        **passed,
        # Ansible refuses to start where the locale is not UTF-8.
        "LC_ALL": "C.UTF-8",
        SOCKET_VARIABLE: str(places.warm_socket),
        **({"ANSIBLE_CONFIG": str(config)} if config.exists() else {}),
        "ANSIBLE_HOME": str(places.state_dir / "ansible"),
        "ANSIBLE_LOCAL_TEMP": str(places.state_dir / "ansible" / "tmp"),
        "ANSIBLE_CALLBACK_PLUGINS": get_callback_dir(),
        **_RUNNER_SETTINGS,
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_GATHERING": "explicit",
        "ANSIBLE_PIPELINING": "True",
        # Looking for an interpreter would cost each play a round trip per VM.
        "ANSIBLE_PYTHON_INTERPRETER": "/usr/bin/python3",
        "ANSIBLE_HOST_KEY_CHECKING": "True",
        "ANSIBLE_PRIVATE_KEY_FILE": str(places.ssh_key_file),
        "ANSIBLE_TIMEOUT": str(_CONNECT_TIMEOUT_S),
        "ANSIBLE_SSH_RETRIES": "1",
        "ANSIBLE_SSH_ARGS": shlex.join((*mux, *ssh_options(places))),
        "ANSIBLE_SSH_CONTROL_PATH_DIR": str(places.ssh_masters),
        "ANSIBLE_SSH_CONTROL_PATH": "%(directory)s/%%C",
    }


def runner_environment(
    prepared: Mapping[str, str], inherited: Mapping[str, str], play: Mapping[str, str]
) -> dict[str, str]:
    """Return what ansible-runner prepared, without what it copied from this process's own environment."""
    added = {name: value for name, value in prepared.items() if inherited.get(name) != value}
    return {**added, **play}
