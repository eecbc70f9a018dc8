"""What the tests on the four machines ask of the fleet, in one line each."""

from __future__ import annotations

import base64
import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.machines.lab import Lab
from deploy.machines.places import LabError
from deploy.trials.accidents import leader_of
from deploy.trials.books import Writers, Writing
from deploy.trials.client import Traffic
from deploy.trials.outage import is_served_again
from deploy.trials.policy import end_holds
from deploy.trials.status import fleet_status, settle, wait_until, witness_of
from deploy.trials.trial import BACKEND_URL, FRONTEND_URL

HOME = {
    "backend": "backend-server",
    "frontend": "frontend-server",
    "database": "database-server",
    "messaging": "messaging-server",
}
SECOND = {
    "backend": "messaging-server",
    "frontend": "backend-server",
    "database": "backend-server",
    "messaging": "frontend-server",
}
UNIT = {"backend": "node-app", "frontend": "nginx", "database": "mariadb", "messaging": "rabbitmq-server"}
CONTROLLERS = ("messaging-server", "frontend-server")
BROKERS = ("messaging-server", "frontend-server", "database-server")
VIP = "10.0.0.100"
URL = {"backend": BACKEND_URL, "frontend": FRONTEND_URL}
# How quick it is, is the bench's business.
MOVED_WITHIN_S = 90.0
HOME_WITHIN_S = 180.0

# A message of the system that orch replaces, without `failed_instance`.
BY_HAND = {"command_type": "failover", "instance_type": "backend"}
# Publishes what it reads, by hand, as the user that is named, and ends when a broker has confirmed. A channel that was
# opened while the queue's leader was being lost confirms nothing (RabbitMQ 3.10): then it is tried again on another
# connection.
PUBLISH = """
import pathlib, signal, ssl, sys, time
from orchestrator.settings import load_settings, read_secret
import pika

def late(*_):
    raise TimeoutError

def publish(host):
    signal.alarm(3)
    try:
        tls = pika.SSLOptions(ssl.create_default_context(cafile=str(given.ca_file)), host)
        where = pika.ConnectionParameters(host, given.port, given.vhost, credentials, ssl_options=tls)
        link = pika.BlockingConnection(where)
        channel = link.channel()
        channel.confirm_delivery()
        channel.basic_publish("", "failover_commands", body, kept, mandatory=True)
    finally:
        signal.alarm(0)

signal.signal(signal.SIGALRM, late)
given = load_settings().amqp
user = sys.argv[1]
password = read_secret(pathlib.Path("/etc/orch/amqp", user.removeprefix("orch_") + "_password"))
credentials = pika.PlainCredentials(user, password)
body, kept = sys.stdin.read().encode(), pika.BasicProperties(delivery_mode=2, user_id=user)
for turn in range(15):
    try:
        publish(given.hosts[turn % len(given.hosts)])
        break
    except (pika.exceptions.AMQPError, TimeoutError):
        # The queue elects another leader: it was not taken.
        time.sleep(0.2)
else:
    sys.exit("no broker takes the message")
"""


def orch(lab: Lab, *words: str, vm: str | None = None, check: bool = True) -> Any:
    """Run `orch` on a VM; returns the completed process."""
    return lab.run(vm or witness_of(lab), ["orch", *words], check=check, timeout_s=120)


def answer(lab: Lab, *words: str, vm: str | None = None) -> Any:
    """Run `orch --json` on a VM and return what it says."""
    return json.loads(lab.run(vm or witness_of(lab), ["orch", "--json", *words], timeout_s=60).stdout)


def service(lab: Lab, name: str, vm: str | None = None) -> dict[str, Any]:
    """Return the service's part of the status; empty while Consul does not answer."""
    return dict(fleet_status(lab, vm).get("services", {}).get(name, {}))


@dataclass(frozen=True)
class Role:
    """Who has a service's role, as one read of Consul shows it."""

    active: str
    epoch: int
    holder: str | None
    """The VM that holds the role lock."""
    endpoints: list[str]
    """The VMs that traffic is pointed at, the active one first."""


def role_of(lab: Lab, name: str, vm: str | None = None, *, stale: bool = False) -> Role | None:
    """Return the service's role; None while it cannot be read. `stale`: what the VM's own server knows, quorum or not.

    Read from Consul and not by `orch status`: it is asked again and again while the fleet is busy with a move.
    """
    query = f"kv/orch/services/{name}/?recurse{'&stale' if stale else ''}"
    told = lab.ask_consul(vm or witness_of(lab), query, "-m", "5").stdout
    try:
        rows = {row["Key"].rpartition("/")[2]: row for row in json.loads(told or "[]")}
        seen = {key: json.loads(base64.b64decode(rows[key]["Value"])) for key in ("assignment", "lock", "endpoints")}
        is_held = rows["lock"].get("Session") and seen["lock"].get("ready", True)
        holder = seen["lock"]["vm"] if is_held else None
        endpoints = [endpoint["vm"] for endpoint in seen["endpoints"]["endpoints"]]
        return Role(seen["assignment"]["active"], seen["assignment"]["epoch"], holder, endpoints)
    except (ValueError, KeyError):
        return None


def is_served_by(lab: Lab, name: str, vm: str) -> bool:
    """Say whether the VM is active, holds the role lock and is what traffic is pointed at."""
    role = role_of(lab, name)
    return role is not None and (role.active, role.holder, role.endpoints[0]) == (vm, vm, vm)


def has_address(lab: Lab, vm: str) -> bool:
    """Say whether the VM answers for the front door's address; one that is off does not."""
    try:
        shown = lab.run(vm, ["ip", "-4", "address", "show", "dev", "eth0"], check=False, timeout_s=20).stdout
    except LabError:
        return False
    return f"inet {VIP}/" in shown


def watch_the_return(lab: Lab, name: str) -> None:
    """Until the service is moved home: its home VM, which is back, has neither the role lock nor the address.

    A VM that was cut off or frozen has the address still when it returns, and is given the time to find that out.
    """
    away, home = SECOND[name], HOME[name]
    doors = [home, away] if name == "frontend" else []
    if doors:
        wait_until(f"{home} has given the address up", lambda: not has_address(lab, home), 15, 0.02)
    deadline = time.monotonic() + HOME_WITHIN_S
    while time.monotonic() < deadline:
        with_address = [vm for vm in doors if has_address(lab, vm)]
        role = role_of(lab, name)
        if role is not None:
            # Read after the address: what was away then is away still.
            if role.active != away:
                return
            assert role.holder in (away, None), f"{role.holder} holds the role lock, {away} is active"
            assert with_address == doors[1:], f"{with_address} have the address, {away} is active"
        time.sleep(0.1)
    raise AssertionError(f"{name} was not moved home within {HOME_WITHIN_S:g} s")


def wait_served_by(lab: Lab, name: str, vm: str, within_s: float = MOVED_WITHIN_S) -> None:
    """Wait until the service is served by the VM."""
    wait_until(f"{name} is served by {vm}", lambda: is_served_by(lab, name, vm), within_s)


def wait_client(traffic: Traffic, since: float, within_s: float = 30.0) -> None:
    """Wait until the client was answered well, again and again, by requests made after `since`."""
    wait_until("the client is served", lambda: is_served_again(traffic.samples(), since), within_s)


def unit_state(lab: Lab, vm: str, unit: str) -> str:
    """Return what systemd on the VM says of the unit."""
    return lab.run(vm, ["systemctl", "is-active", unit], check=False, timeout_s=20).stdout.strip()


def history(lab: Lab, since: float, vm: str | None = None) -> list[dict[str, Any]]:
    """Return the entries of the history since then."""
    told = answer(lab, "history", vm=vm)
    entries = told["history"] if isinstance(told, dict) else told
    return [entry for entry in entries if entry["at"] >= since]


def reasons(lab: Lab, since: float, vm: str | None = None) -> list[str]:
    """Return the sentences of the history since then."""
    return [entry["reason"] for entry in history(lab, since, vm)]


def epochs(lab: Lab) -> dict[str, int]:
    """Return the epoch of each service: what did not grow did not move."""
    return {name: seen["epoch"] for name, seen in fleet_status(lab)["services"].items()}


def in_sync(lab: Lab) -> bool:
    """Say whether the current playbooks of every worker are the released ones."""
    return orch(lab, "playbooks", "status", check=False).returncode == 0


def kv_put(lab: Lab, key: str, value: str, vm: str | None = None) -> None:
    """Write a key as an operator would, with Consul's own tool."""
    lab.run(vm or witness_of(lab), ["consul", "kv", "put", key, value], timeout_s=20)


def kv_by_force(lab: Lab, *words: str) -> None:
    """Change a key that no operator may change: `put KEY VALUE` or `delete KEY`, with the management token."""
    verb, *rest = words
    argv = ["consul", "kv", verb, "-token-file=/dev/stdin", *rest]
    lab.run(witness_of(lab), argv, text_input=lab.secret("consul_management"), timeout_s=20)


def kv_get(lab: Lab, key: str, vm: str | None = None) -> str | None:
    """Read a key with Consul's own tool; None where it is absent."""
    found = lab.run(vm or witness_of(lab), ["consul", "kv", "get", key], check=False, timeout_s=20)
    return found.stdout if found.returncode == 0 else None


def publish(lab: Lab, body: str, vm: str = "frontend-server", user: str = "orch_operator") -> None:
    """Publish on `failover_commands` as the system that orch replaces did; returns when a broker has confirmed."""
    lab.run(vm, ["/opt/orch/venv/bin/python", "-c", PUBLISH, user], text_input=body, timeout_s=60)


@contextlib.contextmanager
def traffic(lab: Lab, url: str, folder: Path, seconds: float = 900.0) -> Iterator[Traffic]:
    """Client traffic for the time of the block, served before the block begins."""
    with Traffic(lab, url, folder / "notes.jsonl", seconds=seconds) as sent:
        wait_client(sent, time.time() - 0.5)
        yield sent


@contextlib.contextmanager
def ledger(lab: Lab, folder: Path, **options: Any) -> Iterator[Writers]:
    """Listings written for the time of the block, acknowledged and confirmed before it begins."""
    with Writers(lab, folder / "ledger.jsonl", **options) as writers:
        wait_written(writers, time.time() - 0.5)
        yield writers


def wait_written(writers: Writing, since: float, within_s: float = 60.0) -> None:
    """Wait until writes that began after `since` were acknowledged, again and again."""
    wait_until("writes are acknowledged", lambda: is_served_again(writers.samples(), since), within_s)


def wait_whole(lab: Lab, *vms: str, within_s: float = 60.0) -> None:
    """Wait until exactly these have every acknowledged write, as the record says."""
    wait_until(
        f"the whole copies are those of {' and '.join(vms)}",
        lambda: set(service(lab, "database").get("whole_copies") or ()) == set(vms),
        within_s,
        0.3,
    )


def have_lead(lab: Lab, vm: str) -> None:
    """Have the controller of the VM lead: the other one begins anew, and again where it was the quicker one, as it is
    while the VM's own has just been started and its check does not pass yet."""

    def leads() -> bool:
        if (leader := leader_of(lab)) != vm:
            lab.run(leader, ["systemctl", "restart", "orch-controller"], timeout_s=60)
        return leader == vm

    wait_until(f"{vm} leads", leads, 60, 3.0)


def mend_and_settle(lab: Lab) -> None:
    """Undo every fault and wait until all is as before, at home also where a test that failed left it elsewhere.

    Where it does not become so by itself the test has failed; a hold is ended then, so that the next one can pass.
    """
    lab.mend()
    try:
        settle(lab)
    except LabError:
        end_holds(lab, print)
        with contextlib.suppress(LabError):
            settle(lab)
        raise
    away = [name for name, seen in fleet_status(lab)["services"].items() if seen["designated"] != HOME[name]]
    for name in away:
        orch(lab, "failback", name, "--wait")
    if away:
        settle(lab)
