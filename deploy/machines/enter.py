"""The quick way of `exec`: enter a VM from the note that its boot left, importing next to nothing.

`python -S enter.py NOTES VM [--] COMMAND…`; NOTES is the lab's directory of VMs. This
process becomes the command; where it cannot (no such VM, not running), the full command line explains why.
"""

import json
import os
import sys


def enter(notes: str, vm: str, command: list[str]) -> None:
    """Become `command` inside the VM; return when that is not possible."""
    try:
        with open(os.path.join(notes, os.path.basename(vm), "enter.json")) as file:
            note = json.load(file)
        # PIDs are used again: the VM's init is still in the VM's own cgroup.
        with open(f"/proc/{note['leader']}/cgroup") as file:
            if note["cgroup"] not in file.read():
                return
        # One that is dead and not yet reaped has no namespaces any more.
        os.readlink(f"/proc/{note['leader']}/ns/pid")
        with open(note["freeze_file"]) as file:
            if file.read().strip() not in ("0", "THAWED"):
                return
        for place in note["cgroup_files"]:
            with open(place, "w") as file:
                file.write("0")
    except (OSError, ValueError, KeyError):
        return
    environment = dict(note["environment"])
    if "TERM" in os.environ:
        environment["TERM"] = os.environ["TERM"]
    os.execvpe(note["argv"][0], [*note["argv"], *command], environment)


if __name__ == "__main__":
    words = sys.argv[3:]
    if words[:1] == ["--"]:
        words = words[1:]
    if words:
        enter(sys.argv[1], sys.argv[2], words)
    here = os.path.dirname(os.path.abspath(__file__))
    os.environ["PYTHONPATH"] = os.path.dirname(os.path.dirname(here))
    os.execv(sys.executable, [sys.executable, "-m", "deploy.machines", "exec", *sys.argv[2:]])
