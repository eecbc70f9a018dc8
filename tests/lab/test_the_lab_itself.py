"""What the lab promises, fault by fault, on four booted machines without a deployment."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.machines.lab import Lab
from deploy.machines.places import CHECKOUT, LabError

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1800)]

VM, OTHER = "backend-server", "database-server"
UNIT = "lab-probe.service"
PORT = 8099
# A service as the fleet's are: restarted by systemd because a drop-in says so, and answering over the network.
UNIT_FILE = f"""\
[Service]
ExecStart=/usr/bin/python3 -m http.server {PORT}
"""
DROP_IN = "[Service]\nRestart=always\nRestartSec=0.1\n"
ADDRESS = "10.0.0.22"


def wait_until(holds: Callable[[], bool], timeout_s: float = 15.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if holds():
            return True
        time.sleep(0.1)
    return holds()


def answers(lab: Lab) -> bool:
    argv = ["curl", "-s", "-o", "/dev/null", "--max-time", "2", f"http://{ADDRESS}:{PORT}/"]
    return lab.client(argv, check=False).returncode == 0


def pings(lab: Lab) -> bool:
    return lab.client(["ping", "-q", "-c", "1", "-W", "1", ADDRESS], check=False).returncode == 0


def active_state(lab: Lab) -> str:
    return lab.run(VM, ["systemctl", "show", "--property=ActiveState", "--value", UNIT]).stdout.strip()


@pytest.fixture
def probe(bare_lab: Lab) -> Iterator[Lab]:
    """The lab with one service that answers the client; mended and answering again afterwards."""
    path = f"/etc/systemd/system/{UNIT}"
    bare_lab.run(VM, ["tee", path], text_input=UNIT_FILE)
    bare_lab.run(VM, ["mkdir", "-p", f"{path}.d"])
    bare_lab.run(VM, ["tee", f"{path}.d/orch.conf"], text_input=DROP_IN)
    bare_lab.run(VM, ["systemctl", "daemon-reload"])
    bare_lab.run(VM, ["systemctl", "start", UNIT])
    assert wait_until(lambda: answers(bare_lab))
    yield bare_lab
    bare_lab.mend()


def test_four_machines_boot_with_the_names_and_addresses_of_the_inventory(bare_lab: Lab) -> None:
    for vm in bare_lab.fleet.vms:
        assert bare_lab.run(vm.name, ["hostname"]).stdout.strip() == vm.name
        assert f"inet {vm.address}/16" in bare_lab.run(vm.name, ["ip", "-4", "address", "show", "eth0"]).stdout


def test_the_operator_logs_in_over_ssh_with_pinned_host_keys(bare_lab: Lab) -> None:
    for vm in bare_lab.fleet.vms:
        done = subprocess.run(bare_lab.ssh_command(vm.name, ["hostname"]), capture_output=True, text=True, timeout=30)
        assert (done.returncode, done.stdout.strip()) == (0, vm.name), done.stderr


def test_each_machine_has_host_keys_and_an_identity_of_its_own(bare_lab: Lab) -> None:
    for path in ("/etc/machine-id", "/etc/ssh/ssh_host_ed25519_key.pub"):
        found = {bare_lab.run(vm.name, ["cat", path]).stdout for vm in bare_lab.fleet.vms}
        assert len(found) == len(bare_lab.fleet.vms)


def test_a_machine_may_change_its_own_network(bare_lab: Lab) -> None:
    bare_lab.run(VM, ["sysctl", "-q", "-w", "net.ipv4.conf.all.arp_ignore=1"])
    assert bare_lab.run(VM, ["sysctl", "-n", "net.ipv4.conf.all.arp_ignore"]).stdout.strip() == "1"
    assert bare_lab.run(OTHER, ["sysctl", "-n", "net.ipv4.conf.all.arp_ignore"]).stdout.strip() == "0"


def test_exec_passes_input_and_exit_status(bare_lab: Lab) -> None:
    argv = [str(CHECKOUT / "deploy" / "lab"), "exec", VM, "--"]
    env = {**os.environ, "ORCH_LAB_NAME": bare_lab.places.name}
    done = subprocess.run([*argv, "sh", "-c", "cat; exit 3"], input="hello", capture_output=True, text=True, env=env)
    assert (done.returncode, done.stdout) == (3, "hello")


def test_nothing_in_the_lab_reaches_outside_its_own_network(bare_lab: Lab) -> None:
    routes = bare_lab.run(VM, ["ip", "-4", "route"]).stdout.splitlines()
    assert [route.split()[0] for route in routes] == ["10.0.0.0/16"]


def test_a_killed_service_stays_down_whoever_starts_it_until_it_is_mended(probe: Lab) -> None:
    before = time.time()
    fault = probe.fault("kill", VM, "lab-probe")
    assert before <= fault.at <= time.time()
    assert not answers(probe)
    assert probe.run(VM, ["systemctl", "start", UNIT], check=False).returncode != 0
    assert active_state(probe) == "failed"
    assert probe.run(VM, ["systemctl", "show", "--property=NRestarts", "--value", UNIT]).stdout.strip() == "0"
    assert [mended.kind for mended in probe.mend(VM)] == ["kill"]
    assert wait_until(lambda: answers(probe))


def test_a_crashed_service_is_restarted_by_its_own_systemd(probe: Lab) -> None:
    pid = ["systemctl", "show", "--property=MainPID", "--value", UNIT]
    first = probe.run(VM, pid).stdout
    probe.fault("crash", VM, "lab-probe")
    assert wait_until(lambda: answers(probe) and probe.run(VM, pid).stdout != first)
    assert probe.mend() == []


def test_a_stopped_service_is_started_by_mending(probe: Lab) -> None:
    probe.fault("stop", VM, "lab-probe")
    assert active_state(probe) == "inactive"
    probe.mend(VM)
    assert wait_until(lambda: answers(probe))


def test_a_cut_link_carries_nothing_either_way_and_the_machine_lives_on(probe: Lab) -> None:
    probe.fault("cut", VM)
    assert not pings(probe)
    assert probe.run(VM, ["ping", "-q", "-c", "1", "-W", "1", "10.0.200.1"], check=False).returncode != 0
    assert active_state(probe) == "active"
    probe.mend(VM)
    assert wait_until(lambda: answers(probe))


def test_a_frozen_machine_answers_nothing_and_goes_on_where_it_was(probe: Lab) -> None:
    uptime = ["systemctl", "show", "--property=ActiveEnterTimestampMonotonic", "--value", UNIT]
    before = probe.run(VM, uptime).stdout
    probe.fault("freeze", VM)
    assert not pings(probe)
    with pytest.raises(LabError, match="frozen"):
        probe.run(VM, ["true"])
    assert probe.status()["vms"][VM]["system"] == "frozen"
    probe.fault("thaw", VM)
    assert wait_until(lambda: answers(probe))
    assert probe.run(VM, uptime).stdout == before


# Where the kernel has no netem both are the relay.
@pytest.mark.parametrize("means", ["netem", "relay"])
def test_a_slow_link_delays_each_way_and_loses_packets(probe: Lab, means: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCH_SLOW_LINK", means)
    fault = probe.fault("slow", VM, latency_ms=80, loss_percent=0)
    assert fault.detail["means"] in {means, "relay"}
    shown = probe.client(["ping", "-c", "3", "-i", "0.3", ADDRESS]).stdout
    quickest_ms = float(shown.rsplit("=", 1)[1].split("/")[0])
    assert 155 < quickest_ms < 300
    probe.mend(VM)
    probe.fault("slow", VM, latency_ms=1, loss_percent=40)
    shown = probe.client(["ping", "-q", "-c", "60", "-i", "0.02", "-W", "1", ADDRESS], check=False).stdout
    received = int(shown.split(" packets transmitted, ")[1].split()[0])
    assert 5 <= received <= 40
    probe.mend(VM)
    assert wait_until(lambda: answers(probe))


def test_a_machine_without_power_is_gone_at_once_and_boots_again_with_its_disk(probe: Lab) -> None:
    probe.run(VM, ["sh", "-c", "echo kept >/root/kept; ip address add 10.0.0.100/16 dev eth0"])
    identity = probe.run(VM, ["cat", "/etc/machine-id"]).stdout
    probe.fault("poweroff", VM)
    assert not pings(probe)
    with pytest.raises(LabError, match="is off"):
        probe.run(VM, ["true"])
    with pytest.raises(LabError, match="poweron"):
        probe.fault("cut", VM)
    assert probe.status()["vms"][VM]["running"] is False
    assert probe.status()["up"] is True
    probe.fault("poweron", VM)
    assert wait_until(lambda: probe.status()["vms"][VM]["system"] in ("running", "degraded"), 180)
    assert probe.run(VM, ["cat", "/root/kept"]).stdout.strip() == "kept"
    assert probe.run(VM, ["cat", "/etc/machine-id"]).stdout == identity
    # An address that was only set at run time is forgotten, as on any machine.
    assert "10.0.0.100" not in probe.run(VM, ["ip", "-4", "address", "show", "eth0"]).stdout
    assert subprocess.run(probe.ssh_command(VM, ["true"]), timeout=30).returncode == 0


def test_a_new_machine_in_a_vms_place_has_its_name_and_address_and_nothing_else_of_it(bare_lab: Lab) -> None:
    bare_lab.run(VM, ["touch", "/root/kept"])
    own = ["cat", "/etc/machine-id", "/etc/ssh/ssh_host_ed25519_key.pub"]
    former = bare_lab.run(VM, own).stdout
    bare_lab.fault("poweroff", VM)
    bare_lab.replace(VM)
    assert bare_lab.run(VM, ["test", "-e", "/root/kept"], check=False).returncode == 1
    assert not set(bare_lab.run(VM, own).stdout.splitlines()) & set(former.splitlines())
    assert bare_lab.status()["vms"][VM]["faults"] == []
    logged_in = subprocess.run(bare_lab.ssh_command(VM, ["hostname"]), timeout=30, capture_output=True, text=True)
    assert logged_in.stdout == f"{VM}\n"


def test_faults_in_force_are_shown_and_mended_together(probe: Lab) -> None:
    probe.fault("kill", VM, "lab-probe")
    probe.fault("cut", VM)
    assert probe.status()["vms"][VM]["faults"] == [f"kill {UNIT}", "cut"]
    assert sorted(fault.kind for fault in probe.mend()) == ["cut", "kill"]
    assert wait_until(lambda: answers(probe))


@pytest.mark.parametrize(
    ("kind", "vm", "service", "reason"),
    [
        ("melt", VM, None, "there is no fault 'melt'"),
        ("cut", "mail-server", None, "there is no VM 'mail-server'; the fleet has .*backend-server"),
        ("kill", VM, None, "kill of what"),
        ("cut", VM, "backend", "takes no service"),
        ("stop", VM, "no-such-unit", "no-such-unit.service does not run on backend-server; these do: .*ssh"),
        ("thaw", VM, None, "is not frozen"),
        ("poweron", VM, None, "is on already"),
    ],
)
def test_what_cannot_be_is_refused_with_what_would_be_possible(
    bare_lab: Lab, kind: str, vm: str, service: str | None, reason: str
) -> None:
    with pytest.raises(LabError, match=reason):
        bare_lab.fault(kind, vm, service)


def test_status_is_plain_data_and_the_command_fails_while_there_is_no_lab(bare_lab: Lab) -> None:
    argv = [str(CHECKOUT / "deploy" / "lab"), "status", "--json"]
    env = {**os.environ, "ORCH_LAB_NAME": bare_lab.places.name}
    here = subprocess.run(argv, capture_output=True, text=True, env=env)
    assert (here.returncode, json.loads(here.stdout)["up"]) == (0, True)
    nowhere = subprocess.run(argv, capture_output=True, text=True, env={**env, "ORCH_LAB_NAME": "no-such-lab"})
    assert (nowhere.returncode, json.loads(nowhere.stdout)["up"]) == (1, False)


def test_up_makes_a_lab_again_whose_machines_died_with_their_host(bare_lab: Lab) -> None:
    for machine in bare_lab.machines():
        machine.kill()
    assert bare_lab.status()["up"] is False
    bare_lab.up(bare=True)
    assert bare_lab.status()["up"] is True
    assert bare_lab.run(VM, ["hostname"]).stdout.strip() == VM


def test_down_leaves_no_process_mount_namespace_or_cgroup(bare_lab: Lab) -> None:
    """Last in this file: the lab is taken down while a client's and a VM's own processes still run."""
    sleeper = ["sh", "-c", "echo runs; exec sleep 1000"]
    started = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        for command in (bare_lab.client_command(sleeper), bare_lab.command_in_vm(VM, sleeper))
    ]
    assert [process.stdout.readline() for process in started if process.stdout] == ["runs\n", "runs\n"]
    name = bare_lab.places.name
    bare_lab.down()
    assert all(process.wait(timeout=10) != 0 for process in started)
    assert f"/{name}/" not in Path("/proc/self/mountinfo").read_text()
    assert [path.name for path in Path("/run/netns").glob(f"{name}-*")] == []
    # Other cgroups come and go meanwhile: os.walk does not mind.
    groups = [str(Path(folder, child)) for folder, children, _ in os.walk("/sys/fs/cgroup") for child in children]
    assert [group for group in groups if group.endswith(f"/orch-lab-{name}")] == []
    assert not bare_lab.places.home.exists()
    commands = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            commands.append(path.read_bytes())
    assert [command for command in commands if f"--machine={name}-".encode() in command] == []
