"""Secure by default, on the VMs: what can be reached, who may log in, what a daemon may do, where secrets are."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from deploy.machines.lab import Lab
from deploy.machines.places import LabError
from tests.lab.fleet import HOME, VIP

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
            5672,
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
