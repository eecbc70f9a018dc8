"""Run one of the project's playbooks as the fleet's operator would, from the outside client, with a progress display.

Key, pinned host keys and secrets are the lab's; inventory, variables and plays are the project's own.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from deploy.machines.access import ssh_options
from deploy.machines.cgroups import VmCgroup
from deploy.machines.commands import run, tail_of
from deploy.machines.fleet import INVENTORY
from deploy.machines.network import in_namespace
from deploy.machines.places import CHECKOUT, LabError, LabPlaces

ANSIBLE = CHECKOUT / "ansible"
PLAYBOOKS = ANSIBLE / "playbooks"
DEPLOY_GROUP = "deploy.lab"
FAILURE_LINES = 60
_STEP = re.compile(r"^(?:TASK|RUNNING HANDLER) \[(.*)\] \*")

Step = Callable[[int, int, str], None]


def environment(places: LabPlaces, ansible: Path = ANSIBLE) -> dict[str, str]:
    """Return the environment of ansible-playbook: this lab's key, nothing of the user's own Ansible settings."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    env |= {
        "PATH": f"{Path(sys.executable).parent}:{env.get('PATH', '')}",
        "ANSIBLE_CONFIG": str(ansible / "ansible.cfg"),
        "ANSIBLE_SSH_CONTROL_PATH_DIR": str(places.home / "cp"),
        "ANSIBLE_LOCAL_TEMP": str(places.home / "ansible-tmp"),
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_FORCE_COLOR": "0",
        "PYTHONUNBUFFERED": "1",
    }
    # Names and hosts of the lab are not looked up in the user's ssh configuration.
    env.pop("SSH_AUTH_SOCK", None)
    return env


def arguments(places: LabPlaces, playbook: str, variables: Mapping[str, object], ansible: Path = ANSIBLE) -> list[str]:
    """Return the command line of one play; the same that an operator would type."""
    inventory = ansible / INVENTORY.relative_to(ANSIBLE)
    argv = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(inventory)]
    argv += ["--private-key", str(places.operator_key), "--user", "root"]
    argv += ["--ssh-common-args", " ".join(ssh_options(places)[2:])]
    secrets = {"orch_secrets_dir": str(places.secrets), "orch_vault_password_file": str(places.vault_password)}
    argv += ["-e", json.dumps({**secrets, **variables})]
    return [*argv, str(ansible / "playbooks" / playbook)]


def run_playbook(
    places: LabPlaces, playbook: str, variables: Mapping[str, object], step: Step, ansible: Path = ANSIBLE
) -> None:
    """Run a playbook to its end; LabError with the end of its output when it fails.

    `ansible`: the folder of that name in the operator's checkout, where that is not this one.
    """
    argv, env = arguments(places, playbook, variables, ansible), environment(places, ansible)
    total = count_tasks(argv, env)
    group = VmCgroup(places.name, DEPLOY_GROUP)
    group.make()
    log = places.deploy_log
    try:
        with log.open("w") as sink:
            code = _follow(
                group.entering("exec", in_namespace(places.client_namespace, argv)), env, sink.write, step, total
            )
    finally:
        # SSH connections that Ansible keeps open for the next run end here.
        group.remove()
    if code != 0:
        said = tail_of(log.read_text(errors="replace"), FAILURE_LINES)
        raise LabError(f"{playbook} failed (all of it in {log}):\n{said}")


def _follow(argv: Sequence[str], env: Mapping[str, str], keep: Callable[[str], object], step: Step, total: int) -> int:
    """Run a command, keep every line, and report each task as it starts."""
    done = 0
    with subprocess.Popen(
        argv,
        env=env,
        cwd=CHECKOUT / "ansible",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            keep(line)
            started = _STEP.match(line)
            if started:
                done += 1
                step(done, max(total, done), started.group(1))
    return process.returncode


def count_tasks(argv: Sequence[str], env: Mapping[str, str]) -> int:
    """Return how many tasks a playbook has; what it includes at run time is not in it. 0 where that fails."""
    done = run([*argv, "--list-tasks"], check=False, env=env, cwd=CHECKOUT / "ansible")
    return sum(1 for line in done.stdout.splitlines() if "TAGS: [" in line and not line.lstrip().startswith("play #"))
