"""A cgroup of its own for each VM, in whichever hierarchies the host has mounted (v1, v2, or both).

Without it all containers would share one tree, and systemd in one VM would stop units of another. A process
that enters before systemd-nspawn starts hands the place on to everything in the VM, so that the whole VM can be
frozen or killed in one write.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deploy.machines.places import LabError

# Hierarchies in which a VM gets a place: systemd's own two, and those by which a VM is frozen or killed.
_V1_WANTED = frozenset({"name=systemd", "freezer"})


@dataclass(frozen=True)
class Hierarchy:
    """A mounted cgroup hierarchy."""

    mount_point: Path
    is_v2: bool
    names: frozenset[str]


def hierarchies() -> list[Hierarchy]:
    """Return the mounted hierarchies that matter here."""
    found: dict[Path, Hierarchy] = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        kind, _, options = rest.split(" ", 2)
        mount_point = Path(fields.split()[4])
        names = frozenset(options.split(","))
        if kind == "cgroup2":
            found[mount_point] = Hierarchy(mount_point, True, frozenset())
        elif kind == "cgroup" and names & _V1_WANTED:
            found[mount_point] = Hierarchy(mount_point, False, names)
    if not found:
        raise LabError("no cgroup hierarchy is mounted on this host; systemd in a VM cannot run without")
    return list(found.values())


def _wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.005)
    return False


class VmCgroup:
    """The cgroups of one VM: `<lab>/<vm>` in each hierarchy, with leaves for the VM and for `exec` from outside.

    On v2 a cgroup with children should hold no process itself, so the VM boots in the leaf `machine` and the
    lab's own commands enter the leaf `exec`.
    """

    def __init__(self, lab: str, vm: str) -> None:
        self.relative = Path(f"orch-lab-{lab}") / vm
        self.hierarchies = hierarchies()

    def folders(self) -> list[Path]:
        return [hierarchy.mount_point / self.relative for hierarchy in self.hierarchies]

    def make(self) -> None:
        for folder in self.folders():
            for leaf in ("machine", "exec"):
                (folder / leaf).mkdir(parents=True, exist_ok=True)

    def leaves(self, leaf: str) -> list[Path]:
        return [folder / leaf / "cgroup.procs" for folder in self.folders()]

    def entering(self, leaf: str, argv: list[str]) -> list[str]:
        """Prefix a command so that it runs in a leaf of this VM's cgroups; the shell text is constant."""
        files = [str(path) for path in self.leaves(leaf)]
        script = 'n=$1; shift; while [ "$n" -gt 0 ]; do echo 0 >"$1" || exit 125; shift; n=$((n-1)); done; exec "$@"'
        return ["/bin/sh", "-c", script, "sh", str(len(files)), *files, *argv]

    def enter(self, leaf: str) -> None:
        """Move this very process into a leaf of this VM's cgroups."""
        for path in self.leaves(leaf):
            path.write_text("0")

    def _v2(self) -> Path | None:
        for hierarchy in self.hierarchies:
            folder = hierarchy.mount_point / self.relative
            if hierarchy.is_v2 and (folder / "cgroup.freeze").exists():
                return folder
        return None

    def _v1_freezer(self) -> Path:
        for hierarchy in self.hierarchies:
            if "freezer" in hierarchy.names:
                return hierarchy.mount_point / self.relative
        raise LabError("this kernel has neither cgroup v2 nor the v1 freezer: a VM cannot be frozen here")

    def freeze(self) -> None:
        """Stop every process of the VM; returns when all of them stand still."""
        self._set_frozen(True)

    def thaw(self) -> None:
        self._set_frozen(False)

    def freeze_file(self) -> Path:
        """Return the file that tells whether the VM is frozen: 0 or THAWED when it is not."""
        v2 = self._v2()
        return v2 / "cgroup.freeze" if v2 is not None else self._v1_freezer() / "freezer.state"

    def _set_frozen(self, frozen: bool) -> None:
        v2 = self._v2()
        if v2 is not None:
            (v2 / "cgroup.freeze").write_text("1" if frozen else "0")
            wanted = f"frozen {int(frozen)}"
            settled = _wait_until(lambda: wanted in (v2 / "cgroup.events").read_text(), 5.0)
        else:
            state = self._v1_freezer() / "freezer.state"
            state.write_text("FROZEN" if frozen else "THAWED")
            settled = _wait_until(lambda: state.read_text().strip() == ("FROZEN" if frozen else "THAWED"), 5.0)
        if not settled:
            raise LabError(f"the VM did not {'freeze' if frozen else 'thaw'} within 5 s")

    def is_frozen(self) -> bool:
        with contextlib.suppress(OSError, LabError):
            return self.freeze_file().read_text().strip() not in ("0", "THAWED")
        return False

    def kill(self) -> None:
        """SIGKILL every process of the VM at once."""
        v2 = self._v2()
        if v2 is not None and (v2 / "cgroup.kill").exists():
            (v2 / "cgroup.kill").write_text("1")
            return
        for folder in self.folders():
            kill_below(folder)

    def pids(self) -> set[int]:
        """Return every process of the VM, those of `exec` too."""
        return {pid for folder in self.folders() for pid in pids_below(folder)}

    def remove(self) -> None:
        """Kill what is left and remove the cgroups; LabError when processes do not die."""
        if any(folder.exists() for folder in self.folders()):
            self.thaw_quietly()
            self.kill_all_until_gone()
        for folder in self.folders():
            remove_tree(folder)
            with contextlib.suppress(OSError):
                folder.parent.rmdir()

    def thaw_quietly(self) -> None:
        with contextlib.suppress(OSError, LabError):
            if self.is_frozen():
                self.thaw()

    def kill_all_until_gone(self, timeout_s: float = 10.0) -> None:
        deadline = time.monotonic() + timeout_s
        while self.pids():
            if time.monotonic() > deadline:
                raise LabError(f"processes of {self.relative} do not die: {sorted(self.pids())[:10]}")
            with contextlib.suppress(OSError):
                self.kill()
            time.sleep(0.02)


def pids_below(folder: Path) -> set[int]:
    """Return the processes in a cgroup and in those below it."""
    found: set[int] = set()
    for place, _, _ in os.walk(folder):
        with contextlib.suppress(OSError, ValueError):
            found.update(int(word) for word in Path(place, "cgroup.procs").read_text().split())
    return found


def kill_below(folder: Path) -> None:
    """SIGKILL everything in a cgroup and below: by cgroup.kill where the kernel has it, else one by one."""
    with contextlib.suppress(OSError):
        if (folder / "cgroup.kill").exists():
            (folder / "cgroup.kill").write_text("1")
            return
    for pid in pids_below(folder):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def remove_tree(folder: Path) -> None:
    """Remove an empty cgroup with its children, the deepest first."""
    for place, _, _ in os.walk(folder, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(place)
