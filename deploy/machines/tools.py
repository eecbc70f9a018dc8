"""What the fleet needs and a Debian mirror does not have: consul, consul-template, orch's own wheel and the sample
application's npm packages.

`consul` and `consul-template` are taken from PATH where their version is supported, otherwise built from the
pinned Go modules in deploy/tools (a module of its own: its dependencies are nobody else's).
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deploy.machines.cache import cached, key_of
from deploy.machines.commands import run, run_logged
from deploy.machines.places import CHECKOUT, LabError, cache_dir

Version = tuple[int, ...]
TOOLS = CHECKOUT / "deploy" / "tools"
GO_FLAGS = ("-trimpath", "-buildvcs=false", "-mod=readonly", "-ldflags", "-s -w")
MODULES = {
    "consul": "github.com/hashicorp/consul",
    "consul-template": "github.com/hashicorp/consul-template",
}
SAMPLE_APP = CHECKOUT / "deploy" / "sample-app"
WHEEL_SOURCES = ("orchestrator", "setup.cfg", "pyproject.toml", "README.md")


@dataclass(frozen=True)
class Tools:
    """Paths of the two Go programs, and where they came from (for the progress display)."""

    consul: Path
    consul_template: Path
    origin: str


def is_supported(program: str, version: Version) -> bool:
    """Consul 1.15 to before 2 (autopilot and check-session as used here); consul-template 0.30 and newer."""
    return (1, 15) <= version < (2,) if program == "consul" else version >= (0, 30)


def version_in(text: str) -> Version | None:
    """Find the version in what `consul version` or `consul-template -v` prints."""
    found = re.search(r"\bv(\d+)\.(\d+)(?:\.(\d+))?", text)
    return tuple(int(part) for part in found.groups(default="0")) if found else None


def on_path(program: str) -> Path | None:
    """Return the program from PATH if its version is supported."""
    where = shutil.which(program)
    if where is None:
        return None
    argv = [where, "version"] if program == "consul" else [where, "-v"]
    done = run(argv, check=False, timeout_s=10)
    version = version_in(done.stdout + done.stderr)
    return Path(where) if version and is_supported(program, version) else None


def build(say: Callable[[str], None]) -> Path:
    """Return the directory with both programs, built from deploy/tools when it is not in the cache."""
    if shutil.which("go") is None:
        raise LabError(
            "consul and consul-template are not in PATH in a supported version (consul 1.15 to 1.x, "
            "consul-template 0.30 or newer), and there is no Go to build them with: install either"
        )
    key = key_of(texts=GO_FLAGS, paths=[TOOLS / "go.mod", TOOLS / "go.sum"], relative_to=CHECKOUT)

    def compile_into(folder: Path) -> None:
        say("building consul and consul-template from pinned Go modules (about 8 minutes on 2 cores, once)")
        env = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": ""}
        # One at a time: each link step needs much memory, and a second run then starts from Go's own cache.
        for module in MODULES.values():
            # -v: the package that is being compiled is the progress that there is to show.
            argv = ["go", "build", "-v", *GO_FLAGS, "-o", f"{folder}/", module]
            run_logged(argv, cache_dir() / "logs" / "go-build.log", env=env, cwd=TOOLS)

    return cached("tools", key, compile_into)


def find_tools(say: Callable[[str], None]) -> Tools:
    """Return consul and consul-template: from PATH where supported, else built."""
    found = {program: on_path(program) for program in MODULES}
    consul, template = found["consul"], found["consul-template"]
    if consul is not None and template is not None:
        return Tools(consul, template, "from PATH")
    folder = build(say)
    return Tools(consul or folder / "consul", template or folder / "consul-template", f"built, {folder.name}")


def wheel(say: Callable[[str], None]) -> Path:
    """Return orch's wheel, built from the checkout's present sources."""
    sources = [CHECKOUT / name for name in WHEEL_SOURCES if (CHECKOUT / name).exists()]
    key = key_of(texts=["wheel 1"], paths=sources, relative_to=CHECKOUT)

    def build_into(folder: Path) -> None:
        say("building orch's wheel")
        build_wheel(CHECKOUT, folder)

    return next(cached("wheel", key, build_into).glob("*.whl"))


def build_wheel(checkout: Path, folder: Path) -> Path:
    """Build the wheel of a checkout into the folder; return it."""
    # From a copy: pip leaves build/ and egg-info in the tree that it builds from.
    copy = folder / "source"
    copy.mkdir(parents=True)
    for source in (checkout / name for name in WHEEL_SOURCES):
        if source.is_dir():
            shutil.copytree(source, copy / source.name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            shutil.copy2(source, copy / source.name)
    if not (copy / "README.md").exists():
        (copy / "README.md").write_text("orch\n")
    argv = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    run([*argv, "--wheel-dir", folder, copy])
    shutil.rmtree(copy)
    return next(folder.glob("*.whl"))


def app_modules(say: Callable[[str], None]) -> Path:
    """Return the archive of the sample application's npm packages, packed as an operator would."""
    pack = SAMPLE_APP / "pack-modules"
    sources = [SAMPLE_APP / "app" / "package.json", SAMPLE_APP / "app" / "package-lock.json", pack]
    key = key_of(texts=["modules 1"], paths=sources, relative_to=CHECKOUT)

    def pack_into(folder: Path) -> None:
        say("fetching the sample application's npm packages")
        run([pack, folder])

    return next(cached("modules", key, pack_into).glob("*.tgz"))
