"""`orch doctor` on the four machines: a fleet that is well, then many things wrong at once, each found where it is."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from deploy.machines.lab import Lab
from deploy.trials.status import wait_until
from tests.lab.fleet import publish

DOCTOR = ["orch", "doctor", "--json"]
FROM = "messaging-server"
# The disk is the host's; how full that is, is not the fleet's business.
# What is promised is 10 s, on a host that does not run three other labs.
SOON_S = 15.0
NOT_THE_FLEETS = "the disk that holds"


def examined(lab: Lab, vm: str = FROM) -> tuple[int, list[dict[str, Any]]]:
    """Run the doctor; return its exit status and its findings."""
    done = lab.run(vm, DOCTOR, check=False, timeout_s=60)
    findings = json.loads(done.stdout)["findings"]
    return done.returncode, [one for one in findings if not one["wrong"].startswith(NOT_THE_FLEETS)]


@contextmanager
def undone(lab: Lab, vm: str, does: str, undoes: str) -> Iterator[None]:
    """Break something for the time of the block."""
    lab.run(vm, ["sh", "-c", does])
    try:
        yield
    finally:
        lab.run(vm, ["sh", "-c", undoes])


# What breaks it on which VM, what mends it, and what the doctor says then.
BROKEN = (
    (
        "backend-server",
        "chmod 644 /etc/orch/replication_password",
        "chmod 600 /etc/orch/replication_password",
        ("error", "/etc/orch/replication_password holds a secret and has mode 0644"),
    ),
    (
        "backend-server",
        "systemctl stop consul-template",
        "systemctl start consul-template",
        ("error", "consul-template is "),
    ),
    (
        "messaging-server",
        "systemctl disable orch-guard",
        "systemctl enable orch-guard",
        ("warning", "orch-guard is disabled"),
    ),
    (
        "messaging-server",
        "systemctl enable node-app",
        "systemctl disable node-app",
        ("warning", "node-app is enabled, and backend is designated to backend-server"),
    ),
    (
        "frontend-server",
        "cp -a /etc/ssh /root/kept && rm /etc/ssh/ssh_host_* && ssh-keygen -A && systemctl restart ssh",
        "rm /etc/ssh/ssh_host_*; cp -a /root/kept/ssh_host_* /etc/ssh/ && rm -r /root/kept && systemctl restart ssh",
        ("unknown", "could not find out: it could not be asked: Host key verification failed"),
    ),
    # As a firewall would that answers nothing, or a VM that is off: whoever asks has to give up by itself.
    (
        "database-server",
        "nft 'add table inet lost; add chain inet lost in {type filter hook input priority 0;}; "
        "add rule inet lost in tcp dport 22 drop'",
        "nft delete table inet lost",
        ("unknown", "could not find out: it could not be asked: ssh: connect to host"),
    ),
)


def test_each_thing_that_is_wrong_is_found_and_nothing_else(fleet: Lab) -> None:
    assert examined(fleet) == (0, [])
    publish(fleet, "nobody can read this")
    with ExitStack() as stack:
        stack.callback(fleet.run, FROM, ["rabbitmqctl", "-q", "purge_queue", "failover_commands.dead", "-p", "orch"])
        for vm, does, undoes, _ in BROKEN:
            stack.enter_context(undone(fleet, vm, does, undoes))
        began = time.monotonic()
        code, findings = examined(fleet)
        assert time.monotonic() - began < SOON_S
        expected = {(vm, *finding) for vm, _, _, finding in BROKEN}
        expected.add(("queue", "warning", "1 message(s) in failover_commands.dead"))
        unseen = {
            (subject, severity, wrong)
            for subject, severity, wrong in expected
            if not any(
                (one["subject"], one["severity"]) == (subject, severity) and one["wrong"].startswith(wrong)
                for one in findings
            )
        }
        assert (code, unseen, len(findings)) == (10, set(), len(expected)), findings
    wait_until("all is well again", lambda: examined(fleet) == (0, []), 60, 1.0)
