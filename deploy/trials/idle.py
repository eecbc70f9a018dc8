"""What the daemons cost while nothing happens: memory and processor time of their processes, from the host's /proc.

A worker's warm server and its SSH connections are named apart: they are processes of their own, which a fleet may see
end and start again while the worker stays.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from deploy.machines.cgroups import pids_below
from deploy.machines.lab import Lab
from deploy.trials.status import fleet_status

OVER_S = 60.0
DAEMONS = {"guard": "vms", "controller": "controllers", "worker": "workers"}
WARM_SERVER, SSH = "worker's warm server", "worker's SSH connections"


@dataclass(frozen=True)
class Process:
    """One process at one moment."""

    part: str
    rss_kb: int
    pss_kb: int
    cpu_ticks: int
    """Of its own and of the children that it has waited for, in clock ticks since it began."""


@dataclass(frozen=True)
class Cost:
    """What one part of a daemon costs on one VM. RSS counts pages in full that it shares; PSS its share of them,
    where the four VMs of a lab share files that real VMs would not."""

    vm: str
    part: str
    rss_mb: float
    pss_mb: float
    cpu_percent: float
    """Of one core."""
    processes: int


def measure_idle(lab: Lab, over_s: float = OVER_S) -> list[Cost]:
    """Watch every daemon of a settled fleet for `over_s` seconds, without asking the fleet anything meanwhile."""
    leader = fleet_status(lab).get("leader")
    places = {
        (vm, daemon): lab.machine(vm).unit_cgroup(f"orch-{daemon}.service")
        for daemon, group in DAEMONS.items()
        for vm in lab.fleet.members(group)
    }
    began = time.monotonic()
    before = {place: processes_in(folders, place[1]) for place, folders in places.items()}
    time.sleep(over_s)
    after = {place: processes_in(folders, place[1]) for place, folders in places.items()}
    took_s = time.monotonic() - began
    costs: list[Cost] = []
    for vm, daemon in places:
        found = costs_of(vm, before[vm, daemon], after[vm, daemon], took_s)
        role = " (leader)" if vm == leader else " (follower)"
        costs.extend(
            Cost(**(vars(cost) | {"part": cost.part + role})) if cost.part == "controller" else cost for cost in found
        )
    return costs


def processes_in(folders: Iterable[Path], daemon: str) -> dict[int, Process]:
    """Read the processes in a unit's cgroup; one that ends meanwhile is left out."""
    found: dict[int, Process] = {}
    for pid in {pid for folder in folders for pid in pids_below(folder)}:
        with suppress(OSError, ValueError, IndexError, KeyError):
            place = Path("/proc", str(pid))
            argv = place.joinpath("cmdline").read_bytes().decode(errors="replace").split("\0")
            memory = memory_kb(place.joinpath("smaps_rollup").read_text())
            ticks = cpu_ticks(place.joinpath("stat").read_text())
            found[pid] = Process(part_of(daemon, argv), memory["Rss"], memory["Pss"], ticks)
    return found


# --- PURE ------------------------------------------------------------------------------------------------------


def part_of(daemon: str, argv: list[str]) -> str:
    """Return what a process with this command line is within its daemon."""
    if "orchestrator.execute.warm_server" in argv:
        return WARM_SERVER
    return SSH if os.path.basename(argv[0]) == "ssh" else daemon


def memory_kb(rollup: str) -> dict[str, int]:
    """Read `/proc/PID/smaps_rollup`: kB by name (`Rss`, `Pss`, ...)."""
    fields = (line.split() for line in rollup.splitlines() if line.endswith(" kB"))
    return {words[0].rstrip(":"): int(words[1]) for words in fields}


def cpu_ticks(stat: str) -> int:
    """Read `/proc/PID/stat`: utime, stime, cutime and cstime together."""
    # The name in parentheses may hold anything, so count from behind the last one.
    return sum(int(word) for word in stat.rpartition(")")[2].split()[11:15])


def costs_of(vm: str, before: Mapping[int, Process], after: Mapping[int, Process], took_s: float) -> list[Cost]:
    """Return what each part costs: memory at the end, processor time of the processes that are there at the end.

    One that has begun meanwhile counts in full; what has ended counts in the parent that waited for it.
    """
    by_part: dict[str, list[int]] = defaultdict(list)
    for pid, process in after.items():
        by_part[process.part].append(pid)
    costs = []
    for part, pids in by_part.items():
        ticks = sum(after[pid].cpu_ticks - (before[pid].cpu_ticks if pid in before else 0) for pid in pids)
        costs.append(
            Cost(
                vm=vm,
                part=part,
                rss_mb=round(sum(after[pid].rss_kb for pid in pids) / 1024, 1),
                pss_mb=round(sum(after[pid].pss_kb for pid in pids) / 1024, 1),
                cpu_percent=round(100 * ticks / os.sysconf("SC_CLK_TCK") / took_s, 2),
                processes=len(pids),
            )
        )
    return costs
