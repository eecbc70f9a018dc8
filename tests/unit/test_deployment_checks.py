"""What a deployment refuses on the control node, before it touches any VM."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from jinja2 import Environment

ANSIBLE = Path(__file__).resolve().parents[2] / "ansible"
duration_s: Callable[[str], float] = runpy.run_path(str(ANSIBLE / "filter_plugins" / "orch_durations.py"))["duration_s"]


def checked(folder: Path, **variables: Any) -> subprocess.CompletedProcess[str]:
    """Run site.yml with other variables as far as its checks; no VM of the inventory is there."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    env |= {"ANSIBLE_CONFIG": str(ANSIBLE / "ansible.cfg"), "ANSIBLE_LOCAL_TEMP": str(folder / "tmp")}
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    secrets = {"orch_secrets_dir": str(folder / "secrets"), "orch_vault_password_file": str(folder / "password")}
    given = json.dumps({**secrets, **variables})
    argv = [program, "playbooks/site.yml", "--tags", "check", "-e", given]
    return subprocess.run(argv, cwd=ANSIBLE, env=env, capture_output=True, text=True, timeout=120)


def test_the_reference_fleet_passes_without_any_vm_being_asked(tmp_path: Path) -> None:
    done = checked(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "unreachable=0" in done.stdout


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"orch_drain_s": -1}, "drain_s: should be greater than or equal to 0"),
        ({"orch_failback": {"grace_s": 1}}, "failback.grace_s (1) is shorter than the 2 s"),
        ({"consul_gossip_probe_timeout": "1s"}, "consul_gossip_probe_timeout (1s) is not shorter than"),
        ({"consul_daemon_check_timeout": "1500ms"}, "is shorter than the 1500ms that the check may take"),
        ({"consul_broker_check_interval": "900ms"}, "consul_broker_check_interval (900ms) is shorter than the 1s"),
        ({"consul_daemon_check_interval": "0.9s"}, "below Consul's floor of 1s"),
        ({"consul_gossip_probe_interval": "soon"}, "'soon' is no duration"),
    ],
)
def test_what_contradicts_itself_ends_the_deployment_before_any_vm_is_touched(
    tmp_path: Path, variables: dict[str, Any], said: str
) -> None:
    done = checked(tmp_path, **variables)
    assert done.returncode != 0
    assert said in " ".join(done.stdout.split() + done.stderr.split())


def test_a_deployment_checks_first() -> None:
    argv = [str(Path(sys.executable).with_name("ansible-playbook")), "playbooks/site.yml", "--list-tasks"]
    listed = subprocess.run(argv, cwd=ANSIBLE, capture_output=True, text=True, timeout=120, check=True).stdout
    plays = [line for line in listed.splitlines() if line.lstrip().startswith("play #")]
    assert "Check what is to be deployed" in plays[0]


@pytest.mark.parametrize(
    ("said", "is_taken"),
    [
        ("mysqld  Ver 10.11.19-MariaDB-0+deb12u1 for debian-linux-gnu on x86_64", True),
        ("/usr/sbin/mysqld  Ver 8.0.43-0ubuntu0.24.04.1 for Linux on x86_64 ((Ubuntu))", False),
    ],
)
def test_no_package_is_installed_over_a_database_server_that_is_no_mariadb(
    tmp_path: Path, said: str, is_taken: bool
) -> None:
    program = tmp_path / "mysqld"
    program.write_text(f"#!/bin/sh\necho '{said}'\n")
    program.chmod(0o755)
    play = tmp_path / "play.yml"
    role = {"ansible.builtin.include_role": {"name": "packages", "tasks_from": "product"}}
    here = {"ansible_python_interpreter": sys.executable}
    play.write_text(yaml.safe_dump([{"hosts": "localhost", "gather_facts": False, "vars": here, "tasks": [role]}]))
    env = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    env |= {"PATH": f"{tmp_path}:{env['PATH']}", "ANSIBLE_ROLES_PATH": str(ANSIBLE / "roles")}
    argv = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "localhost,", "-c", "local", str(play)]
    done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
    assert (done.returncode == 0) is is_taken, done.stdout + done.stderr
    assert ("is no MariaDB" in " ".join(done.stdout.split() + done.stderr.split())) is not is_taken


@pytest.mark.parametrize(("status", "ends", "fails"), [(0, True, False), (7, False, True), (8, True, True)])
def test_an_invalid_policy_is_not_applied_again_and_again(status: int, ends: bool, fails: bool) -> None:
    plays = yaml.safe_load((ANSIBLE / "playbooks" / "site.yml").read_text())
    task = next(t for play in plays for t in play["tasks"] if t.get("name") == "Apply the fleet's policy")
    said = {"applied": {"rc": status}}
    asked = [Environment().compile_expression(task[word])(said) for word in ("until", "failed_when")]
    assert asked == [ends, fails]


@pytest.mark.parametrize(
    ("text", "seconds"), [("250ms", 0.25), ("1s", 1.0), ("1.5s", 1.5), ("1m30s", 90.0), ("2h", 7200.0), (".5s", 0.5)]
)
def test_a_duration_is_read_as_consul_reads_it(text: str, seconds: float) -> None:
    assert duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "1", "250 ms", "s", "1s2", "-1s", "1d"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration"):
        duration_s(text)
