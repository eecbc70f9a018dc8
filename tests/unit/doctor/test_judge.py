"""What the VMs say of themselves is judged: one finding for each thing that is wrong, none for what is well."""

from __future__ import annotations

import pytest

from orchestrator.doctor.facts import FORMAT, Asked, CertificateFacts, DiskFacts, FileFacts
from orchestrator.doctor.findings import Severity
from orchestrator.doctor.judge import judge_backups, judge_vms
from tests.unit.cli.world import NOW
from tests.unit.doctor.build import answered, told


def test_of_a_vm_that_is_well_nothing_is_said() -> None:
    assert told(judge_vms(answered())) == []


@pytest.mark.parametrize(
    ("said", "todo"),
    [
        ("ssh: connect to host 10.0.0.22 port 22: Connection timed out", "see whether backend-server runs"),
        ("Host key verification failed", "find out why the host key of backend-server is another one"),
        ("orch@10.0.0.22: Permission denied (publickey)", "run site.yml"),
        ("no key that this account may read (/etc/orch/ssh/id_ed25519)", "run `orch doctor` on a worker's VM"),
        ("sudo: a password is required", "let the account orch act as root on backend-server"),
        ("no answer within 8 s", "see whether backend-server runs"),
    ],
)
def test_a_vm_that_could_not_be_asked_is_no_vm_that_is_well(said: str, todo: str) -> None:
    (found,) = judge_vms({"backend-server": Asked(facts=None, problem=said, sent=NOW, answered=NOW + 3)})
    assert told([found]) == [f"unknown backend-server: could not find out: it could not be asked: {said}"]
    assert found.todo.startswith(todo)


def test_facts_of_another_format_are_not_guessed_at() -> None:
    (found,) = judge_vms(answered(format=FORMAT + 1, orch="0.9.0", disks=()))
    assert found.severity is Severity.UNKNOWN
    assert "orch 0.9.0 answers in format 2, this one reads 1" in found.wrong
    assert "site.yml" in found.todo


def test_what_the_vm_could_not_find_out_is_told() -> None:
    (line,) = told(judge_vms(answered(unknown=("systemd does not say how its units are (timed out)",))))
    assert line == "unknown backend-server: could not find out: systemd does not say how its units are (timed out)"


HOUR_S = 3600.0
UNASKED = {"frontend-server": Asked(facts=None, problem="no answer within 8 s", sent=NOW, answered=NOW + 8)}


def backed_up(**kinds: float | None) -> dict[str, Asked]:
    """Return what a VM says whose newest backups were begun so many hours ago."""
    ages = {kind: None if hours is None else NOW + 0.6 - hours * HOUR_S for kind, hours in kinds.items()}
    return answered("messaging-server", backups=ages)


@pytest.mark.parametrize(
    ("asked", "lines"),
    [
        ({}, []),
        (backed_up(consul=49.9, database=1.0), []),
        (backed_up(consul=72.0), ["warning backups: the newest of consul is 72 hours old"]),
        (backed_up(consul=None), ["warning backups: there is none of consul"]),
        # Whose turn it is changes: the other VM has the newer one.
        (backed_up(consul=72.0) | answered("backend-server", backups={"consul": NOW - 5 * HOUR_S}), []),
        (
            backed_up(consul=None) | UNASKED,
            [
                "unknown backups: could not find out: there is none of consul, "
                "where it could be asked (frontend-server could not)"
            ],
        ),
    ],
)
def test_a_backup_that_is_missed_is_told_with_its_age(asked: dict[str, Asked], lines: list[str]) -> None:
    found = list(judge_backups(asked, 50.0))
    assert told(found) == lines
    assert all("`orch backup make consul --here` makes one now" in one.todo for one in found)


@pytest.mark.parametrize(
    ("mode", "owner", "line"),
    [
        (
            0o644,
            "orch",
            "error backend-server: /etc/orch/x holds a secret and has mode 0644: every account may get at it",
        ),
        (
            0o602,
            "orch",
            "error backend-server: /etc/orch/x holds a secret and has mode 0602: every account may get at it",
        ),
        (0o660, "orch", "warning backend-server: /etc/orch/x may be written by the group staff"),
        (0o600, "root", "error backend-server: /etc/orch/x belongs to root, so the daemons of orch cannot read it"),
    ],
)
def test_a_secret_is_nobody_elses_and_its_daemons(mode: int, owner: str, line: str) -> None:
    file = FileFacts(path="/etc/orch/x", mode=mode, owner=owner, group="staff", belongs_to="orch")
    assert told(judge_vms(answered(secrets=(file,)))) == [line]


def test_a_secret_that_its_group_reads_is_well() -> None:
    file = FileFacts(path="/etc/orch/tls/vm-key.pem", mode=0o640, owner="root", group="orch-tls")
    assert told(judge_vms(answered(secrets=(file,)))) == []


@pytest.mark.parametrize(
    ("free_mib", "inodes_free", "line"),
    [
        (900, 0.5, "warning backend-server: the disk that holds /var has 900 MiB left (9%)"),
        (200, 0.5, "error backend-server: the disk that holds /var has 200 MiB left (2%)"),
        (5000, 0.01, "error backend-server: the disk that holds /var has 1.0% of its inodes left"),
    ],
)
def test_a_disk_is_told_of_before_it_is_full(free_mib: int, inodes_free: float, line: str) -> None:
    disk = DiskFacts(path="/var", size=10_000 * 2**20, free=free_mib * 2**20, inodes_free=inodes_free)
    assert told(judge_vms(answered(disks=(disk,)))) == [line]


def test_a_small_disk_with_little_left_is_full_whatever_its_share() -> None:
    disk = DiskFacts(path="/var", size=100 * 2**20, free=50 * 2**20)
    assert told(judge_vms(answered(disks=(disk,)))) == [
        "error backend-server: the disk that holds /var has 50 MiB left (50%)"
    ]


@pytest.mark.parametrize(
    ("off_s", "line"),
    [
        (3.0, "warning backend-server: its clock is 2.9 s or more ahead of the one here"),
        (-3.0, "warning backend-server: its clock is 2.7 s or more behind the one here"),
        (3600.0, "error backend-server: its clock is 3599.9 s or more ahead of the one here"),
    ],
)
def test_a_clock_that_is_off_is_told_of_by_how_much_at_least(off_s: float, line: str) -> None:
    assert told(judge_vms(answered(started=NOW + 0.3 + off_s, ended=NOW + 0.5 + off_s))) == [line]


@pytest.mark.parametrize(
    ("days", "line"),
    [
        (31, ""),
        (29, "warning backend-server: the certificate /etc/orch/tls/vm.pem ends in 29 days"),
        (6, "error backend-server: the certificate /etc/orch/tls/vm.pem ends in 6 days"),
        (-2, "error backend-server: the certificate /etc/orch/tls/vm.pem ended 2 days ago"),
    ],
)
def test_a_certificate_is_told_of_before_it_ends(days: int, line: str) -> None:
    certificate = CertificateFacts(path="/etc/orch/tls/vm.pem", ends=NOW + days * 86400)
    assert "; ".join(told(judge_vms(answered(certificates=(certificate,))))) == line


def test_a_certificate_that_cannot_be_read_is_an_error() -> None:
    certificate = CertificateFacts(path="/etc/orch/tls/ca.pem", problem="no PEM")
    assert told(judge_vms(answered(certificates=(certificate,)))) == [
        "error backend-server: the certificate /etc/orch/tls/ca.pem cannot be read: no PEM"
    ]


def test_an_agent_that_does_not_answer_and_secrets_that_nobody_sees_are_told_of() -> None:
    assert told(judge_vms(answered(consul="knows no leader", secrets=()))) == [
        "error backend-server: its Consul agent knows no leader",
        "unknown backend-server: could not find out: no file that holds a secret is to be seen there",
    ]


def test_a_slow_answer_is_no_clock_that_is_off() -> None:
    asked = answered(started=NOW + 4.0, ended=NOW + 4.2)["backend-server"].model_copy(update={"answered": NOW + 8.0})
    assert told(judge_vms({"backend-server": asked})) == []
