"""Gathers what this VM says of itself (`orch doctor --here`). Reads only; as root, since secrets are nobody else's.

In: a `Question`. Out: `VmFacts`. What cannot be found out is said in `unknown`, and the rest goes on.
"""

from __future__ import annotations

import grp
import os
import pwd
import re
import stat
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from orchestrator import __version__
from orchestrator.doctor.facts import FORMAT, CertificateFacts, DiskFacts, FileFacts, Question, UnitFacts, VmFacts
from orchestrator.doctor.network import dns_address, logins, reached_ports
from orchestrator.domain.sentence import one_line
from orchestrator.execute.releases import Releases
from orchestrator.settings import LocalSettings

CONFIG_DIR = Path("/etc/orch")
# Patterns of what must be nobody else's, below CONFIG_DIR or absolute; and whose daemons must be able to read it.
SECRETS: tuple[tuple[str, str | None], ...] = (
    ("amqp/controller_password", "orch-controller"),
    ("amqp/worker_password", "orch-worker"),
    ("amqp/operator_password", None),
    ("replication_password", None),
    ("database/*", None),
    ("notify/*", "orch-controller"),
    ("app/*", None),
    ("ssh/id_ed25519", "orch-worker"),
    ("tls/*-key.pem", None),
    ("*token*", None),
    ("consul/controller", "orch-controller"),
    ("consul/worker", "orch-worker"),
    ("consul/*", None),
    ("/var/lib/rabbitmq/.erlang.cookie", "rabbitmq"),
)
DISKS = ("/", "/var/lib/orch", "/var/lib/consul", "/var/lib/mysql", "/var/lib/rabbitmq", "/var/log", "/tmp")
OWN_UNITS = (
    "orch-firewall",
    "consul",
    "consul-template",
    "orch-guard",
    "orch-controller",
    "orch-worker",
    "orch-playbooks-sync.timer",
    "orch-broker-heal.timer",
)
BACKUP_TIMER = re.compile(r"^orch-backup@(.+)\.timer$")
SYSTEMCTL_TIMEOUT_S = 4.0
PROPERTIES = ("Id", "LoadState", "ActiveState")


def facts_here(
    question: Question, settings: LocalSettings, consul: Callable[[], str], backups: Callable[[], Mapping[str, float]]
) -> VmFacts:
    """Look at everything once, at what takes its time at the same time.

    `consul` says what is wrong with the agent; `backups`, of each kind that is kept here, when the newest was begun.
    """
    started = time.time()
    unknown: list[str] = []
    # Only a worker's VM has any.
    installed = Releases(settings.ansible_dir).look()
    with ThreadPoolExecutor(4, "looking") as pool:
        units = pool.submit(_units, question.units, unknown)
        agent, address = pool.submit(consul), pool.submit(dns_address, settings.vm)
        reached = pool.submit(reached_ports, {vm: question.vms[vm] for vm in question.ports}, question.ports)
        logged_in = logins(settings, question.vms) if settings.ssh_key_file.exists() else {}
    return VmFacts(
        format=FORMAT,
        vm=settings.vm,
        orch=__version__,
        started=started,
        units=units.result(),
        secrets=tuple(read_secrets(CONFIG_DIR)),
        disks=tuple(read_disks(DISKS)),
        consul=agent.result(),
        dns=address.result(),
        ports=reached.result(),
        ssh=logged_in,
        certificates=tuple(read_certificates(CONFIG_DIR / "tls")),
        playbooks=installed.current,
        releases=tuple(sorted(installed.kept)),
        backups=_backups(units.result(), backups, unknown),
        unknown=tuple(unknown),
        ended=time.time(),
    )


def _units(of_services: Iterable[str], unknown: list[str]) -> dict[str, UnitFacts]:
    try:
        return read_units((*OWN_UNITS, *own_instances(), *of_services))
    except (OSError, subprocess.SubprocessError) as problem:
        unknown.append(f"systemd does not say how its units are ({problem})")
        return {}


def _backups(
    units: Iterable[str], kept: Callable[[], Mapping[str, float]], unknown: list[str]
) -> dict[str, float | None]:
    timed = [found[1] for name in units if (found := BACKUP_TIMER.match(name))]
    try:
        newest = kept()
    except OSError as problem:
        unknown.append(f"which backups it keeps is not to be read ({problem.strerror})")
        return {}
    return {kind: newest.get(kind) for kind in timed}


def _systemctl(*words: str, check: bool = True) -> str:
    done = subprocess.run(
        ["systemctl", *words], capture_output=True, text=True, timeout=SYSTEMCTL_TIMEOUT_S, check=check
    )
    return done.stdout


def own_instances() -> tuple[str, ...]:
    """Return the units of which a VM has some or none: local proxies, timers of ours."""
    listed = _systemctl("list-units", "--all", "--plain", "--no-legend", "orch-proxy@*.service", "orch-*.timer")
    return tuple(line.split()[0].removesuffix(".service") for line in listed.splitlines() if line.strip())


def read_units(names: Iterable[str]) -> dict[str, UnitFacts]:
    """Return what systemd says of each unit, under the name by which it was asked for."""
    wanted = list(dict.fromkeys(names))
    found: dict[str, UnitFacts] = {}
    blocks = _systemctl("show", "--property", ",".join(PROPERTIES), *wanted).strip().split("\n\n")
    for name, block in zip(wanted, blocks, strict=True):
        said = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        # `show` tells what systemd read once; this reads the disk. Each by itself: without a file it says nothing.
        enabled = _systemctl("is-enabled", said["Id"], check=False).strip() if said["LoadState"] == "loaded" else ""
        found[name] = UnitFacts(load=said["LoadState"], active=said["ActiveState"], enabled=enabled)
    return found


def read_secrets(config_dir: Path) -> Iterator[FileFacts]:
    """Return who may do what with each file that holds a secret."""
    seen: set[Path] = set()
    for pattern, owner in SECRETS:
        top, rest = (Path("/"), pattern[1:]) if pattern.startswith("/") else (config_dir, pattern)
        for path in sorted(top.glob(rest)):
            status = path.lstat()
            if path in seen or not stat.S_ISREG(status.st_mode):
                continue
            seen.add(path)
            yield FileFacts(
                path=str(path),
                mode=stat.S_IMODE(status.st_mode),
                owner=_named(pwd.getpwuid, status.st_uid),
                group=_named(grp.getgrgid, status.st_gid),
                belongs_to=owner,
            )


def _named(lookup: object, number: int) -> str:
    try:
        return str(lookup(number)[0])  # type: ignore[operator]
    except KeyError:
        return str(number)


def read_disks(paths: Iterable[str]) -> Iterator[DiskFacts]:
    """Return each file system once, by the first path that is on it."""
    seen: set[int] = set()
    for path in paths:
        try:
            device, status = os.stat(path).st_dev, os.statvfs(path)
        except OSError:
            continue
        if device not in seen and status.f_blocks:
            seen.add(device)
            inodes = status.f_favail / status.f_files if status.f_files else 1.0
            size, free = status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize
            yield DiskFacts(path=path, size=size, free=free, inodes_free=inodes)


def read_certificates(folder: Path) -> Iterator[CertificateFacts]:
    """Return until when each certificate of the folder is good."""
    from cryptography import x509

    for path in sorted(folder.glob("*.pem")):
        if path.name.endswith("-key.pem"):
            continue
        try:
            found = x509.load_pem_x509_certificate(path.read_bytes())
        except (OSError, ValueError) as problem:
            yield CertificateFacts(path=str(path), problem=one_line(str(problem)))
            continue
        yield CertificateFacts(path=str(path), ends=found.not_valid_after_utc.timestamp())
