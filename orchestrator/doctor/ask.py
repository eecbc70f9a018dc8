"""Asks every VM `orch doctor --here`, all at once, by the worker's own SSH: key, account and pinned host keys.

SSH rather than the guards or Consul, because the doctor is wanted most when these do not answer; and because a VM
that the worker's SSH does not reach is a finding itself. Each connection is a fresh one: a master that was opened
earlier would hide a host key or an account that has changed.
"""

from __future__ import annotations

import os
import pwd
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed

from orchestrator.doctor.facts import Asked, Question, VmFacts
from orchestrator.domain.sentence import one_line
from orchestrator.execute.environment import Places, ssh_options
from orchestrator.settings import LocalSettings

# What workers log in as, and whose their key is.
ACCOUNT, KEYHOLDER = "orch", "orch-worker"
PROGRAM = "/usr/local/bin/orch"
HERE = (PROGRAM, "doctor", "--here")
# A VM that is off costs ssh its ConnectTimeout of 3 s; one that hangs costs this.
ANSWER_TIMEOUT_S = 8.0
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}


def ask_vms(settings: LocalSettings, question: Question) -> Iterator[tuple[str, Asked]]:
    """Ask every VM of the question; yields each answer as it comes."""
    with ThreadPoolExecutor(max(1, len(question.vms)), "asking") as pool:
        asked = {pool.submit(_ask, vm, address, question, settings): vm for vm, address in question.vms.items()}
        for done in as_completed(asked):
            yield asked[done], done.result()


def _ask(vm: str, address: str, question: Question, settings: LocalSettings) -> Asked:
    # This VM says what it has to say also where SSH does not lead here.
    if vm == settings.vm:
        return ask(own_command(), question.model_dump_json(), time.time)
    if not os.access(settings.ssh_key_file, os.R_OK):
        now = time.time()
        problem = f"no key that this account may read ({settings.ssh_key_file})"
        return Asked(facts=None, problem=problem, sent=now, answered=now)
    return ask(ssh_command(settings, address, ("sudo", "-n", *HERE)), question.model_dump_json(), time.time)


def own_command() -> tuple[str, ...]:
    """Return what asks this VM."""
    return HERE if os.geteuid() == 0 else ("sudo", "-n", *HERE)


def ssh_command(settings: LocalSettings, address: str, command: tuple[str, ...]) -> tuple[str, ...]:
    """Return the ssh that a worker's play would use, on a connection of its own."""
    places = Places(settings.ansible_dir, settings.state_dir, settings.ssh_key_file)
    own = ("ControlPath=none", "IdentitiesOnly=yes", "HostKeyAlgorithms=ssh-ed25519", "UpdateHostKeys=no")
    options = (*ssh_options(places), *(word for option in own for word in ("-o", option)))
    return ("ssh", "-T", *options, "-i", str(settings.ssh_key_file), "-l", ACCOUNT, address, *command)


def as_the_worker() -> Mapping[str, str]:
    """Return, for root, the account to run ssh as: what root may read a worker may not be able to."""
    if os.geteuid() != 0:
        return {}
    try:
        pwd.getpwnam(KEYHOLDER)
    except KeyError:
        return {}
    return {"user": KEYHOLDER, "group": KEYHOLDER}


def ask(argv: tuple[str, ...], question: str, wall: Callable[[], float], timeout_s: float = ANSWER_TIMEOUT_S) -> Asked:
    """Run the command with the question on its stdin and read the facts that it prints. Never raises."""
    sent = wall()
    problem = ""
    try:
        who = as_the_worker() if argv[0] == "ssh" else {}
        done = subprocess.run(
            argv,
            input=question,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env=ENVIRONMENT | {"HOME": os.environ.get("HOME", "/")},
            **who,  # type: ignore[call-overload]
        )
        answered = wall()
        if done.returncode == 0:
            return Asked(facts=VmFacts.model_validate_json(done.stdout), sent=sent, answered=answered)
        problem = last_words(done.stderr) or f"exit status {done.returncode}"
    except subprocess.TimeoutExpired:
        problem = f"no answer within {timeout_s:g} s"
    except ValueError:
        problem = "its answer cannot be read"
    except OSError as error:
        problem = f"{argv[0]} cannot be run: {error.strerror}"
    return Asked(facts=None, problem=problem, sent=sent, answered=wall())


def last_words(stderr: str) -> str:
    """Return what ssh or sudo said in the end; ssh's banner about a changed host key ends in the telling line."""
    lines = [one_line(line).rstrip(".") for line in stderr.splitlines() if line.strip()]
    return lines[-1] if lines else ""
