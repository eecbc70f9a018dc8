"""PURE: what the VMs say of themselves -> findings.

Nothing here takes silence for health: a VM that could not be asked is a finding of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from orchestrator.doctor.facts import FORMAT, Asked, DiskFacts, FileFacts, VmFacts
from orchestrator.doctor.findings import Finding, error, unknown, warning

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
            yield from _vm(vm, answer.facts)
            yield from _clock(vm, answer, answer.facts)


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


def _vm(vm: str, facts: VmFacts) -> Iterator[Finding]:
    for problem in facts.unknown:
        yield unknown(vm, problem, "see what is said there, then ask again.")
    for file in facts.secrets:
        yield from _secret(vm, file)
    for disk in facts.disks:
        yield from _disk(vm, disk)


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


def _clock(vm: str, answer: Asked, facts: VmFacts) -> Iterator[Finding]:
    """Its clock was read between our two readings: what is certain is how far it is off at least."""
    ahead_s, behind_s = facts.ended - answer.answered, answer.sent - facts.started
    off_s = max(ahead_s, behind_s)
    if off_s < CLOCK_WARNING_S:
        return
    wrong = f"its clock is {off_s:.1f} s or more {'ahead of' if ahead_s > behind_s else 'behind'} the one here"
    todo = "have both follow a time server (`timedatectl`, package systemd-timesyncd or chrony)."
    yield error(vm, wrong, todo) if off_s >= CLOCK_ERROR_S else warning(vm, wrong, todo)
