"""`deploy/run-tests`, with everything that it runs put in by the test."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from deploy.machines.places import CHECKOUT, bare_twin


def test_both_labs_are_taken_down_at_the_end_even_when_a_step_fails(tmp_path: Path) -> None:
    deploy = tmp_path / "deploy"
    deploy.mkdir()
    (deploy / "run-tests").write_bytes((CHECKOUT / "deploy" / "run-tests").read_bytes())
    (deploy / "machines").symlink_to(CHECKOUT / "deploy" / "machines")
    (deploy / "lab").write_text('#!/bin/sh\necho "$ORCH_LAB_NAME $*" >>taken-down\n')
    (deploy / "lab").chmod(0o755)
    (tmp_path / ".venv").symlink_to(CHECKOUT / ".venv")
    (tmp_path / "Makefile").write_text("check:\n\t@false\n")
    env = {**os.environ, "ORCH_LAB_NAME": "some-lab"}
    done = subprocess.run(["bash", deploy / "run-tests"], check=False, env=env, capture_output=True, timeout=60)
    assert done.returncode == 1
    # Without root there can be no lab.
    labs = {f"{bare_twin('some-lab')} down", "some-lab down"} if os.geteuid() == 0 else set()
    said = tmp_path / "taken-down"
    assert set(said.read_text().splitlines() if said.exists() else []) == labs
