"""`deploy/setup.sh`: which VM this is, and what it has Ansible do; nothing is installed here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from deploy.machines.places import CHECKOUT
from tests.rendering import value_of

INVENTORY = """\
[vms]
# old-server ansible_host=10.0.0.5
frontend-server ansible_host=10.0.0.55
backend-server  ansible_user=admin ansible_host=10.0.0.5

[controllers]
frontend-server
"""
TASKS = {
    task["name"]: task
    for task in yaml.safe_load((CHECKOUT / "ansible" / "roles" / "packages" / "tasks" / "main.yml").read_text())
}
ADDRESSES = """\
2: eth0    inet 192.168.7.1/24 brd 192.168.7.255 scope global eth0
2: eth0    inet 10.0.0.5/16 brd 10.0.255.255 scope global eth0
"""


@pytest.fixture
def vm(tmp_path: Path) -> Path:
    """A folder with an inventory, and with `ip` and `ansible-playbook` in a PATH of this VM's."""
    (tmp_path / "hosts").write_text(INVENTORY)
    (tmp_path / "addresses").write_text(ADDRESSES)
    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / "ip").write_text(f'#!/bin/sh\ncat "{tmp_path}/addresses"\n')
    (commands / "ansible-playbook").write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >"{tmp_path}/asked"\n')
    for command in commands.iterdir():
        command.chmod(0o755)
    return tmp_path


def setup(vm: Path, *words: str) -> tuple[int, str]:
    """Return its exit status and what it said."""
    env = {**os.environ, "PATH": f"{vm}/bin:{os.environ['PATH']}"}
    done = subprocess.run(
        [str(CHECKOUT / "deploy" / "setup.sh"), *words],
        check=False,
        env=env,
        capture_output=True,
        text=True,
        timeout=30,
    )
    return done.returncode, done.stdout + done.stderr


def asked(vm: Path) -> list[str]:
    """Return the words that Ansible was called with."""
    return (vm / "asked").read_text().splitlines()


def test_the_vm_is_found_in_the_inventory_by_the_whole_of_its_address(vm: Path) -> None:
    assert setup(vm, "--inventory", f"{vm}/hosts", "--which") == (0, "• this VM is backend-server\n")


def test_a_machine_that_is_not_in_the_inventory_is_told_so_with_its_addresses(vm: Path) -> None:
    (vm / "addresses").write_text(ADDRESSES.splitlines()[0])
    code, said = setup(vm, "--inventory", f"{vm}/hosts")
    assert code == 1
    assert f"none of this VM's addresses (192.168.7.1) stands in {vm}/hosts" in said
    assert not (vm / "asked").exists()


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--delpoy"], "--delpoy is no option; deploy/setup.sh --help tells them"),
        (["--inventory"], "--inventory needs a value"),
        (["--deploy", "--user", ""], "--user needs a value"),
        (["--inventory", "/nowhere"], "there is no inventory at /nowhere"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_done(vm: Path, words: list[str], why: str) -> None:
    assert setup(vm, *words) == (1, f"setup: {why}\n")
    assert not (vm / "asked").exists()


def test_help_tells_every_option(vm: Path) -> None:
    code, said = setup(vm, "--help")
    assert code == 0
    for word in ("--deploy", "--which", "--user", "--inventory", "--consul", "--consul-template"):
        assert word in said
    assert "set -euo" not in said


def test_installing_is_for_this_vm_only_with_the_programs_that_were_given(vm: Path) -> None:
    (vm / "consul").touch()
    code, _ = setup(vm, "--inventory", f"{vm}/hosts", "--consul", f"{vm}/consul", "--", "--diff", "-e", "a=b c")
    words = asked(vm)
    assert code == 0
    assert words[:6] == ["-i", f"{vm}/hosts", "-c", "local", "--limit", "backend-server"]
    assert f"consul_binary={vm}/consul" in words
    assert not [word for word in words if word.startswith("consul_template_binary")]
    assert words[-4:] == ["--diff", "-e", "a=b c", str(CHECKOUT / "ansible" / "playbooks" / "pre_install_services.yml")]


def test_deploying_is_for_the_whole_fleet_with_this_vm_reached_without_ssh(vm: Path) -> None:
    code, _ = setup(vm, "--deploy", "--inventory", f"{vm}/hosts", "--user", "admin")
    words = asked(vm)
    assert code == 0
    assert "--limit" not in words
    assert "ansible_user=admin" in words
    assert words[-1] == str(CHECKOUT / "ansible" / "playbooks" / "site.yml")
    here = Path(words[3])
    assert (words[:3], here.suffix, here.exists()) == (["-i", f"{vm}/hosts", "-i"], ".ini", False)


def digest_in_the_role() -> str:
    """Return what the role's stamp is called by, as Ansible templates it."""
    stamp = TASKS["Install the libraries that orch needs"]["vars"]["stamp"]
    return value_of(re.findall(r"{{(.*?)}}", stamp)[-1], "backend-server")


@pytest.mark.parametrize("is_complete", [True, False])
def test_a_vm_without_ansible_uses_that_of_orch_unless_other_libraries_are_to_be_installed_there(
    vm: Path, monkeypatch: pytest.MonkeyPatch, is_complete: bool
) -> None:
    own = vm / "orch"
    (own / "bin").mkdir(parents=True)
    (vm / "bin" / "ansible-playbook").rename(own / "bin" / "ansible-playbook")
    (vm / "bin" / "python3").symlink_to(Path(sys.executable).resolve())
    for word in ("bash", "dirname", "awk", "cat"):
        (vm / "bin" / word).symlink_to(Path(shutil.which(word) or word).resolve())
    # What stands for one that was fetched from a network: it says that it is another one.
    control = vm / "control"
    (control / "bin").mkdir(parents=True)
    (control / "complete").touch()
    (control / "bin" / "ansible-playbook").write_text(f'#!/bin/sh\necho another >"{vm}/asked"\n')
    (control / "bin" / "ansible-playbook").chmod(0o755)
    (own / f".libraries-{digest_in_the_role() if is_complete else 'of-an-older-orch'}").touch()
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("ORCH_VENV", str(own))
    monkeypatch.setenv("ORCH_CONTROL", str(control))
    code, said = setup(vm, "--inventory", f"{vm}/hosts")
    assert code == 0, said
    assert (asked(vm) == ["another"]) is not is_complete


@pytest.mark.parametrize(
    ("here", "is_asked"),
    [
        (["installed nginx", "installed curl", "installed sudo"], False),
        (["installed nginx", "config-files curl", "installed sudo"], True),
        (["installed nginx", "installed sudo"], True),
        ([], True),
    ],
)
def test_a_mirror_is_asked_only_where_a_package_is_missing(here: list[str], is_asked: bool) -> None:
    given = {"packages": ["curl", "nginx", "sudo"], "packages_here": {"stdout_lines": here}}
    when = TASKS["Install the packages of every service"]["when"]
    assert value_of(when, "backend-server", **given) == str(is_asked)
