"""Real servers for the tests of one file, which find them as they were started.

Not shared between files: which of them run in one process, and so one after the other, changes from run to run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.store.consul_port import ConsulPort
from tests.integration.consul_agent import ConsulAgent, NoConsul
from tests.integration.mariadb_server import Datadirs, NoMariaDb
from tests.integration.namespaces import Side, two_sides_and_a_client
from tests.integration.rabbitmq_broker import NoRabbit, RabbitBroker


@pytest.fixture(scope="module")
def consul_agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsulAgent]:
    """A running agent, shared by all tests of the file: they must leave it as they found it."""
    agent = started_agent(tmp_path_factory.mktemp("consul"), acls="allow")
    yield agent
    agent.stop()


@pytest.fixture
def own_consul_agent(tmp_path: Path) -> Iterator[ConsulAgent]:
    """A running agent for one test, which may stop and freeze it."""
    agent = started_agent(tmp_path)
    yield agent
    agent.stop()


@pytest.fixture
def consul_port(consul_agent: ConsulAgent) -> Iterator[ConsulPort]:
    """A port to the shared agent."""
    port = ConsulPort(port=consul_agent.http_port)
    yield port
    port.close()


def started_agent(directory: Path, acls: str = "") -> ConsulAgent:
    """Start an agent, or fail the test with one plain sentence when there is no consul."""
    problem = ""
    try:
        agent = ConsulAgent(directory, acls=acls)
    except NoConsul as error:
        problem = str(error)
    if problem:
        pytest.fail(problem, pytrace=False)
    agent.start()
    return agent


@pytest.fixture(scope="module")
def rabbit_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitBroker]:
    """A running broker, shared by all tests of the file: they must leave it running."""
    # Not below pytest's own folder, which only this user may enter: as root the broker runs as another.
    with tempfile.TemporaryDirectory(prefix="orch-rabbitmq-", dir="/tmp") as directory:
        try:
            broker = RabbitBroker(Path(directory))
        except NoRabbit as problem:
            pytest.fail(str(problem), pytrace=False)
        try:
            broker.start()
            yield broker
        finally:
            broker.close()


@pytest.fixture(scope="module")
def rabbit_cluster() -> Iterator[tuple[RabbitBroker, ...]]:
    """Three running brokers that could form a cluster and do not yet: whoever uses them says who joins whom."""
    with tempfile.TemporaryDirectory(prefix="orch-rabbitmq-", dir="/tmp") as directory:
        Path(directory).chmod(0o711)
        brokers: list[RabbitBroker] = []
        try:
            for name in "abc":
                (Path(directory) / name).mkdir()
                beside = brokers[0] if brokers else None
                brokers.append(RabbitBroker(Path(directory) / name, beside, has_queues=False))
                brokers[-1].begin()
            for broker in brokers:
                broker.wait_ready()
            yield tuple(brokers)
        except NoRabbit as problem:
            pytest.fail(str(problem), pytrace=False)
        finally:
            for broker in reversed(brokers):
                broker.close()


@pytest.fixture(scope="session")
def datadirs() -> Iterator[Datadirs]:
    """Where the database servers of the tests live; whoever makes one there removes it."""
    try:
        datadirs = Datadirs()
    except NoMariaDb as problem:
        pytest.fail(str(problem), pytrace=False)
    yield datadirs
    datadirs.remove()


@pytest.fixture(scope="module")
def rabbit_spare(rabbit_cluster: tuple[RabbitBroker, ...]) -> Iterator[RabbitBroker]:
    """A fourth running broker beside the cluster's."""
    with tempfile.TemporaryDirectory(prefix="orch-rabbitmq-", dir="/tmp") as directory:
        spare = RabbitBroker(Path(directory), rabbit_cluster[0], has_queues=False)
        try:
            spare.start()
            yield spare
        finally:
            spare.close()


@pytest.fixture
def network() -> Iterator[tuple[Side, Side, str]]:
    """Two VMs that can hold the front door's address, and the client's namespace."""
    with two_sides_and_a_client() as three:
        yield three
