"""Asking a VM ends in facts or in the reason why there are none, whatever the other side does."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from orchestrator.doctor.ask import ask, last_words, ssh_command
from orchestrator.doctor.facts import Question
from orchestrator.doctor.here import read_secrets
from orchestrator.settings import AmqpSettings, LocalSettings
from tests.unit.doctor.build import well

CHANGED_KEY = """@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @
Host key for 10.0.8.49 has changed and you have requested strict checking.
Host key verification failed.
"""


def test_what_is_printed_becomes_facts_between_two_times() -> None:
    facts = well()
    asked = ask(("cat",), facts.model_dump_json(), time.time)
    assert (asked.facts, asked.problem) == (facts, "")
    assert asked.sent <= asked.answered


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("echo 'sudo: a password is required' >&2; exit 1", "sudo: a password is required"),
        ("exit 3", "exit status 3"),
        ("echo hello", "its answer cannot be read"),
        ("sleep 5", "no answer within 0.2 s"),
    ],
)
def test_without_facts_there_is_a_reason(script: str, problem: str) -> None:
    asked = ask(("sh", "-c", script), Question().model_dump_json(), time.time, timeout_s=0.2)
    assert (asked.facts, asked.problem) == (None, problem)


def test_a_program_that_is_not_there_is_a_reason_too() -> None:
    assert (
        ask(("no-such-program",), "", time.time).problem == "no-such-program cannot be run: No such file or directory"
    )


def test_of_sshs_banner_the_telling_line_is_kept() -> None:
    assert last_words(CHANGED_KEY) == "Host key verification failed"


def test_each_question_goes_over_a_connection_of_its_own_with_the_pinned_host_keys() -> None:
    settings = LocalSettings(vm="a", amqp=AmqpSettings(hosts=("10.0.0.1",)), ssh_key_file=Path("/etc/orch/ssh/id"))
    command = " ".join(ssh_command(settings, "10.0.0.2", ("true",)))
    assert "ControlPath=none" in command
    assert "StrictHostKeyChecking=yes -o UserKnownHostsFile=/etc/orch/ssh/known_hosts" in command
    assert command.endswith("-i /etc/orch/ssh/id -l orch 10.0.0.2 true")


def test_secrets_are_found_by_what_they_are_called_and_public_files_are_none(tmp_path: Path) -> None:
    for name in (
        "amqp/worker_password",
        "orch.json",
        "ssh/id_ed25519",
        "ssh/id_ed25519.pub",
        "notify/chat_url",
        "consul_token",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
        (tmp_path / name).chmod(0o640)
    found = {Path(file.path).name: file for file in read_secrets(tmp_path) if file.path.startswith(str(tmp_path))}
    assert set(found) == {"worker_password", "id_ed25519", "chat_url", "consul_token"}
    assert found["worker_password"].mode == 0o640
    assert found["worker_password"].belongs_to == "orch-worker"
