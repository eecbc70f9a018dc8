"""The front door in each of its kinds, and what clients see of it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deploy.machines.lab import Lab
from deploy.trials.policy import apply_policy, policy_now
from deploy.trials.status import WITNESS, settle, wait_until
from tests.lab.fleet import HOME, SECOND, VIP, has_address, orch, wait_served_by

# One question for an IPv4 address, asked of the agent on this VM; prints address and time to live of each answer.
ASK_DNS = """
import socket, struct, sys
name = b"".join(bytes([len(part)]) + part.encode() for part in sys.argv[1].split(".")) + bytes(1)
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
    udp.settimeout(2)
    udp.sendto(struct.pack("!6H", 7, 0x100, 1, 0, 0, 0) + name + struct.pack("!2H", 1, 1), ("127.0.0.1", 8600))
    answer = udp.recv(4096)
at = 12 + len(name) + 4
for _ in range(struct.unpack_from("!H", answer, 6)[0]):
    at += 2 if answer[at] >= 192 else answer.index(bytes(1), at) + 1 - at
    kind, _, ttl, length = struct.unpack_from("!HHIH", answer, at)
    print(socket.inet_ntoa(answer[at + 10 : at + 14]) if kind == 1 else kind, ttl)
    at += 10 + length
"""

CLIENT = Path(__file__).with_name("open_connections.py")
ADDRESS = {"frontend-server": "10.0.8.49", "backend-server": "10.0.0.22"}
NAME = "active.orch-frontend.service.consul"
HOOK, HOOK_SAID, HOOK_BROKEN = "/usr/local/lib/orch/test-door", "/run/test-door.said", "/run/test-door.broken"
HOOK_TEXT = f"""#!/bin/sh
echo "$*" "$ORCH_SERVICE" "$ORCH_VM" "$ORCH_ADDRESS" >> {HOOK_SAID}
[ ! -e {HOOK_BROKEN} ] || {{ echo "no such account" >&2; exit 3; }}
"""
FILE, FILE_BYTES = "a-test-downloads-this", 8 * 1024 * 1024


@contextlib.contextmanager
def policy_changed(lab: Lab, **changes: Any) -> Iterator[None]:
    """Run the block under a policy with these values; `front_door` is the frontend's."""
    before = policy_now(lab)
    changed = json.loads(json.dumps(before))
    if "front_door" in changes:
        changed["services"]["frontend"]["front_door"] = changes.pop("front_door")
    apply_policy(lab, {**changed, **changes})
    try:
        yield
    finally:
        apply_policy(lab, before)


@contextlib.contextmanager
def a_file_to_download(lab: Lab) -> Iterator[str]:
    """A file on the home VM's front page."""
    path = f"/opt/orch/site/{FILE}"
    lab.run(HOME["frontend"], ["truncate", "--size", str(FILE_BYTES), path])
    try:
        yield f"/{FILE}"
    finally:
        lab.run(HOME["frontend"], ["rm", "-f", path])


def test_a_download_and_a_kept_connection_survive_a_planned_move(fleet: Lab) -> None:
    with policy_changed(fleet, drain_s=6.0), a_file_to_download(fleet) as path:
        client = subprocess.Popen(
            fleet.client_command([sys.executable, "-I", str(CLIENT), VIP, path]), stdout=subprocess.PIPE, text=True
        )
        try:
            assert client.stdout is not None
            assert client.stdout.readline() == "open\n"
            orch(fleet, "failover", "frontend", "--wait")
            told = json.loads(client.stdout.readline())
        finally:
            client.kill()
            client.wait()
        wait_served_by(fleet, "frontend", SECOND["frontend"])
        orch(fleet, "failback", "frontend", "--wait")
        settle(fleet)
    assert told["download"] == FILE_BYTES
    assert told["kept_by"] == [HOME["frontend"]]
    assert told["while_moved"] > 10
    assert told["ended"] == "closed"


def dns_answers(lab: Lab) -> list[str]:
    """Return `address ttl` of each answer to the documented name."""
    asked = lab.run(WITNESS, ["/opt/orch/venv/bin/python", "-c", ASK_DNS, NAME], timeout_s=20)
    return asked.stdout.splitlines()


def test_consul_dns_names_the_active_frontend_and_follows_a_failover(fleet: Lab) -> None:
    home, second = HOME["frontend"], SECOND["frontend"]
    with policy_changed(fleet, front_door={"kind": "dns"}):
        wait_until(
            "the former address is given up",
            lambda: not has_address(fleet, home),
            10,
        )
        wait_until("the home VM is named", lambda: dns_answers(fleet) == [f"{ADDRESS[home]} 0"], 10)
        fleet.fault("kill", home, "frontend")
        wait_served_by(fleet, "frontend", second)
        wait_until("the new active VM is named", lambda: dns_answers(fleet) == [f"{ADDRESS[second]} 0"], 10)
        fleet.mend()
        settle(fleet)
        wait_until("the home VM is named again", lambda: dns_answers(fleet) == [f"{ADDRESS[home]} 0"], 10)


@contextlib.contextmanager
def hook_installed(lab: Lab) -> Iterator[dict[str, Any]]:
    """The frontend's VMs with a command that moves nothing and notes what it was told."""
    vms = (HOME["frontend"], SECOND["frontend"])
    for vm in vms:
        lab.run(vm, ["tee", HOOK], text_input=HOOK_TEXT)
        lab.run(vm, ["chmod", "755", HOOK])
    try:
        yield {"kind": "command", "command": [HOOK, "eip-1"], "address": "203.0.113.5"}
    finally:
        for vm in vms:
            lab.run(vm, ["rm", "-f", HOOK, HOOK_SAID, HOOK_BROKEN])


def told(lab: Lab, vm: str) -> list[str]:
    """Return what the command on the VM was told, oldest first."""
    said = lab.run(vm, ["cat", HOOK_SAID], check=False).stdout.splitlines()
    assert all(line.startswith("eip-1 ") and line.endswith(f" frontend {vm} 203.0.113.5") for line in said)
    return [line.split()[1] for line in said]


def guards_sentence(lab: Lab, vm: str) -> str:
    return str(lab.run(vm, ["curl", "-s", "http://127.0.0.1:9703/health"]).stdout)


def test_a_command_is_told_who_has_the_role_until_it_has_obeyed(fleet: Lab) -> None:
    home, second = HOME["frontend"], SECOND["frontend"]
    with hook_installed(fleet) as front_door, policy_changed(fleet, front_door=front_door):
        wait_until("the home VM has taken it", lambda: told(fleet, home) == ["take"], 10)
        fleet.run(home, ["systemctl", "restart", "orch-guard"], timeout_s=60)
        wait_until("a guard that restarted takes again", lambda: told(fleet, home) == ["take", "take"], 15)

        fleet.run(second, ["touch", HOOK_BROKEN])
        orch(fleet, "failover", "frontend", "--wait")
        wait_until("a command that fails is repeated", lambda: len(told(fleet, second)) >= 3, 15)
        wait_until("the guard says so", lambda: "on take (exit status 3: no such" in guards_sentence(fleet, second), 10)
        fleet.run(second, ["rm", HOOK_BROKEN])
        wait_until("all is well again", lambda: "exit status" not in guards_sentence(fleet, second), 30)
        assert set(told(fleet, second)) == {"take"}
        assert told(fleet, home) == ["take", "take"], "what was handed over in a planned move is not dropped"

        orch(fleet, "failback", "frontend", "--wait")
        wait_until("the home VM takes it again", lambda: told(fleet, home) == ["take"] * 3, 10)
        fleet.fault("kill", home, "frontend")
        wait_until("who lost the role drops it", lambda: told(fleet, home)[-1] == "drop", 10)
        wait_served_by(fleet, "frontend", second)
        wait_until("the new active VM has taken it", lambda: told(fleet, second)[-1] == "take", 10)
        fleet.mend()
        settle(fleet)
