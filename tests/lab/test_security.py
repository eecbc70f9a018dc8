"""Secure by default, on the VMs: what can be reached, who may log in, what a daemon may do, where secrets are."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.machines.lab import Lab
from deploy.machines.places import CHECKOUT, LabError
from deploy.trials.status import wait_until
from tests.lab.fleet import HOME, SECOND, VIP, unit_state

ADDRESS = {
    "frontend-server": "10.0.8.49",
    "backend-server": "10.0.0.22",
    "messaging-server": "10.0.0.21",
    "database-server": "10.0.10.169",
}
STRAY = 9999
# Says for each `ADDRESS PORT` of its arguments whether a connection is taken, refused, or nothing is heard in a second.
KNOCK = """
import json, socket, sys, time
from concurrent.futures import ThreadPoolExecutor
def knock(place):
    began = time.monotonic()
    try:
        socket.create_connection((place[0], int(place[1])), timeout=1).close()
        said = "open"
    except TimeoutError:
        said = "silent"
    except OSError:
        said = "refused"
    return [*place, said, time.monotonic() - began]
with ThreadPoolExecutor(32) as pool:
    print(json.dumps(list(pool.map(knock, [place.split() for place in sys.argv[1:]]))))
"""
SHOUT = """
import socket, sys
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", (sys.argv[1], int(sys.argv[2])))
"""
# What the VM has heard by UDP when the listener is told to end.
HEAR = f"""
import socket, sys
heard = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
heard.bind(("0.0.0.0", {STRAY}))
stray = socket.create_server(("0.0.0.0", {STRAY}))
print("listens", flush=True)
sys.stdin.readline()
heard.setblocking(False)
try:
    print(heard.recvfrom(100)[1][0])
except BlockingIOError:
    print("nothing")
"""


def listeners(lab: Lab, vm: str) -> set[int]:
    """Return the TCP ports that programs on the VM listen on, and not on its loopback alone."""
    shown = lab.run(vm, ["ss", "-Htln"], timeout_s=20).stdout
    places = [line.split()[3].rpartition(":") for line in shown.splitlines()]
    return {int(port) for address, _, port in places if not address.startswith("127.")}


def knocked(answer: subprocess.CompletedProcess[str]) -> dict[tuple[str, int], tuple[str, float]]:
    return {(where, int(port)): (said, took_s) for where, port, said, took_s in json.loads(answer.stdout)}


@contextlib.contextmanager
def something_new_listens(lab: Lab, vm: str) -> Iterator[subprocess.Popen[str]]:
    """A program that nobody told the firewall of."""
    words = lab.command_in_vm(vm, ["python3", "-c", HEAR])
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "listens\n"
        yield program
        program.kill()


def test_only_the_site_and_ssh_are_reached_from_outside_and_between_vms_what_their_parts_need(quick_lab: Lab) -> None:
    target = HOME["backend"]
    with something_new_listens(quick_lab, target) as stray:
        there = {vm: listeners(quick_lab, vm) for vm in ADDRESS}
        assert {STRAY, 3000, 3306} <= there[target]
        places = [f"{ADDRESS[vm]} {port}" for vm, ports in there.items() for port in sorted(ports)]
        outside = knocked(quick_lab.client([sys.executable, "-I", "-c", KNOCK, *places], timeout_s=60))
        expected = {(ADDRESS[vm], 22) for vm in ADDRESS} | {(ADDRESS[HOME["frontend"]], 80)}
        assert {place for place, (said, _) in outside.items() if said == "open"} == expected
        assert {said for said, _ in outside.values()} == {"open", "silent"}
        # No application, no proxy to a backend and no broker's member is on this VM.
        asked = ["python3", "-c", KNOCK, *[f"{ADDRESS[target]} {port}" for port in sorted(there[target])]]
        inside = knocked(quick_lab.run(HOME["database"], asked, timeout_s=60))
        assert {port for (_, port), (said, _) in inside.items() if said == "open"} <= {
            22,
            3306,
            4369,
            5671,
            8300,
            8301,
            25672,
        }
        refused = {port: took_s for (_, port), (said, took_s) in inside.items() if said == "refused"}
        assert {STRAY, 3000} <= set(refused)
        # An upstream that is not let in must cost no proxy its connect timeout.
        assert max(refused.values()) < 0.5
        quick_lab.client([sys.executable, "-I", "-c", SHOUT, ADDRESS[target], str(STRAY)])
        quick_lab.run(HOME["database"], ["python3", "-c", SHOUT, ADDRESS[target], str(STRAY)])
        assert stray.communicate("end\n", timeout=10)[0] == "nothing\n"


# Two requests on one connection, the second when it is told to.
KEEP = """
import http.client, sys
link = http.client.HTTPConnection(sys.argv[1], timeout=5)
link.connect()
link.auto_open = 0
for _ in range(4):
    link.request("GET", "/")
    answer = link.getresponse()
    answer.read()
    print(answer.status, flush=True)
    sys.stdin.readline()
"""


def test_open_connections_survive_the_rules_being_loaded_and_a_mistake_changes_nothing(quick_lab: Lab) -> None:
    vm = HOME["frontend"]
    rules = quick_lab.run(vm, ["nft", "list", "table", "inet", "orch"]).stdout
    # As before the first deployment: the kernel tracks no connection.
    quick_lab.run(vm, ["nft", "delete", "table", "inet", "orch"])
    words = quick_lab.client_command([sys.executable, "-I", "-c", KEEP, VIP])
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdin is not None
        assert client.stdout is not None

        def asks_again() -> str:
            client.stdin.write("go on\n")  # type: ignore[union-attr]
            client.stdin.flush()  # type: ignore[union-attr]
            return client.stdout.readline()  # type: ignore[union-attr]

        assert client.stdout.readline() == "200\n"
        quick_lab.run(vm, ["systemctl", "restart", "orch-firewall"])
        assert asks_again() == "200\n"
        quick_lab.run(vm, ["systemctl", "reload", "orch-firewall"])
        assert asks_again() == "200\n"
        quick_lab.run(vm, ["cp", "/etc/orch/firewall.nft", "/run/firewall.kept"])
        quick_lab.run(vm, ["sed", "-i", "s/tcp dport { 80 }/tcp dport { htpp }/", "/etc/orch/firewall.nft"])
        try:
            with pytest.raises(LabError):
                quick_lab.run(vm, ["systemctl", "reload", "orch-firewall"])
        finally:
            quick_lab.run(vm, ["mv", "/run/firewall.kept", "/etc/orch/firewall.nft"])
        assert asks_again() == "200\n"
        client.kill()
    assert quick_lab.run(vm, ["nft", "list", "table", "inet", "orch"]).stdout == rules


WORKER = "messaging-server"
# What a worker's plays use, without connections that are open already.
PLAY_SSH = (
    *("ssh", "-i", "/etc/orch/ssh/id_ed25519", "-o", "UserKnownHostsFile=/etc/orch/ssh/known_hosts"),
    *("-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes", "-o", "ConnectTimeout=5", "-l", "orch"),
)
PING = (
    *(
        "env",
        "ANSIBLE_CONFIG=/opt/orch/plays/ansible/ansible.cfg",
        "ANSIBLE_HOME=/tmp/ping",
        "ANSIBLE_SSH_CONTROL_PATH=none",
    ),
    *("HOME=/tmp", "LC_ALL=C.UTF-8", "/opt/orch/venv/bin/ansible", "backend-server", "-m", "ansible.builtin.ping"),
)


def as_account(lab: Lab, vm: str, account: str, *words: str) -> tuple[int, str]:
    """Run a command as an account of the VM; returns its exit status and what it said."""
    who = [f"--reuid={account}", f"--regid={account}", "--init-groups"]
    done = lab.run(vm, ["setpriv", *who, *words], check=False, timeout_s=60)
    return done.returncode, done.stdout + done.stderr


def test_rules_that_could_not_be_loaded_at_first_are_loaded_by_themselves(quick_lab: Lab) -> None:
    vm, rules, unit = "backend-server", "/etc/orch/firewall.nft", "orch-firewall"
    quick_lab.run(vm, ["mv", rules, f"{rules}.away"])
    try:
        started = quick_lab.run(vm, ["systemctl", "restart", unit], check=False, timeout_s=20)
        assert started.returncode != 0
    finally:
        quick_lab.run(vm, ["mv", f"{rules}.away", rules])
    wait_until("the rules are loaded", lambda: unit_state(quick_lab, vm, unit) == "active", 20)


def test_a_worker_s_key_opens_the_account_orch_from_a_worker_s_address_and_for_commands_only(quick_lab: Lab) -> None:
    target = ADDRESS[HOME["backend"]]
    key = "/etc/orch/ssh/id_ed25519"
    assert quick_lab.run(WORKER, ["stat", "-c", "%U %a", key]).stdout == "orch-worker 600\n"
    keys = {
        quick_lab.run(vm, ["cat", f"{key}.pub"]).stdout.split()[1] for vm in ("messaging-server", "frontend-server")
    }
    assert len(keys) == 2
    assert as_account(quick_lab, WORKER, "orch-worker", *PLAY_SSH, target, "sudo", "-n", "id", "-u") == (0, "0\n")
    # The same key from an address that is no worker's.
    stranger = "10.0.200.77"
    quick_lab.run(WORKER, ["ip", "address", "add", f"{stranger}/16", "dev", "eth0"])
    try:
        code, said = as_account(quick_lab, WORKER, "orch-worker", *PLAY_SSH, "-b", stranger, target, "true")
    finally:
        quick_lab.run(WORKER, ["ip", "address", "delete", f"{stranger}/16", "dev", "eth0"])
    assert code == 255
    assert "Permission denied (publickey" in said
    code, said = as_account(quick_lab, WORKER, "orch-worker", *PLAY_SSH, "-W", "127.0.0.1:8500", target)
    assert code != 0
    assert "administratively prohibited" in said
    _, said = as_account(quick_lab, WORKER, "orch-worker", *PLAY_SSH, "-tt", target, "true")
    assert "PTY allocation request failed" in said
    _, said = as_account(quick_lab, WORKER, "orch-worker", *PLAY_SSH, "-R", "18500:127.0.0.1:8500", target, "true")
    assert "remote port forwarding failed" in said


def test_a_host_that_shows_another_key_is_refused_by_a_worker_s_plays(quick_lab: Lab) -> None:
    code, said = as_account(quick_lab, WORKER, "orch-worker", *PING)
    assert (code, "SUCCESS" in said) == (0, True), said
    pinned = "/etc/orch/ssh/known_hosts"
    lines = quick_lab.run(WORKER, ["cat", pinned]).stdout
    keys = dict(re.findall(r"^(\S+),\S+ (.+)$", lines, re.M))
    try:
        swapped = lines.replace(keys["backend-server"], keys["database-server"])
        assert swapped != lines
        quick_lab.run(WORKER, ["tee", pinned], text_input=swapped)
        code, said = as_account(quick_lab, WORKER, "orch-worker", *PING)
    finally:
        quick_lab.run(WORKER, ["tee", pinned], text_input=lines)
    assert code != 0
    assert "Host key verification failed" in said


def test_no_password_opens_the_account_orch_and_no_daemon_s_account_may_act_as_root(
    quick_lab: Lab, tmp_path: Path
) -> None:
    vm = HOME["backend"]
    say = tmp_path / "say"
    say.write_text("#!/bin/sh\necho a-known-password\n")
    say.chmod(0o700)
    askpass = ["env", f"SSH_ASKPASS={say}", "SSH_ASKPASS_REQUIRE=force"]
    words = [
        *(
            "ssh",
            "-F",
            "none",
            "-o",
            "StrictHostKeyChecking=yes",
            "-o",
            f"UserKnownHostsFile={quick_lab.places.known_hosts}",
        ),
        *("-o", "PreferredAuthentications=password,keyboard-interactive", "-l", "orch", ADDRESS[vm], "true"),
    ]
    quick_lab.run(vm, ["chpasswd"], text_input="orch:a-known-password\n")
    try:
        refused = quick_lab.client([*askpass, *words], check=False, timeout_s=30)
    finally:
        quick_lab.run(vm, ["usermod", "--password", "*", "orch"])
    assert refused.returncode == 255
    assert "Permission denied (publickey)" in refused.stderr
    for account in ("orch-controller", "orch-worker", "node-app", "consul", "www-data"):
        code, said = as_account(quick_lab, WORKER, account, "sudo", "-n", "true")
        assert code != 0, account
        assert "password is required" in said, said
    for account in ("orch", "orch-controller", "node-app"):
        assert as_account(quick_lab, WORKER, account, "cat", "/etc/orch/ssh/id_ed25519")[0] != 0, account


def test_the_operator_s_key_is_brought_to_a_fleet_that_knows_another(quick_lab: Lab, tmp_path: Path) -> None:
    own, pins = tmp_path / "own", tmp_path / "known_hosts"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "of-a-test", "-f", own], check=True)
    program = [str(CHECKOUT / "deploy" / "distribute_ssh_keys"), "--user", "root", "--public-key", f"{own}.pub"]
    program += ["--key", str(quick_lab.places.operator_key), "--known-hosts", str(pins)]
    try:
        refused = quick_lab.client(program, check=False, timeout_s=60)
        assert refused.returncode == 1
        assert refused.stderr.count("its host key is not pinned yet: --first-contact pins it") == len(ADDRESS)
        done = quick_lab.client([*program, "--first-contact"], timeout_s=60).stdout
        assert done.count("has your key now") == done.count("compare with its console: ") == len(ADDRESS)
        assert quick_lab.client(program, timeout_s=60).stdout.count("had your key already") == len(ADDRESS)
        for address in ADDRESS.values():
            ssh = ["ssh", "-F", "none", "-i", str(own), "-o", f"UserKnownHostsFile={pins}", "-o", "BatchMode=yes"]
            assert quick_lab.client([*ssh, f"root@{address}", "id", "-un"], timeout_s=30).stdout == "root\n"
    finally:
        for vm in ADDRESS:
            quick_lab.run(vm, ["sed", "-i", "/ of-a-test$/d", "/root/.ssh/authorized_keys"])


def test_no_unit_is_more_exposed_than_the_documentation_says(quick_lab: Lab) -> None:
    rows = re.findall(r"^\| `([\w@-]+)` \| (\d\.\d) \|", (CHECKOUT / "docs" / "security.md").read_text(), re.M)
    allowed = {unit: float(figure) for unit, figure in rows}
    seen: dict[str, float] = {}
    for vm in ADDRESS:
        files = quick_lab.run(vm, ["systemctl", "list-unit-files", "--no-legend", "--type=service"]).stdout
        states = {line.split()[0].removesuffix(".service"): line.split()[1] for line in files.splitlines()}
        # Where it has no part in the fleet it is as its package made it, and never started.
        present = {name for name, state in states.items() if name != "mariadb" or state == "enabled"}
        for name in sorted(name for name in present if name in allowed or name.startswith("orch-")):
            instance = f"{name}database" if name.endswith("@") else name
            said = quick_lab.run(vm, ["systemd-analyze", "security", "--no-pager", instance], timeout_s=60).stdout
            figure = float(re.findall(r"Overall exposure level for \S+: (\d+\.\d+)", said)[0])
            seen[name] = max(seen.get(name, 0.0), figure)
    assert set(seen) == set(allowed), "the table lacks a unit of ours, or has one that is nowhere"
    assert {name: (figure, allowed[name]) for name, figure in seen.items() if figure > allowed[name]} == {}
    # Of the units that other tests need not start: a standby's makes the backup of the database.
    quick_lab.run(SECOND["database"], ["systemctl", "start", "orch-backup@database"], timeout_s=180)


# Reads one secret per line (NAME VALUE) and prints the places where one can be found that has no business there.
SEARCH = r"""
import json, os, re, stat, subprocess, sys
names = {value.encode(): name for name, value in json.load(sys.stdin)}
any_of_them = re.compile(b"|".join(map(re.escape, names)))
def tell(data, place):
    for value in set(any_of_them.findall(data)):
        print(f"{names[value]} in {place}")
def read(path):
    try:
        with open(path, "rb") as file:
            return file.read(64 << 20)
    except OSError:
        return b""
tell(subprocess.run(["journalctl", "--no-pager", "-o", "cat", "--all"], capture_output=True).stdout, "the journal")
for pid in filter(str.isdigit, os.listdir("/proc")):
    tell(read(f"/proc/{pid}/cmdline"), f"the arguments of {read(f'/proc/{pid}/comm').decode().strip()}")
    tell(read(f"/proc/{pid}/environ"), f"the environment of {read(f'/proc/{pid}/comm').decode().strip()}")
# What came as packages; and the journal's own files, which were read above.
FROM_ELSEWHERE = {"/opt/orch/venv", "/opt/orch/app-modules", "/usr/local/bin", "/var/log/journal"}
def walk(top, is_public):
    for folder, folders, files in os.walk(top):
        try:
            opens = is_public and os.stat(folder).st_mode & stat.S_IXOTH
        except OSError:
            continue
        if is_public and not opens:
            folders[:] = []
            continue
        folders[:] = [name for name in folders if os.path.join(folder, name) not in FROM_ELSEWHERE]
        for name in files:
            path = os.path.join(folder, name)
            try:
                status = os.lstat(path)
            except OSError:
                continue
            if stat.S_ISREG(status.st_mode) and (not is_public or status.st_mode & stat.S_IROTH):
                tell(read(path), path)
# Whoever may read them: what is kept for people to look at.
for top in ("/var/log", "/var/lib/orch"):
    walk(top, False)
# What every account may read.
for top in "/etc /var/lib /var/backups /var/cache /var/spool /var/tmp /tmp /run /opt /usr/local".split():
    walk(top, True)
"""


def secrets_of(lab: Lab) -> dict[str, str]:
    """Return every secret that the fleet has, by what it is: the vault's, and what was made on a VM and stays there."""
    values = lab.secrets()
    for vm in ("messaging-server", "frontend-server"):
        values[f"the worker's key of {vm}"] = {"key": lab.run(vm, ["cat", "/etc/orch/ssh/id_ed25519"]).stdout}
    for vm in ADDRESS:
        values[f"the host key of {vm}"] = {"key": lab.run(vm, ["cat", "/etc/ssh/ssh_host_ed25519_key"]).stdout}
    return {name: value if isinstance(value, str) else telling_line(value["key"]) for name, value in values.items()}


def telling_line(key: str) -> str:
    """Return the line of a private key's file that holds a part of what is private."""
    lines = key.splitlines()
    return lines[4] if "OPENSSH" in lines[0] else lines[2]


def test_no_secret_is_in_logs_artefacts_kv_arguments_environments_or_files_that_all_may_read(quick_lab: Lab) -> None:
    secrets = secrets_of(quick_lab)
    assert len(secrets) > 10
    assert min(len(value) for value in secrets.values()) >= 16
    # The play of a failover, with its artefacts, by whichever worker.
    given = json.dumps(sorted(secrets.items()))
    found = {}
    for vm in ADDRESS:
        # What is there is found: else the search could be blind.
        quick_lab.run(vm, ["tee", "/etc/a-test-leaks-this"], text_input=secrets["amqp_worker_password"])
        said = quick_lab.run(vm, ["python3", "-c", SEARCH], text_input=given, timeout_s=240).stdout.splitlines()
        quick_lab.run(vm, ["rm", "/etc/a-test-leaks-this"])
        assert "amqp_worker_password in /etc/a-test-leaks-this" in said
        if others := [line for line in said if "a-test-leaks-this" not in line]:
            found[vm] = others
    assert found == {}
    # All of it, by the token that may see all.
    export, management = ["consul", "kv", "export", "-token-file=/dev/stdin"], quick_lab.secret("consul_management")
    exported = json.loads(quick_lab.run(WORKER, export, text_input=management, timeout_s=60).stdout)
    kept = [base64.b64decode(pair["value"]).decode(errors="replace") for pair in exported]
    assert [name for name, value in secrets.items() if any(value in text for text in kept)] == []
