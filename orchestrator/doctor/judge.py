"""PURE: what the VMs say of themselves -> findings.

Nothing here takes silence for health: a VM that could not be asked is a finding of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from orchestrator.doctor.facts import FORMAT, Asked, CertificateFacts, DiskFacts, FileFacts, VmFacts
from orchestrator.doctor.findings import Finding, error, unknown, warning

CERTIFICATE_WARNING_S = 30 * 86400.0
CERTIFICATE_ERROR_S = 7 * 86400.0
# Ids sort by the clocks of the VMs that lead, and the journal is read by its times.
CLOCK_WARNING_S = 1.0
CLOCK_ERROR_S = 10.0
DISK_WARNING = 0.10
DISK_ERROR = 0.03
# A copy with less counts as full (node.replication.disk has the same in mind for a running database).
DISK_ERROR_BYTES = 64 * 1024 * 1024
OTHERS_MAY = 0o007
GROUP_MAY_WRITE = 0o020


def judge_vms(asked: Mapping[str, Asked]) -> Iterator[Finding]:
    """Judge what each VM said, and that it said something."""
    for vm, answer in asked.items():
        if answer.facts is None:
            yield unknown(vm, f"it could not be asked: {answer.problem}", what_to_do_about_ssh(vm, answer.problem))
        elif answer.facts.format != FORMAT:
            yield unknown(
                vm,
                f"its orch {answer.facts.orch} answers in format {answer.facts.format}, this one reads {FORMAT}",
                "bring all VMs to one release: run site.yml.",
            )
        else:
            yield from _vm(vm, answer, answer.facts)
            yield from _clock(vm, answer, answer.facts)


def judge_backups(asked: Mapping[str, Asked], max_age_h: float) -> Iterator[Finding]:
    """Judge how old the newest backup of each kind is, on whichever VM."""
    found: dict[str, dict[str, float | None]] = {}
    for vm, answer in asked.items():
        for kind, at in (answer.facts.backups if answer.facts is not None else {}).items():
            found.setdefault(kind, {})[vm] = None if at is None else (answer.answered - at) / 3600
    silent = sorted(vm for vm, answer in asked.items() if answer.facts is None)
    for kind, ages_h in sorted(found.items()):
        known_h = [age_h for age_h in ages_h.values() if age_h is not None]
        if known_h and min(known_h) <= max_age_h:
            continue
        wrong = f"the newest of {kind} is {min(known_h):.0f} hours old" if known_h else f"there is none of {kind}"
        makers = " and ".join(sorted(ages_h))
        todo = f"`journalctl -u orch-backup@{kind}` on {makers}; `orch backup make {kind} --here` makes one now."
        if silent:
            yield unknown("backups", f"{wrong}, where it could be asked ({' and '.join(silent)} could not)", todo)
        else:
            yield warning("backups", wrong, todo)


def what_to_do_about_ssh(vm: str, problem: str) -> str:
    """Return what to do where the worker's SSH says this."""
    if "Host key verification failed" in problem or "IDENTIFICATION HAS CHANGED" in problem:
        return f"find out why the host key of {vm} is another one; if the VM was made anew, run site.yml."
    if "Permission denied" in problem:
        return "run site.yml: it puts the workers' keys in place."
    if "no key" in problem:
        return "run `orch doctor` on a worker's VM, as root or as the account orch."
    if "sudo" in problem:
        return f"let the account orch act as root on {vm}: run pre_install_services.yml."
    return f"see whether {vm} runs and is reached on port 22 (`orch status`, `systemctl status ssh` there)."


def _vm(vm: str, answer: Asked, facts: VmFacts) -> Iterator[Finding]:
    for problem in facts.unknown:
        yield unknown(vm, problem, "see what is said there, then ask again.")
    for file in facts.secrets:
        yield from _secret(vm, file)
    for disk in facts.disks:
        yield from _disk(vm, disk)
    for certificate in facts.certificates:
        yield from _certificate(vm, certificate, answer.answered)
    if facts.consul:
        yield error(vm, f"its Consul agent {facts.consul}", "`journalctl -u consul -n 50`, `consul members` there.")
    if not facts.secrets:
        yield unknown(vm, "no file that holds a secret is to be seen there", "run site.yml.")


def _secret(vm: str, file: FileFacts) -> Iterator[Finding]:
    if file.mode & OTHERS_MAY:
        wrong = f"{file.path} holds a secret and has mode {file.mode:04o}: every account may get at it"
        yield error(vm, wrong, f"run site.yml, or `chmod o= {file.path}` there; consider the secret known.")
    elif file.mode & GROUP_MAY_WRITE:
        yield warning(vm, f"{file.path} may be written by the group {file.group}", f"`chmod g-w {file.path}` there.")
    if file.belongs_to is not None and file.owner != file.belongs_to:
        wrong = f"{file.path} belongs to {file.owner}, so the daemons of {file.belongs_to} cannot read it"
        yield error(vm, wrong, "run site.yml.")


def _disk(vm: str, disk: DiskFacts) -> Iterator[Finding]:
    share = disk.free / disk.size if disk.size else 1.0
    said = f"the disk that holds {disk.path} has {disk.free / 2**20:.0f} MiB left ({share:.0%})"
    todo = f"make room: `du -xh --max-depth=2 {disk.path} | sort -h | tail` there."
    if share < DISK_ERROR or disk.free < DISK_ERROR_BYTES:
        yield error(vm, said, todo)
    elif share < DISK_WARNING:
        yield warning(vm, said, todo)
    if disk.inodes_free < DISK_ERROR:
        yield error(vm, f"the disk that holds {disk.path} has {disk.inodes_free:.1%} of its inodes left", todo)


def _certificate(vm: str, certificate: CertificateFacts, now: float) -> Iterator[Finding]:
    todo = "run site.yml: it makes those that are near their end anew."
    if certificate.ends is None:
        yield error(vm, f"the certificate {certificate.path} cannot be read: {certificate.problem}", todo)
        return
    left_s = certificate.ends - now
    if left_s < 0:
        yield error(vm, f"the certificate {certificate.path} ended {-left_s / 86400:.0f} days ago", todo)
    elif left_s < CERTIFICATE_WARNING_S:
        wrong = f"the certificate {certificate.path} ends in {left_s / 86400:.0f} days"
        yield error(vm, wrong, todo) if left_s < CERTIFICATE_ERROR_S else warning(vm, wrong, todo)


def _clock(vm: str, answer: Asked, facts: VmFacts) -> Iterator[Finding]:
    """Its clock was read between our two readings: what is certain is how far it is off at least."""
    ahead_s, behind_s = facts.ended - answer.answered, answer.sent - facts.started
    off_s = max(ahead_s, behind_s)
    if off_s < CLOCK_WARNING_S:
        return
    wrong = f"its clock is {off_s:.1f} s or more {'ahead of' if ahead_s > behind_s else 'behind'} the one here"
    todo = "have both follow a time server (`timedatectl`, package systemd-timesyncd or chrony)."
    yield error(vm, wrong, todo) if off_s >= CLOCK_ERROR_S else warning(vm, wrong, todo)
