"""What the role `packages` refuses, on this machine in a VM's place; the rest of it is run by the lab's image."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.machines.places import CHECKOUT

PLAY = """
- hosts: backend-server
  gather_facts: false
  tasks:
    - ansible.builtin.include_role: {name: packages, tasks_from: node}
"""


@pytest.mark.parametrize(("version", "is_enough"), [("v9.11.2", False), ("v12.22.9", False), ("v18.0.0", True)])
def test_a_node_that_is_too_old_for_the_backend_is_refused(tmp_path: Path, version: str, is_enough: bool) -> None:
    (tmp_path / "node").write_text(f"#!/bin/sh\necho {version}\n")
    (tmp_path / "node").chmod(0o755)
    (tmp_path / "play.yml").write_text(PLAY)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "ANSIBLE_NOCOLOR": "1"}
    env["ANSIBLE_ROLES_PATH"] = str(CHECKOUT / "ansible" / "roles")
    python = f"ansible_python_interpreter={sys.executable}"
    playbook = str(Path(sys.executable).parent / "ansible-playbook")
    done = subprocess.run(
        [playbook, "-i", "backend-server,", "-c", "local", "-e", python, str(tmp_path / "play.yml")],
        check=False,
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode == 0) is is_enough, done.stdout
    said = f"backend-server has Node {version}; the backend needs 18 or newer."
    assert (said in done.stdout) is not is_enough
