"""Runs inside a VM: what the daemons' processes hold and have used so far, as JSON. Standard library only.

`python idle_probe.py UNIT…` prints {unit: [{pid, name, rss_kb, pss_kb, ticks}]}; a unit that does not run is left out.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def main_pid(unit: str) -> int:
    """Return the unit's main process, 0 where it does not run."""
    argv = ["systemctl", "show", "--property=MainPID", "--value", unit]
    return int(subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip() or 0)


def stat_fields(pid: int) -> list[str]:
    """Return the fields of proc(5) `stat` after the name; they begin with the state (field 3)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def family(pid: int) -> list[int]:
    """Return the process and all that descend from it."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents.setdefault(int(stat_fields(int(entry.name))[1]), []).append(int(entry.name))
            except OSError:
                continue
    found, todo = [], [pid]
    while todo:
        found.append(todo.pop())
        todo += parents.get(found[-1], [])
    return found


def process(pid: int) -> dict[str, object]:
    """Return one process' use of memory and of the CPU."""
    fields = stat_fields(pid)
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    sizes = {line.split(":")[0]: int(line.split()[1]) for line in rollup if line.split(":")[0] in ("Rss", "Pss")}
    argv = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    name = next((word.decode() for word in argv[1:] if word.startswith(b"orchestrator.")), Path(argv[0].decode()).name)
    ticks = int(fields[11]) + int(fields[12])
    return {"pid": pid, "name": name, "rss_kb": sizes["Rss"], "pss_kb": sizes["Pss"], "ticks": ticks}


def main() -> None:
    """Print what was found."""
    found = {}
    for unit in sys.argv[1:]:
        pid = main_pid(unit)
        if pid:
            found[unit] = [process(each) for each in family(pid)]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
