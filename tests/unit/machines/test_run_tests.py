"""`deploy/run-tests`, with everything that it runs put in by the test."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from deploy.machines.places import CHECKOUT, bare_twin, lab_of_process

FLEETS = [lab_of_process("some-lab", process) for process in ("gw0", "gw1")]
ALL_LABS = {*FLEETS, *map(bare_twin, FLEETS)}


def run_tests(checkout: Path, *, check: str, fails: str = "") -> subprocess.CompletedProcess[str]:
    """Run it in a checkout with a test of each kind, where `make check` runs the given command.

    The tests pass, but those of the kind named by `fails`.
    """
    deploy = checkout / "deploy"
    deploy.mkdir()
    (deploy / "run-tests").write_bytes((CHECKOUT / "deploy" / "run-tests").read_bytes())
    (deploy / "machines").symlink_to(CHECKOUT / "deploy" / "machines")
    (deploy / "lab").write_text('#!/bin/sh\necho "$ORCH_LAB_NAME $*" >>labs\n')
    (deploy / "lab").chmod(0o755)
    (checkout / ".venv").symlink_to(CHECKOUT / ".venv")
    (checkout / "Makefile").write_text(f"check:\n\t@{check}\n")
    for kind in ("unit", "contract", "integration", "lab"):
        (checkout / "tests" / kind).mkdir(parents=True)
        (checkout / "tests" / kind / f"test_{kind}.py").write_text(f"def test_{kind}():\n    assert {kind != fails}\n")
    env = {**os.environ, "ORCH_LAB_NAME": "some-lab", "ORCH_TEST_FLEETS": "2"}
    argv = ["bash", deploy / "run-tests"]
    return subprocess.run(argv, check=False, env=env, capture_output=True, text=True, timeout=300)


def test_everything_is_run_and_told_of_and_all_labs_are_taken_down(tmp_path: Path) -> None:
    done = run_tests(tmp_path, check="echo checked")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "checked" in done.stdout
    # Unit; contract and integration; the contract with the fork; the four machines, whose line is the last.
    assert [line.split(" in ")[0].strip("= ") for line in done.stdout.splitlines() if " passed" in line] == [
        "2 passed",
        "1 passed",
        "1 passed",
        "1 passed",
    ]
    # Without root there can be no lab.
    down = {f"{name} down" for name in ALL_LABS} if os.geteuid() == 0 else set()
    assert set((tmp_path / "labs").read_text().splitlines()) == {"some-lab tools", *down}


@pytest.mark.parametrize(
    ("check", "fails", "named"),
    [
        ("echo untidy; false", "", ["checks, unit tests and simulation"]),
        ("true", "unit", ["checks, unit tests and simulation"]),
        ("true", "integration", ["contract and integration tests (real Consul, real RabbitMQ)"]),
        ("true", "lab", ["the four machines"]),
        ("false", "lab", ["checks, unit tests and simulation", "the four machines"]),
    ],
)
def test_what_fails_is_named_at_the_end_and_keeps_nothing_else_from_being_run(
    tmp_path: Path, check: str, fails: str, named: list[str]
) -> None:
    done = run_tests(tmp_path, check=check, fails=fails)
    assert done.returncode == 1
    assert [line.removeprefix("Failed: ") for line in done.stderr.splitlines() if line.startswith("Failed: ")] == named
    assert sum(" passed" in line or " failed" in line for line in done.stdout.splitlines()) == 4
    if os.geteuid() == 0:
        assert {f"{name} down" for name in ALL_LABS} <= set((tmp_path / "labs").read_text().splitlines())
