"""Run one program inside a root made of overlay layers, with all mounts in a namespace of their own.

`in_layers` starts this module again under `unshare`: the mounts and every process that the program starts end
with it, however it ends. So there is nothing to unmount afterwards and nothing to forget.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from deploy.machines.commands import run_logged
from deploy.machines.places import CHECKOUT

OVERLAY_OPTIONS = "redirect_dir=off,metacopy=off,index=off"


@dataclass(frozen=True)
class Layers:
    """Lower directories, the topmost first, and the one that takes what is written."""

    lower: tuple[Path, ...]
    upper: Path
    work: Path

    def mount_option(self) -> str:
        lower = ":".join(str(layer) for layer in self.lower)
        # Former upper directories serve as lower ones elsewhere; that asks for no feature that ties layers.
        return f"lowerdir={lower},upperdir={self.upper},workdir={self.work},{OVERLAY_OPTIONS}"


@dataclass(frozen=True)
class Bind:
    """A host path to be seen at a path inside; read-only unless said otherwise."""

    source: Path
    target: str
    writable: bool = False


@dataclass(frozen=True)
class Job:
    """One program in one root. Without layers, `root` itself is written to."""

    root: Path
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    layers: Layers | None = None
    binds: tuple[Bind, ...] = field(default=())


def isolated(argv: Sequence[str | Path]) -> list[str]:
    """Prefix a command so that its mounts and its processes end with it, and it with the caller."""
    prefix = [
        "setpriv",
        "--pdeathsig",
        "KILL",
        "unshare",
        "--mount",
        "--propagation",
        "private",
        "--pid",
        "--fork",
        "--kill-child=SIGKILL",
        "--",
    ]
    return [*prefix, *(str(word) for word in argv)]


def in_layers(job: Job, log: Path) -> None:
    """Run the job to its end, its output appended to `log`; LabError when it fails."""
    spec = json.dumps(asdict(job), default=str)
    run_logged(isolated([sys.executable, "-m", "deploy.machines.chroot", spec]), log, cwd=CHECKOUT)


def mount(*argv: str | Path) -> None:
    subprocess.run(["mount", *(str(word) for word in argv)], check=True)


def mount_all(job: Job) -> None:
    """Mount layers, kernel file systems, scratch space and the binds."""
    root = job.root
    if job.layers is not None:
        mount("-t", "overlay", "overlay", "-o", job.layers.mount_option(), root)
    for kind, place in (("proc", "proc"), ("sysfs", "sys"), ("tmpfs", "run"), ("tmpfs", "tmp")):
        mount("-t", kind, kind, root / place)
    mount("--rbind", "/dev", root / "dev")
    for bind in job.binds:
        target = root / bind.target.lstrip("/")
        if bind.source.is_dir():
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch()
        mount("--bind", bind.source, target)
        if not bind.writable:
            mount("-o", "remount,bind,ro", target)


def read_job(text: str) -> Job:
    raw = json.loads(text)
    layers = raw["layers"]
    return Job(
        root=Path(raw["root"]),
        argv=tuple(raw["argv"]),
        environment=raw["environment"],
        layers=layers
        and Layers(tuple(Path(layer) for layer in layers["lower"]), Path(layers["upper"]), Path(layers["work"])),
        binds=tuple(Bind(Path(bind["source"]), bind["target"], bind["writable"]) for bind in raw["binds"]),
    )


def main() -> None:
    """Second half of `in_layers`, already in its own namespaces."""
    job = read_job(sys.argv[1])
    mount_all(job)
    os.chroot(job.root)
    os.chdir("/")
    os.execvpe(job.argv[0], list(job.argv), dict(job.environment))


if __name__ == "__main__":
    main()
