"""Brings the playbooks of another worker's VM to those of this one, by a play of their own over the worker's SSH.

In: a release that is here. Out: what came of it on one VM. `sync_playbooks.yml` lays the release beside what is there
and switches, so that no play sees half of it and those that run go on with what they began with.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.domain.sentence import one_line
from orchestrator.execute.environment import Places, as_keyholder, play_environment

TIMEOUT_S = 120.0
PLAYBOOK = "sync_playbooks.yml"
_PROGRAM = "import sys; sys.argv[0] = 'ansible-playbook'; from ansible.cli.playbook import main; main(sys.argv)"
_RECAP = re.compile(r": ok=\d+ +changed=(\d+)")


@dataclass(frozen=True, slots=True)
class Synced:
    """What came of one VM. `problem` is empty where it has the release now."""

    changed: bool = False
    problem: str = ""


def sync_vm(places: Places, ansible_dir: Path, digest: str, vm: str) -> Synced:
    """Run the play for one VM; takes seconds. Never raises."""
    here = replace(places, ansible_dir=ansible_dir)
    variables = json.dumps({"target": vm, "digest": digest})
    argv = [sys.executable, "-I", "-c", _PROGRAM, f"playbooks/{PLAYBOOK}", "-e", variables]
    # Read by a person and by the line below, not by ansible-runner.
    env = play_environment(here, {}) | {"ANSIBLE_STDOUT_CALLBACK": "default"}
    del env["ANSIBLE_CALLBACK_PLUGINS"]
    try:
        done = subprocess.run(
            argv,
            cwd=ansible_dir,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            **as_keyholder(),
        )
    except subprocess.TimeoutExpired:
        return Synced(problem=f"the play has not ended within {TIMEOUT_S:g} s")
    except OSError as error:
        return Synced(problem=f"the play cannot be run: {error.strerror or error}")
    if done.returncode != 0:
        return Synced(problem=why_failed(done.stdout + done.stderr))
    found = _RECAP.search(done.stdout)
    return Synced(changed=found is not None and found.group(1) != "0")


def why_failed(output: str) -> str:
    """Return what the play said of its failure, in one line."""
    said = re.search(r"\bmsg: (.+(?:\n {5,}\S.*)*)", output) or re.search(r'"msg": "((?:[^"\\]|\\.)+)"', output)
    lines = [line for line in output.splitlines() if line.strip()]
    words = said.group(1).strip("'\"") if said else lines[-1] if lines else "the play said nothing"
    return one_line(words.removeprefix("Task failed: "))[:300]


def may_run_plays(places: Places) -> bool:
    """Say whether this account may use the worker's key."""
    return os.access(places.ssh_key_file, os.R_OK)
