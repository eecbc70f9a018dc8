"""One VM: an overlay on the image, a network namespace, and systemd-nspawn in cgroups of its own."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from deploy.machines.cgroups import VmCgroup
from deploy.machines.chroot import Layers
from deploy.machines.commands import run
from deploy.machines.fleet import Vm
from deploy.machines.network import namespace_path
from deploy.machines.places import LabError, LabPlaces

OPERATOR_COMMENT = "orch-lab-operator"
# As on a machine of its own: the guard moves an address and writes firewall rules; arping needs raw sockets.
CAPABILITIES = "CAP_NET_ADMIN,CAP_NET_RAW,CAP_SYS_NICE,CAP_SYS_RESOURCE"
# A machine of its own sets its own network sysctls; the host's other ones stay out of reach.
NSPAWN_ENVIRONMENT = {"SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network"}
OPERATOR_TOKEN = "/etc/orch/consul/operator"
EXEC_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "USER": "root",
    "LOGNAME": "root",
    "LANG": "C.UTF-8",
    # As root's login shell has it (/etc/profile.d/orch.sh).
    "CONSUL_HTTP_TOKEN_FILE": OPERATOR_TOKEN,
}


class Machine:
    """A VM of the lab as its hypervisor sees it."""

    def __init__(self, places: LabPlaces, vm: Vm) -> None:
        self.places = places
        self.vm = vm
        self.name = vm.name
        self.home = places.vm_home(vm.name)
        self.root = places.vm_root(vm.name)
        self.cgroup = VmCgroup(places.name, vm.name)
        self._leader_file = self.home / "leader"
        self._note = self.home / "enter.json"

    # --- disk ---------------------------------------------------------------------------------------------

    @property
    def upper(self) -> Path:
        """What this VM has written since it was made."""
        return self.home / "upper"

    def mount(self, lower: Sequence[Path]) -> None:
        """Mount the VM's disk: the layers it was made from below, its own writes on top."""
        work = self.home / "work"
        for folder in (self.root, self.upper, work):
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o755)
        if not self.is_mounted():
            option = Layers(tuple(lower), self.upper, work).mount_option()
            run(["mount", "-t", "overlay", f"{self.places.name}-{self.name}", "-o", option, self.root])

    def is_mounted(self) -> bool:
        return os.path.ismount(self.root)

    def unmount(self) -> None:
        for _ in range(50):
            if not self.is_mounted():
                return
            if run(["umount", self.root], check=False).returncode == 0:
                return
            time.sleep(0.02)
        run(["umount", "-l", self.root])

    def personalise(self, operator_public_key: str) -> None:
        """Give the mounted disk what a cloud gives a VM: a name, an identity, the operator's key."""
        (self.root / "etc" / "hostname").write_text(f"{self.name}\n")
        machine_id = self.root / "etc" / "machine-id"
        if not machine_id.is_file() or not machine_id.read_text().strip():
            machine_id.write_text(f"{secrets.token_hex(16)}\n")
        hosts = self.root / "etc" / "hosts"
        own = f"127.0.1.1 {self.name}"
        if own not in hosts.read_text():
            hosts.write_text(f"{hosts.read_text().rstrip()}\n{own}\n")
        folder = self.root / "root" / ".ssh"
        folder.mkdir(mode=0o700, exist_ok=True)
        keys = folder / "authorized_keys"
        kept = keys.read_text().splitlines() if keys.is_file() else []
        kept = [line for line in kept if line.strip() and not line.endswith(OPERATOR_COMMENT)]
        keys.write_text("\n".join([*kept, operator_public_key.strip()]) + "\n")
        keys.chmod(0o600)

    # --- life ---------------------------------------------------------------------------------------------

    def boot(self) -> None:
        """Start the machine and return when its init process is there; what it runs comes up after that."""
        self.cgroup.make()
        namespace = namespace_path(self.places.vm_namespace(self.name))
        argv = [
            *("systemd-nspawn", "--quiet", "--keep-unit", "--register=no", "--boot"),
            f"--directory={self.root}",
            f"--machine={self.places.vm_namespace(self.name)}",
            f"--hostname={self.name}",
            f"--network-namespace-path={namespace}",
            f"--capability={CAPABILITIES}",
            *("--resolv-conf=off", "--timezone=off", "--link-journal=no", "--console=read-only"),
        ]
        with (self.home / "console.log").open("ab") as console:
            # setsid --fork: the machine outlives the program that made it, and is nobody's zombie.
            subprocess.run(
                self.cgroup.entering("machine", ["setsid", "--fork", *argv]),
                check=True,
                env={**os.environ, **NSPAWN_ENVIRONMENT},
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                cwd="/",
            )
        started = time.monotonic()
        while self._find_leader() is None:
            waited = time.monotonic() - started
            if waited > 20 or (waited > 2 and not self.cgroup.pids()):
                said = (self.home / "console.log").read_text(errors="replace")[-1500:]
                raise LabError(f"{self.name} did not boot; its console says:\n{said}")
            time.sleep(0.02)
        self._leave_note_for_exec()

    def _leave_note_for_exec(self) -> None:
        """Write down how to enter the VM, for `enter.py`."""
        note = {
            "leader": self.leader(),
            "cgroup": str(self.cgroup.relative),
            "cgroup_files": [str(path) for path in self.cgroup.leaves("exec")],
            "freeze_file": str(self.cgroup.freeze_file()),
            "argv": self.entering([]),
            "environment": EXEC_ENVIRONMENT,
        }
        fresh = self._note.with_suffix(".new")
        fresh.write_text(json.dumps(note))
        fresh.replace(self._note)

    def _find_leader(self) -> int | None:
        """Find the VM's init among its processes: number 1 in a PID namespace of its own."""
        for pid in self.cgroup.pids():
            if _is_init(pid):
                self._leader_file.write_text(str(pid))
                return pid
        return None

    def leader(self) -> int | None:
        """Return the host's PID of the VM's init, or None when the VM does not run."""
        with contextlib.suppress(OSError, ValueError):
            pid = int(self._leader_file.read_text())
            # PIDs are used again: ours is still in this VM's cgroup.
            if _is_init(pid) and str(self.cgroup.relative) in Path(f"/proc/{pid}/cgroup").read_text():
                return pid
        return None

    def is_running(self) -> bool:
        return self.leader() is not None

    def kill(self) -> None:
        """Take the power away: every process at once, nothing is told. Returns when the machine is dead."""
        self.cgroup.kill()
        deadline = time.monotonic() + 10
        while self.is_running() and time.monotonic() < deadline:
            time.sleep(0.005)

    def clear_after_death(self) -> None:
        """Wait until the last process is gone and remove the cgroups, so that the VM can boot again."""
        self.cgroup.remove()
        self._clear_what_nspawn_keeps()
        self._leader_file.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def _clear_what_nspawn_keeps(self) -> None:
        """Remove what systemd-nspawn leaves on the host for a machine that was killed."""
        kept = Path("/run/systemd/nspawn")
        for kind in ("propagate", "unix-export"):
            shutil.rmtree(kept / kind / self.places.vm_namespace(self.name), ignore_errors=True)
        with contextlib.suppress(OSError):
            place = self.root.stat()
            (kept / "locks" / f"inode-{place.st_dev}:{place.st_ino}").unlink(missing_ok=True)

    def shut_down(self, timeout_s: float = 60.0) -> None:
        """Shut down in order, as `systemctl poweroff` does, and return when the machine is off."""
        if self.is_running():
            self.run(["systemctl", "poweroff", "--no-block"], check=False)
        deadline = time.monotonic() + timeout_s
        while self.cgroup.pids():
            if time.monotonic() > deadline:
                self.kill()
                break
            time.sleep(0.05)
        self.clear_after_death()

    # --- commands inside --------------------------------------------------------------------------------

    def entering(self, argv: Sequence[str]) -> list[str]:
        """Return the command line that enters the VM's namespaces; the caller enters its cgroups."""
        leader = self.leader()
        if leader is None:
            raise LabError(f"{self.name} is off; `deploy/lab fault poweron {self.name}` or `deploy/lab mend` starts it")
        if self.cgroup.is_frozen():
            raise LabError(f"{self.name} is frozen; `deploy/lab fault thaw {self.name}` or `deploy/lab mend` wakes it")
        return [
            *("nsenter", f"--target={leader}", "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"),
            *("--root", "--wd", "--", *argv),
        ]

    def command(self, argv: Sequence[str]) -> list[str]:
        """Return a command line for the host that runs `argv` inside the VM, in its namespaces and cgroups."""
        return self.cgroup.entering("exec", self.entering(argv))

    def environment(self) -> dict[str, str]:
        term = os.environ.get("TERM")
        return {**EXEC_ENVIRONMENT, **({"TERM": term} if term else {})}

    def run(
        self, argv: Sequence[str], *, check: bool = True, timeout_s: float | None = None, text_input: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside the VM as root and return its output; LabError when it fails and `check` is set."""
        return run(
            self.command(argv),
            check=check,
            env=self.environment(),
            timeout_s=timeout_s,
            text_input=text_input,
            shown_as=f"{self.name}: {' '.join(argv)}",
        )

    def consul_token(self) -> str:
        """Return the operator's token of Consul, from the VM's disk; LabError where nothing has been deployed."""
        try:
            return (self.root / OPERATOR_TOKEN.lstrip("/")).read_text().strip()
        except OSError as error:
            raise LabError(f"{self.name} has no token for Consul: {error}") from None

    def unit_cgroup(self, unit: str) -> list[Path]:
        """Return the folders, seen from the host, of a running unit's cgroup in each hierarchy that has it."""
        inside = self.run(["systemctl", "show", "--property=ControlGroup", "--value", unit]).stdout.strip()
        leader = self.leader()
        if not inside or leader is None:
            return []
        found = []
        for hierarchy in self.cgroup.hierarchies:
            base = _cgroup_of(leader, hierarchy.is_v2, hierarchy.names)
            top = base.parent if base.name == "init.scope" else base
            folder = hierarchy.mount_point / str(top / inside.lstrip("/")).lstrip("/")
            if folder.is_dir():
                found.append(folder)
        return found

    def host_pid(self, pid_inside: int, among: set[int]) -> int | None:
        """Return the host's number of a process that has `pid_inside` in the VM."""
        for pid in among:
            with contextlib.suppress(OSError):
                if _pids_in_namespaces(pid)[-1:] == [pid_inside]:
                    return pid
        return None

    def remove(self) -> None:
        """Remove the machine with its disk; works on whatever an interruption left."""
        self.clear_after_death()
        self.unmount()
        if self.is_mounted():
            raise LabError(f"{self.root} is still mounted; it is left as it is")
        shutil.rmtree(self.home, ignore_errors=True)


def _pids_in_namespaces(pid: int) -> list[int]:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("NSpid:"):
            return [int(word) for word in line.split()[1:]]
    return []


def _is_init(pid: int) -> bool:
    with contextlib.suppress(OSError):
        # One that is dead and not yet reaped has no namespaces any more.
        os.readlink(f"/proc/{pid}/ns/pid")
        numbers = _pids_in_namespaces(pid)
        return len(numbers) > 1 and numbers[-1] == 1
    return False


def _cgroup_of(pid: int, is_v2: bool, names: frozenset[str]) -> Path:
    """Return a process's place in one hierarchy, from /proc/PID/cgroup."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        number, controllers, place = line.split(":", 2)
        if (is_v2 and number == "0" and not controllers) or (
            not is_v2 and names & frozenset(controllers.split(",")) and controllers
        ):
            return Path(place)
    return Path("/")
