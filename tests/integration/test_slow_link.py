"""The lab's relay for a slow link, which stands in for netem, between two network namespaces and without a machine."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.machines import slow_link
from deploy.machines.fleet import Vm
from deploy.machines.network import Network, port_of
from deploy.machines.places import LabPlaces
from tests.integration.namespaces import CAN_MAKE_NAMESPACES, inside

pytestmark = [
    pytest.mark.skipif(not CAN_MAKE_NAMESPACES, reason="network namespaces need root"),
    pytest.mark.timeout(120),
]

VM = Vm("backend-server", "10.0.0.22")
WEB = f"http://{VM.address}:8099/"


@dataclass
class Segment:
    """What the relay needs of a lab: its places, and a way to start helpers."""

    places: LabPlaces

    def helper_command(self, argv: list[str]) -> list[str]:
        return argv

    def client(self, *command: str) -> subprocess.CompletedProcess[str]:
        argv = inside(self.places.client_namespace, *command)
        return subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60)

    def ping(self, *words: str) -> tuple[int, float]:
        """Return how many of five answers came, and the quickest one's milliseconds."""
        shown = self.client("ping", "-q", "-c", "5", "-i", "0.05", "-W", "1", *words, VM.address).stdout
        received = int(shown.split(" packets transmitted, ")[1].split()[0])
        return received, float(shown.rsplit(" = ", 1)[1].split("/")[0]) if received else float("inf")

    def bridge_of(self, port: str) -> str:
        path = f"/sys/class/net/{port}/master"
        done = subprocess.run(
            inside(self.places.switch_namespace, "readlink", path), check=False, capture_output=True, text=True
        )
        return done.stdout.strip().rpartition("/")[2]


@pytest.fixture
def segment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Segment]:
    """A client and one VM on a lab's bridge."""
    monkeypatch.setenv("ORCH_LAB_DIR", str(tmp_path))
    monkeypatch.setenv("ORCH_SLOW_LINK", "relay")
    places = LabPlaces(f"slow{os.getpid()}")
    places.vm_home(VM.name).mkdir(parents=True)
    network = Network(places)
    made = Segment(places)
    try:
        network.make_switch()
        network.connect_vm(VM)
        yield made
    finally:
        slow_link.forget(made, VM.name)  # type: ignore[arg-type]
        network.remove([VM.name])


@pytest.fixture
def web(segment: Segment) -> Iterator[Segment]:
    """And a file behind HTTP on the VM: larger than what fits into one packet."""
    (segment.places.home / "index.html").write_text("x" * 100_000)
    command = inside(segment.places.vm_namespace(VM.name), sys.executable, "-m", "http.server", "8099")
    with subprocess.Popen([*command, "--directory", segment.places.home], stderr=subprocess.DEVNULL) as server:
        yield segment
        server.kill()


def start(segment: Segment, latency_ms: float, loss_percent: float) -> str:
    return slow_link.start(segment, VM.name, latency_ms, loss_percent)[1]  # type: ignore[arg-type]


def stop(segment: Segment) -> None:
    slow_link.stop(segment, VM.name)  # type: ignore[arg-type]


def test_the_relay_delays_each_way_until_it_is_stopped(segment: Segment) -> None:
    assert start(segment, 100, 0) == "relay"
    received, quickest_ms = segment.ping("-s", "1400")
    assert received == 5
    assert quickest_ms >= 200
    relay = os.pidfd_open(int((segment.places.vm_home(VM.name) / "slow-link.pid").read_text()))
    stop(segment)
    assert select.select([relay], [], [], 30) == ([relay], [], [])
    os.close(relay)
    received, quickest_ms = segment.ping()
    assert received == 5
    assert quickest_ms < 200
    assert segment.bridge_of(port_of(VM.name)) == "bridge"


def test_the_relay_loses_what_it_was_told_to_lose(segment: Segment) -> None:
    start(segment, 1, 100)
    assert segment.ping()[0] == 0
    stop(segment)
    assert segment.ping()[0] == 5


def test_connections_come_through_the_relay_whole(web: Segment) -> None:
    start(web, 5, 0)
    fetch = ("curl", "-sS", "--retry", "100", "--retry-connrefused", "--retry-max-time", "30", "--retry-delay", "1")
    done = web.client(*fetch, WEB)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "x" * 100_000
