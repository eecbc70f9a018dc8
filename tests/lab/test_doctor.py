"""`orch doctor` on the four machines: a fleet that is well, then many things wrong at once, each found where it is."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from deploy.machines.lab import Lab
from deploy.trials.status import wait_until
from tests.lab.fleet import publish, wait_whole

DOCTOR = ["orch", "doctor", "--json"]
PURGE = ["rabbitmqctl", "-q", "purge_queue", "failover_commands.dead", "-p", "orch"]
FROM = "messaging-server"
# What is promised is 10 s, on a host that does not run three other labs.
SOON_S = 15.0


def examined(lab: Lab, vm: str = FROM) -> tuple[int, list[dict[str, Any]]]:
    """Run the doctor; return its exit status and its findings."""
    done = lab.run(vm, DOCTOR, check=False, timeout_s=60)
    findings = json.loads(done.stdout)["findings"]
    return done.returncode, [one for one in findings if not is_the_hosts(one["wrong"])]


def is_the_hosts(wrong: str) -> bool:
    """Say whether it is of the host's disk; how full that is, is not the fleet's business."""
    return wrong.startswith("the disk that holds") and "/tmp" not in wrong


@contextmanager
def undone(lab: Lab, vm: str, does: str, undoes: str) -> Iterator[None]:
    """Break something for the time of the block."""
    lab.run(vm, ["sh", "-c", does])
    try:
        yield
    finally:
        lab.run(vm, ["sh", "-c", undoes])


# As of another release, and with a clock that goes a minute ahead: machines on one host have the host's.
ORCH = "/usr/local/bin/orch"
OTHER_ORCH = """#!/opt/orch/venv/bin/python -I
import time
import orchestrator
true_time, orchestrator.__version__ = time.time, "0.0.9"
time.time = lambda: true_time() + 60
from orchestrator.cli.main import main
main()
"""
LOST = "nft 'add table inet lost; add chain inet lost in {type filter hook input priority -10;}; "

# What breaks it on which VM, what mends it. Everything that is not said to be looked at stays as it is meanwhile.
BROKEN = (
    ("frontend-server", "chmod o+r /etc/orch/amqp/worker_password", "chmod o-r /etc/orch/amqp/worker_password"),
    ("frontend-server", "systemctl stop consul-template", "systemctl start consul-template"),
    (
        "frontend-server",
        f"mv {ORCH} /root/orch && echo '{OTHER_ORCH}' > {ORCH} && chmod +x {ORCH}",
        f"mv /root/orch {ORCH}",
    ),
    (
        "frontend-server",
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=old -days 20 "
        "-keyout /dev/null -out /etc/orch/tls/old.pem",
        "rm -f /etc/orch/tls/old.pem",
    ),
    ("frontend-server", "mount -t tmpfs -o size=100m full /tmp && fallocate -l 99m /tmp/full", "umount /tmp"),
    # Its firewall refuses one VM one port, which nobody misses meanwhile, and Consul's DNS does not answer.
    (
        "frontend-server",
        f"{LOST} add rule inet lost in ip saddr 10.0.0.21 tcp dport 80 reject with tcp reset; "
        "add rule inet lost in udp dport 8600 drop'",
        "nft delete table inet lost",
    ),
    (
        "frontend-server",
        "mkdir -p /var/backups/orch && mv /var/backups/orch /root/backups",
        "mv /root/backups /var/backups/orch",
    ),
    ("messaging-server", "mv /var/backups/orch /root/backups", "mv /root/backups /var/backups/orch"),
    ("messaging-server", "systemctl disable orch-guard", "systemctl enable orch-guard"),
    ("messaging-server", "systemctl enable node-app", "systemctl disable node-app"),
    ("messaging-server", "systemctl stop orch-playbooks-sync.timer", "systemctl start orch-playbooks-sync.timer"),
    # The standby's copy; in maintenance nobody starts it again.
    (
        "backend-server",
        "orch maintenance on backend-server && systemctl stop mariadb",
        "systemctl start mariadb; orch maintenance off backend-server",
    ),
    (
        "backend-server",
        "cp -a /etc/ssh /root/kept && rm /etc/ssh/ssh_host_* && ssh-keygen -A && systemctl restart ssh",
        "rm /etc/ssh/ssh_host_*; cp -a /root/kept/ssh_host_* /etc/ssh/ && rm -r /root/kept && systemctl restart ssh",
    ),
    # As a VM that is off: whoever asks has to give up by itself.
    ("database-server", f"{LOST} add rule inet lost in tcp dport 22 drop'", "nft delete table inet lost"),
)
# And what the doctor, asked on messaging-server, says of it.
EXPECTED = (
    ("frontend-server", "error", "/etc/orch/amqp/worker_password holds a secret and has mode 0404"),
    ("frontend-server", "error", "consul-template is "),
    ("frontend-server", "error", "its clock is "),
    ("frontend-server", "warning", "the certificate /etc/orch/tls/old.pem ends in "),
    ("frontend-server", "error", "the disk that holds /tmp has "),
    ("frontend-server", "error", "Consul's DNS there gives no address"),
    ("frontend-server", "error", "its worker cannot log in to backend-server: Host key verification failed"),
    ("frontend-server", "error", "its worker cannot log in to database-server: ssh: connect to host"),
    ("messaging-server", "error", "it is refused at frontend-server port 80 (frontend), where something listens"),
    ("messaging-server", "warning", "orch-guard is disabled"),
    ("messaging-server", "warning", "node-app is enabled, and backend is designated to backend-server"),
    ("messaging-server", "error", "orch-playbooks-sync.timer is inactive"),
    ("backend-server", "warning", "it is in maintenance"),
    ("backend-server", "unknown", "could not find out: it could not be asked: Host key verification failed"),
    # Deactivating or inactive: what else a check says that stays critical, the catalog is told within minutes.
    ("backend-server", "error", "the check orch-database:unit is critical: mariadb is "),
    ("database", "error", "the copy on backend-server is not in sync"),
    ("database-server", "unknown", "could not find out: it could not be asked: ssh: connect to host"),
    ("fleet", "warning", "the VMs have different releases of orch: frontend-server has 0.0.9, messaging-server has "),
    ("backups", "unknown", "could not find out: there is none of consul, where it could be asked"),
    ("queue", "warning", "1 message(s) in failover_commands.dead"),
)


def test_each_thing_that_is_wrong_is_found_and_nothing_else(fleet: Lab) -> None:
    for vm, kind in (("backend-server", "database"), (FROM, "consul")):
        fleet.run(vm, ["orch", "backup", "make", kind, "--here"], timeout_s=120)
    # What other tests have published.
    fleet.run(FROM, PURGE, timeout_s=60)
    assert examined(fleet) == (0, [])
    publish(fleet, "nobody can read this")
    with ExitStack() as stack:
        stack.callback(fleet.run, FROM, PURGE)
        for vm, does, undoes in BROKEN:
            stack.enter_context(undone(fleet, vm, does, undoes))
        wait_whole(fleet, "database-server")
        began = time.monotonic()
        code, findings = examined(fleet)
        assert time.monotonic() - began < SOON_S
        # Consul's own probe of the stopped server is one more, or not registered any more.
        findings = [one for one in findings if not one["wrong"].startswith("the check orch-database:probe ")]
        unseen = [expected for expected in EXPECTED if not any(is_what(one, *expected) for one in findings)]
        assert (code, unseen, len(findings)) == (10, [], len(EXPECTED)), json.dumps(findings, indent=1)
    wait_until("all is well again", lambda: examined(fleet) == (0, []), 60, 1.0)


def is_what(one: dict[str, Any], subject: str, severity: str, wrong: str) -> bool:
    """Say whether the finding is that."""
    return (one["subject"], one["severity"]) == (subject, severity) and one["wrong"].startswith(wrong)
