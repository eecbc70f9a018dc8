"""Asks every VM `orch doctor --here`, all at once, by the worker's own SSH: key, account and pinned host keys.

SSH rather than the guards or Consul, because the doctor is wanted most when these do not answer; and because a VM
that the worker's SSH does not reach is a finding itself.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed

from orchestrator.doctor.facts import Asked, Question, VmFacts
from orchestrator.doctor.network import environment, last_words, ssh_command
from orchestrator.execute.environment import as_keyholder
from orchestrator.settings import LocalSettings

PROGRAM = "/usr/local/bin/orch"
HERE = (PROGRAM, "doctor", "--here")
# A VM that is off costs ssh its ConnectTimeout of 3 s; one that hangs costs this.
ANSWER_TIMEOUT_S = 8.0


def ask_vms(settings: LocalSettings, questions: Mapping[str, Question]) -> Iterator[tuple[str, Asked]]:
    """Ask each VM its question; yields each answer as it comes."""
    with ThreadPoolExecutor(max(1, len(questions)), "asking") as pool:
        asked = {pool.submit(_ask, vm, question, settings): vm for vm, question in questions.items()}
        for done in as_completed(asked):
            yield asked[done], done.result()


def _ask(vm: str, question: Question, settings: LocalSettings) -> Asked:
    # This VM says what it has to say also where SSH does not lead here.
    if vm == settings.vm:
        return ask(own_command(), question.model_dump_json(), time.time)
    if not os.access(settings.ssh_key_file, os.R_OK):
        now = time.time()
        problem = f"no key that this account may read ({settings.ssh_key_file})"
        return Asked(facts=None, problem=problem, sent=now, answered=now)
    command = ssh_command(settings, question.vms[vm], ("sudo", "-n", *HERE))
    return ask(command, question.model_dump_json(), time.time)


def own_command() -> tuple[str, ...]:
    """Return what asks this VM."""
    return HERE if os.geteuid() == 0 else ("sudo", "-n", *HERE)


def ask(argv: tuple[str, ...], question: str, wall: Callable[[], float], timeout_s: float = ANSWER_TIMEOUT_S) -> Asked:
    """Run the command with the question on its stdin and read the facts that it prints. Never raises."""
    sent = wall()
    problem = ""
    try:
        who = as_keyholder() if argv[0] == "ssh" else {}
        done = subprocess.run(
            argv, input=question, capture_output=True, text=True, timeout=timeout_s, env=environment(), **who
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
