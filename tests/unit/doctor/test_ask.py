"""Asking a VM ends in facts or in the reason why there are none, whatever the other side does."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dns.message
import dns.rrset
import pytest

from orchestrator.doctor import network
from orchestrator.doctor.ask import ask
from orchestrator.doctor.facts import Question
from orchestrator.doctor.here import read_certificates, read_secrets
from orchestrator.doctor.network import dns_address, last_words, reached_ports, ssh_command
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


def test_ports_are_open_refused_or_silent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        is_open, is_refused = listening.getsockname()[1], bound.getsockname()[1]
        found = reached_ports({"a": "127.0.0.1", "b": "not an address"}, {"a": (is_open, is_refused), "b": (80,)})
    assert found == {"a": {is_open: "open", is_refused: "refused"}, "b": {80: "silent"}}
    assert reached_ports({}, {}) == {}


@contextlib.contextmanager
def dns_agent(answered: Callable[[bytes], bytes]) -> Iterator[int]:
    """A server that answers one question; yields its port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as agent:
        agent.bind(("127.0.0.1", 0))
        agent.settimeout(10)

        def serve() -> None:
            asked, who = agent.recvfrom(512)
            agent.sendto(answered(asked), who)

        serving = threading.Thread(target=serve)
        serving.start()
        yield agent.getsockname()[1]
        serving.join()


def records(*texts: str, asked_for: str = "a-server.node.consul.") -> Callable[[bytes], bytes]:
    """Answer with the records, given as type and content."""

    def answered(packet: bytes) -> bytes:
        question = dns.message.from_wire(packet)
        assert [str(one) for one in question.question] == [f"{asked_for} IN A"]
        answer = dns.message.make_response(question)
        for text in texts:
            kind, content = text.split(" ")
            answer.answer.append(dns.rrset.from_text(question.question[0].name, 0, "IN", kind, content))
        return answer.to_wire()

    return answered


@pytest.mark.parametrize(
    ("answered", "address"),
    [
        (records("A 10.0.0.22"), "10.0.0.22"),
        (records("CNAME other.node.consul.", "A 10.0.0.22"), "10.0.0.22"),
        (records(), None),
        (records("AAAA ::1"), None),
        (lambda packet: b"", None),
        (lambda packet: b"\0" * 11, None),
        (lambda packet: packet, None),
        (lambda packet: packet[:2] + b"\xff" * 40, None),
    ],
    ids=["an address", "by another name", "no record", "another kind", "nothing", "too short", "echo", "noise"],
)
def test_consuls_dns_is_asked_and_an_answer_that_says_nothing_gives_no_address(
    answered: Callable[[bytes], bytes], address: str | None
) -> None:
    with dns_agent(answered) as port:
        assert dns_address("a-server", port) == address


def test_dns_that_nobody_serves_gives_no_address_at_once_and_a_silent_one_after_the_time_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        monkeypatch.setattr(network, "DNS_TIMEOUT_S", 0.2)
        assert dns_address("a-server", port) is None
        assert silent.recv(512), "it was asked"
    monkeypatch.setattr(network, "DNS_TIMEOUT_S", 60.0)
    began = time.monotonic()
    assert dns_address("a-server", port) is None
    assert time.monotonic() - began < 30.0


def test_a_certificate_says_until_when_it_is_good_and_keys_are_none(tmp_path: Path) -> None:
    key, good = tmp_path / "vm-key.pem", tmp_path / "vm.pem"
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    argv += ["-subj", "/CN=a", "-days", "20", "-keyout", str(key), "-out", str(good)]
    subprocess.run(argv, check=True, capture_output=True)
    (tmp_path / "bad.pem").write_text("no certificate")
    bad, found = read_certificates(tmp_path)
    assert bad.ends is None
    assert bad.problem
    assert found.path == str(good)
    assert found.ends is not None
    assert abs(found.ends - time.time() - 20 * 86400) < 60
