"""What a play's environment holds, and whom the worker connects to ahead."""

from __future__ import annotations

from pathlib import Path

from orchestrator.execute.environment import Places, play_environment, runner_environment
from orchestrator.execute.warm_ssh import SshHost, configured_user, hosts_in, master_command

PLACES = Places(Path("/opt/orch/ansible"), Path("/var/lib/orch"), Path("/etc/orch/ssh/id_ed25519"))


def test_nothing_of_the_workers_environment_reaches_a_play_unless_it_is_named() -> None:
    found = play_environment(PLACES, {"PATH": "/bin", "CONSUL_HTTP_TOKEN": "secret", "ANSIBLE_BECOME_PASS": "secret"})
    assert "secret" not in found.values()
    assert found["PATH"] == "/bin"


def test_host_keys_are_checked_against_the_pinned_ones() -> None:
    found = play_environment(PLACES, {})
    assert found["ANSIBLE_HOST_KEY_CHECKING"] == "True"
    assert "StrictHostKeyChecking=yes" in found["ANSIBLE_SSH_ARGS"]
    assert "UserKnownHostsFile=/etc/orch/ssh/known_hosts" in found["ANSIBLE_SSH_ARGS"]


def test_what_ansible_runner_adds_reaches_the_play_and_what_it_copies_does_not() -> None:
    prepared = {"AWX_ISOLATED_DATA_DIR": "/a", "SECRET": "s", "ANSIBLE_CALLBACK_PLUGINS": "/c"}
    found = runner_environment(prepared, {"SECRET": "s"}, {"LC_ALL": "C.UTF-8"})
    assert found == {"AWX_ISOLATED_DATA_DIR": "/a", "ANSIBLE_CALLBACK_PLUGINS": "/c", "LC_ALL": "C.UTF-8"}


def test_the_play_and_the_connection_opened_ahead_use_the_same_control_path() -> None:
    found = play_environment(PLACES, {})
    path = found["ANSIBLE_SSH_CONTROL_PATH"] % {"directory": found["ANSIBLE_SSH_CONTROL_PATH_DIR"]}
    command = master_command(SshHost("a", "10.0.0.1", "orch", None), PLACES)
    assert f"ControlPath={path}" in command


def test_a_connection_ahead_is_as_ansible_would_call_ssh() -> None:
    words = master_command(SshHost("a", "10.0.0.1", "orch", 2222), PLACES)
    assert words[-5:] == ["-o", "User=orch", "-p", "2222", "10.0.0.1"]


def test_the_inventory_names_the_hosts_and_local_ones_are_left_out() -> None:
    hostvars = {
        "a": {"ansible_host": "10.0.0.1", "ansible_user": "orch", "ansible_port": "2222"},
        "b": {},
        "c": {"ansible_connection": "local"},
    }
    assert hosts_in({"_meta": {"hostvars": hostvars}}, "admin") == (
        SshHost("a", "10.0.0.1", "orch", 2222),
        SshHost("b", "b", "admin", None),
    )


def test_the_remote_user_may_stand_in_ansible_cfg(tmp_path: Path) -> None:
    places = Places(tmp_path, tmp_path, tmp_path / "id")
    assert configured_user(places) is None
    (tmp_path / "ansible.cfg").write_text("[defaults]\nremote_user = admin\ncontrol_path = %(directory)s/%%C\n")
    assert configured_user(places) == "admin"
