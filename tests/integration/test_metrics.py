"""The page `/metrics` of a controller that runs, and what Prometheus' own tool says of the rules and of the pages."""

from __future__ import annotations

import json
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from deploy.machines.places import CHECKOUT
from orchestrator import controller
from orchestrator.domain import keys
from orchestrator.domain.policy import Policy
from orchestrator.settings import AmqpSettings, ConsulSettings, HealthPorts, LocalSettings
from orchestrator.store.consul_port import ConsulPort
from orchestrator.store.port import AgentService, PushedSpec
from tests.integration.consul_agent import ConsulAgent
from tests.integration.ports import free_port
from tests.simulation.world import policy_document
from tests.unit.metrics.build import every_daemon

MONITORING = CHECKOUT / "deploy" / "monitoring"
WAIT_S = 30.0

Sample = tuple[str, frozenset[tuple[str, str]]]


def page_of(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        return str(answer.read().decode())


def samples_of(page: str) -> dict[Sample, float]:
    families = text_string_to_metric_families(page)
    return {(each.name, frozenset(each.labels.items())): each.value for family in families for each in family.samples}


def sample(name: str, **labels: str) -> Sample:
    return name, frozenset(labels.items())


def page_with(port: int, wanted: dict[Sample, float]) -> str:
    """Ask until the page shows it; return the page."""
    deadline, found = time.monotonic() + WAIT_S, ""
    while time.monotonic() < deadline:
        try:
            found = page_of(port)
        except OSError:
            continue
        if wanted.items() <= samples_of(found).items():
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {WAIT_S:g} s: {wanted} in\n{found}")


@contextmanager
def running(run: Callable[[LocalSettings, threading.Event], None], settings: LocalSettings) -> Iterator[None]:
    """Have the daemon run meanwhile."""
    stop = threading.Event()
    daemon = threading.Thread(target=run, args=(settings, stop), daemon=True)
    daemon.start()
    try:
        yield
    finally:
        stop.set()
        daemon.join(WAIT_S)
    assert not daemon.is_alive()


@pytest.fixture
def settings(own_consul_agent: ConsulAgent, tmp_path: Path) -> LocalSettings:
    """Those of a VM whose Consul agent runs, with a policy and without a broker."""
    port = ConsulPort(port=own_consul_agent.http_port)
    policy = Policy.model_validate(policy_document("cold", 5.0, 86400.0))
    port.kv_put(keys.CONFIG, policy.model_dump_json().encode())
    service = keys.daemon_service_id("controller")
    port.agent_register(AgentService(service, service, 0))
    port.agent_register_pushed(service, PushedSpec(keys.daemon_check_id("controller"), "alive", 3600.0, "passing"))
    vm = port.node_name()
    port.close()
    return LocalSettings(
        vm=vm,
        consul=ConsulSettings(port=own_consul_agent.http_port),
        amqp=AmqpSettings(hosts=("127.0.0.1",), port=free_port()),
        state_dir=tmp_path,
        health_ports=HealthPorts(controller=free_port()),
    )


def test_a_controller_that_leads_tells_of_itself_and_of_the_fleet(settings: LocalSettings) -> None:
    with running(controller.run, settings):
        leads = {sample("orch_controller_leader"): 1.0, sample("orch_daemon_alive"): 1.0}
        page = page_with(
            settings.health_ports.controller, leads | {sample("orch_service_served", service="backend"): 0.0}
        )
    assert samples_of(page)[sample("orch_controller_decide_duration_seconds_count")] >= 1.0


@pytest.mark.parametrize("daemon", ["controller", "worker", "guard"])
def test_promtool_has_nothing_against_the_page_of(daemon: str) -> None:
    _, page = every_daemon()[daemon].page()
    assert_promtool_finds_nothing("check", "metrics", given=page.decode())


@pytest.mark.parametrize(
    "words",
    [
        ("check", "rules", "alerts.yml"),
        ("check", "config", "prometheus.yml"),
        ("test", "rules", "alerts.test.yml"),
    ],
    ids=" ".join,
)
def test_promtool_has_nothing_against(words: tuple[str, ...]) -> None:
    assert_promtool_finds_nothing(*words)


def test_promtool_can_read_every_query_of_the_dashboard(tmp_path: Path) -> None:
    dashboard = json.loads((MONITORING / "grafana-dashboard.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries)]
    assert rules
    file = tmp_path / "queries.yml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert_promtool_finds_nothing("check", "rules", str(file))


def assert_promtool_finds_nothing(*words: str, given: str = "") -> None:
    """Run Prometheus' own tool where the monitoring files are."""
    done = subprocess.run(
        ["promtool", *words], check=False, cwd=MONITORING, input=given, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
