"""Plays over a real sshd on loopback, with connections opened ahead."""

from __future__ import annotations

import getpass
import os
import queue
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.machines.places import CHECKOUT
from orchestrator.execute.environment import Places
from orchestrator.execute.play import AnsiblePlays, Order, PlayEnded, PlayEvent, TaskStarted
from orchestrator.execute.processes import kill_tree
from orchestrator.execute.releases import Releases, digest_of
from orchestrator.execute.sync import Synced, sync_vm
from orchestrator.execute.warm import WarmServer
from orchestrator.execute.warm_ssh import WarmSsh
from tests.integration.ports import free_port
from tests.integration.waiting import WAIT_S, wait_for

SSHD = "/usr/sbin/sshd"
_PRIVILEGE_SEPARATION = Path("/run/sshd")


class SshVm:
    """An sshd that only our key may use, and an ansible folder that knows it as messaging-server."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.port = directory, free_port()
        self.places = Places(directory / "ansible", directory / "state", directory / "ssh" / "id")
        (directory / "ssh").mkdir()
        for name in ("id", "host"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{directory}/ssh/{name}"], check=True)
        host_key = (directory / "ssh" / "host.pub").read_text()
        self.places.known_hosts.write_text(f"[127.0.0.1]:{self.port} {host_key}")
        shutil.copy(directory / "ssh" / "id.pub", directory / "ssh" / "authorized_keys")
        (directory / "ssh" / "authorized_keys").chmod(0o600)
        playbooks = self.places.ansible_dir / "playbooks"
        playbooks.mkdir(parents=True)
        (self.places.ansible_dir / "ansible.cfg").write_text("[defaults]\ninventory = hosts\n")
        (self.places.ansible_dir / "hosts").write_text(
            f"messaging-server ansible_host=127.0.0.1 ansible_port={self.port} ansible_user={getpass.getuser()}\n"
        )
        (playbooks / "quick.yml").write_text(
            '- hosts: "{{ target }}"\n  tasks:\n    - {name: over ssh, ansible.builtin.command: echo hello}\n'
        )
        self.places.make()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        options = {
            "Port": self.port,
            "ListenAddress": "127.0.0.1",
            "HostKey": self.directory / "ssh" / "host",
            "AuthorizedKeysFile": self.directory / "ssh" / "authorized_keys",
            "PidFile": "none",
            "UsePAM": "no",
            "StrictModes": "no",
            "PasswordAuthentication": "no",
        }
        words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        self.process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", SSHD, "-D", "-e", "-f", "/dev/null", *words],
            stderr=(self.directory / "sshd.log").open("ab"),
            start_new_session=True,
        )
        wait_for(self._accepts, "sshd listens")

    def stop(self) -> None:
        """As when the VM is gone: the open connections end too."""
        if self.process is not None:
            kill_tree(self.process.pid)
            self.process.wait()
            self.process = None

    def _accepts(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    @property
    def masters(self) -> list[str]:
        return os.listdir(self.places.ssh_masters)


@pytest.fixture
def vm() -> Iterator[SshVm]:
    if not Path(SSHD).exists():
        pytest.fail("these tests need sshd: install the Debian package openssh-server", pytrace=False)
    made = os.geteuid() == 0 and not _PRIVILEGE_SEPARATION.exists()
    if made:
        _PRIVILEGE_SEPARATION.mkdir(mode=0o755)
    # A control socket's path must be short.
    with tempfile.TemporaryDirectory(prefix="orch-", dir="/tmp") as directory:
        vm = SshVm(Path(directory))
        try:
            vm.start()
            yield vm
        finally:
            vm.stop()
            if made:
                _PRIVILEGE_SEPARATION.rmdir()


@pytest.fixture
def warm_ssh(vm: SshVm) -> Iterator[WarmSsh]:
    warm = WarmSsh(vm.places)
    warm.start()
    yield warm
    warm.stop()


def run(vm: SshVm) -> tuple[float, float, PlayEnded]:
    """Run the play; return when its first task began, when it ended, and how."""
    events: queue.SimpleQueue[PlayEvent] = queue.SimpleQueue()
    before, first = time.time(), 0.0
    AnsiblePlays(vm.places, events.put).start(Order("c1", 1, "quick.yml", {"target": "messaging-server"}, WAIT_S))
    while True:
        event = events.get(timeout=WAIT_S)
        if isinstance(event, TaskStarted):
            first = event.at - before
        if isinstance(event, PlayEnded):
            return first, time.time() - before, event


def test_a_play_runs_over_a_connection_that_was_opened_ahead(vm: SshVm, warm_ssh: WarmSsh) -> None:
    server = WarmServer(vm.places)
    server.ensure_running()
    try:
        assert server.wait_ready(WAIT_S)
        server.wait_rehearsed(WAIT_S)
        wait_for(lambda: vm.masters, "the connection is open")
        connections = (vm.directory / "sshd.log").read_text().count("Accepted publickey")
        for _ in range(3):
            first, whole, ended = run(vm)
            assert ended.rc == 0, ended.tail
            print(f"warm: first task after {first:.3f} s, end after {whole:.3f} s")
        assert (vm.directory / "sshd.log").read_text().count("Accepted publickey") == connections
    finally:
        server.stop()


def test_a_connection_that_was_lost_is_opened_again(vm: SshVm, warm_ssh: WarmSsh) -> None:
    wait_for(lambda: vm.masters, "the connection is open")
    vm.stop()
    wait_for(lambda: not vm.masters, "the connection is gone")
    vm.start()
    wait_for(lambda: vm.masters, "the connection is open again")


def test_a_play_needs_no_connection_opened_ahead(vm: SshVm) -> None:
    first, whole, ended = run(vm)
    assert ended.rc == 0, ended.tail
    print(f"cold: first task after {first:.3f} s, end after {whole:.3f} s")


def release_in(vm: SshVm, home: Path) -> Path:
    """Lay this checkout's playbooks into a release whose inventory knows the VM, and has them brought to `home`."""
    release = vm.directory / "releases" / "right"
    for part in ("ansible", "templates"):
        shutil.copytree(CHECKOUT / part, release / part, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    inventory = release / "ansible" / "inventory"
    (inventory / "hosts").write_text((vm.places.ansible_dir / "hosts").read_text() + "[vms]\nmessaging-server\n")
    shutil.rmtree(inventory / "group_vars")
    (inventory / "group_vars" / "all").mkdir(parents=True)
    fleet = (CHECKOUT / "ansible" / "inventory" / "group_vars" / "all" / "fleet.yml").read_text()
    links = fleet[fleet.index("orch_play_links:") :].split("\norch_health_ports")[0]
    (inventory / "group_vars" / "all" / "fleet.yml").write_text(
        f"orch_home: {home}\nansible_become: false\nansible_python_interpreter: {sys.executable}\n"
        "orch_checkout: '{{ playbook_dir }}/../..'\norch_templates: '{{ orch_checkout }}/templates'\n" + links
    )
    return release


def test_the_playbooks_of_one_vm_are_copied_to_another_whole_or_not_at_all(vm: SshVm) -> None:
    home = vm.directory / "other"
    home.mkdir()
    release = release_in(vm, home)
    digest = digest_of(release)
    there = Releases(home / "plays" / "ansible")
    assert sync_vm(vm.places, release / "ansible", digest, "messaging-server") == Synced(changed=True)
    assert (there.look().current, there.current().is_dir()) == (digest, True)
    assert sync_vm(vm.places, release / "ansible", digest, "messaging-server") == Synced(changed=False)

    edited = there.current()
    (edited / "playbooks" / "activate_backend.yml").write_text("- hosts: all\n")
    assert there.find(digest) is None
    assert sync_vm(vm.places, release / "ansible", digest, "messaging-server") == Synced(changed=True)
    assert (there.look().current, there.current() != edited, edited.is_dir()) == (digest, True, True)

    # Somebody edits what is copied after it was looked at.
    (release / "templates" / "more.j2").write_text("")
    refused = sync_vm(vm.places, release / "ansible", digest, "messaging-server")
    assert "somebody has just changed them" in refused.problem
    assert there.look().current == digest
    vm.stop()
    away = sync_vm(vm.places, release / "ansible", digest, "messaging-server")
    assert (away.changed, "127.0.0.1" in away.problem) == (False, True)


def test_a_vm_whose_host_key_is_another_is_refused(vm: SshVm) -> None:
    other = vm.directory / "ssh" / "id.pub"
    vm.places.known_hosts.write_text(f"[127.0.0.1]:{vm.port} {other.read_text()}")
    _, _, ended = run(vm)
    assert ended.rc == 4
    assert any("UNREACHABLE" in line or "unreachable" in line for line in ended.tail)


def test_a_task_without_a_module_runs_by_a_key_that_is_given_no_terminal(vm: SshVm) -> None:
    keys = vm.directory / "ssh" / "authorized_keys"
    keys.write_text(f"restrict {keys.read_text()}")
    settings = (CHECKOUT / "ansible" / "ansible.cfg").read_text()
    (vm.places.ansible_dir / "ansible.cfg").write_text(settings.replace("inventory/hosts", "hosts"))
    play = '- hosts: "{{ target }}"\n  tasks:\n    - {name: started at once, ansible.builtin.raw: echo hello}\n'
    (vm.places.ansible_dir / "playbooks" / "quick.yml").write_text(play)
    ended = run(vm)[2]
    assert ended.rc == 0, ended.tail
