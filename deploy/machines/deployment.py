"""Deploy the fleet with the same playbooks as a real one, and keep the outcome for the next `up`.

A kept state is one overlay layer per VM, what the deployment wrote to its disk, taken while the machines are
off. It is found again by a key over everything that the deployment is made of.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.machines import cache
from deploy.machines.fleet import Fleet
from deploy.machines.image import build_id
from deploy.machines.places import CHECKOUT, LabPlaces, cache_dir
from deploy.machines.playbook import ANSIBLE, PLAYBOOKS, run_playbook
from deploy.machines.tools import Tools, app_modules, wheel

Say = Callable[[str], None]

STATE_VERSION = "state 3"
SOURCES = ("ansible", "consul", "templates", "orchestrator", "deploy/sample-app", "deploy/systemd", "setup.cfg")
SITE = "site.yml"
# Per core. Beyond anything that this host reaches: its load says nothing about one VM.
LAB_LOAD_WARNING = 100.0


@dataclass(frozen=True)
class SavedState:
    """The place of the kept state that belongs to the present sources, kept already or not."""

    key: str

    @property
    def folder(self) -> Path:
        return cache.entry_path("state", self.key)

    def layer(self, vm: str) -> Path:
        return self.folder / "layers" / vm

    @property
    def secrets(self) -> Path:
        return self.folder / "secrets"

    @property
    def lock(self) -> Path:
        """Held by the lab whose deployment makes this state."""
        return cache_dir() / "locks" / f"deployment-{self.key}.lock"

    def exists(self) -> bool:
        return self.folder.is_dir()

    def is_in_use(self) -> bool:
        return str(self.folder) in cache.mounts_in_use()

    def keep(self, layers: Mapping[str, Path], secrets: Path) -> None:
        """Move the VMs' layers into the cache; an older state of the same sources is replaced."""

        def build(folder: Path) -> None:
            (folder / "layers").mkdir()
            for vm, layer in layers.items():
                shutil.move(layer, folder / "layers" / vm)
            if secrets.is_dir():
                shutil.copytree(secrets, folder / "secrets")
            folder.chmod(0o700)

        if self.exists():
            shutil.rmtree(self.folder)
        cache.cached("state", self.key, build)

    def restore_secrets(self, target: Path) -> None:
        """Give the lab the secrets with which this state was deployed, for a later run of a playbook."""
        if self.secrets.is_dir():
            shutil.copytree(self.secrets, target, dirs_exist_ok=True)


def saved_state(fleet: Fleet, tools: Tools, layers: Sequence[Path]) -> SavedState:
    """Return the kept state's place for the checkout as it is now."""
    texts = [STATE_VERSION, *(build_id(layer) for layer in layers)]
    texts += [f"{path.name} {path.stat().st_size}" for path in (tools.consul, tools.consul_template)]
    texts += [f"{vm.name} {vm.address}" for vm in fleet.vms]
    paths = [CHECKOUT / source for source in SOURCES if (CHECKOUT / source).exists()]
    return SavedState(cache.key_of(texts=texts, paths=paths, relative_to=CHECKOUT))


def is_of_a_deployment(layer: str) -> bool:
    """Say whether a layer of a VM's disk is what a deployment wrote, and not the image's."""
    return Path(layer).is_relative_to(cache.entry_path("state", "any").parent)


def kept_to_start_from(saved: SavedState | None, *, fresh: bool) -> SavedState | None:
    """Return the state to boot the machines from; None: from the image, which is then deployed (or left bare)."""
    return saved if saved is not None and saved.exists() and not fresh else None


def has_site() -> bool:
    return (PLAYBOOKS / SITE).is_file()


def deploy(
    places: LabPlaces, tools: Tools, say: Say, playbook: str = SITE, ansible: Path = ANSIBLE, **more: object
) -> None:
    """Run site.yml, or a playbook that has it run, against the booted machines; `ansible` as of `run_playbook`."""
    variables: dict[str, object] = {
        "consul_binary": str(tools.consul),
        "consul_template_binary": str(tools.consul_template),
        "orch_wheel": str(wheel(say)),
        "app_modules": str(app_modules(say)),
        # /proc/loadavg in a container is the host's: four VMs on two cores would all call themselves overloaded.
        "orch_load": {"warning": LAB_LOAD_WARNING},
        # Not in the middle of a test, whatever the hour.
        "backup_calendar": "yearly",
        **more,
    }
    say(f"deploying with ansible/playbooks/{playbook}")
    if sys.stderr.isatty():
        _deploy_with_bar(places, playbook, variables, ansible)
    else:

        def tell(done: int, total: int, name: str) -> None:
            say(f"deploy {done}/{total}: {name}")

        run_playbook(places, playbook, variables, tell, ansible)


def _deploy_with_bar(places: LabPlaces, playbook: str, variables: Mapping[str, object], ansible: Path) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TimeElapsedColumn(), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("starting", total=None)

        def step(done: int, total: int, name: str) -> None:
            progress.update(task, completed=done, total=total, description=name)

        run_playbook(places, playbook, variables, step, ansible)
