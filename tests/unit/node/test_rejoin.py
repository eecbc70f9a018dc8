"""An agent that knows no leader is told to join the others, until one answers."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from orchestrator import guard
from orchestrator.node import rejoin as rejoin_module
from orchestrator.node.knowledge import POLICY_FILE
from orchestrator.node.rejoin import Rejoin
from orchestrator.settings import AmqpSettings, HealthPorts, LocalSettings
from orchestrator.store.port import Unknown
from tests.fakes.fake_consul import FakeConsul, FakePort
from tests.unit.observe.fleet import POLICY

VMS = ("a", "b", "c")


class Agent(FakePort):
    """Notes whom it was told to join; those who are away do not answer."""

    def __init__(self, cluster: FakeConsul, away: tuple[str, ...] = (), vm: str = "a") -> None:
        super().__init__(cluster, vm)
        self.away = away
        self.joined: list[str] = []
        self.has_joined = threading.Event()
        self.asked = 0

    def agent_join(self, address: str) -> None:
        self.joined.append(address)
        if address in self.away:
            raise Unknown("nobody answers")
        self.has_joined.set()

    def leader_known(self) -> bool:
        self.asked += 1
        return super().leader_known()

    def close(self) -> None:
        pass


def looks(agent: Agent, count: int) -> list[str | None]:
    rejoin = Rejoin(lambda: agent, lambda: ("b", "c"))
    return [rejoin.look(agent) for _ in range(count)]


def test_an_agent_that_knows_a_leader_is_left_alone() -> None:
    agent = Agent(FakeConsul(VMS))
    assert looks(agent, 5) == [None] * 5
    assert agent.joined == []


def test_an_agent_without_a_leader_joins_the_first_that_answers() -> None:
    consul = FakeConsul(VMS)
    consul.quorum = False
    agent = Agent(consul, away=("b",))
    assert looks(agent, 3) == [None, "c", "c"]
    assert agent.joined == ["b", "c", "b", "c"]


def test_an_agent_that_is_quite_alone_goes_on_trying() -> None:
    consul = FakeConsul(VMS)
    consul.quorum = False
    agent = Agent(consul, away=("b", "c"))
    assert looks(agent, 4) == [None] * 4
    assert agent.joined == ["b", "c"] * 3


def test_an_agent_that_does_not_answer_is_told_nothing() -> None:
    consul = FakeConsul(VMS)
    consul.set_stopped("a", True)
    agent = Agent(consul)
    assert looks(agent, 3) == [None] * 3
    assert agent.joined == []


def test_the_agent_is_asked_only_while_the_pulse_hears_that_it_knows_no_leader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rejoin_module, "LOOK_EVERY_S", 0.001)
    consul = FakeConsul(VMS)
    consul.quorum = False
    agent = Agent(consul)
    opened = threading.Event()
    rejoin = Rejoin(lambda: (opened.set(), agent)[1], lambda: ("b",))
    rejoin.start()
    assert opened.wait(10)
    rejoin.heard(leader_known=True)
    assert not agent.has_joined.wait(0.05)
    assert agent.asked == 0
    rejoin.heard(leader_known=False)
    assert agent.has_joined.wait(10)
    rejoin.stop()


def test_a_guard_whose_agent_knows_no_leader_has_it_join_the_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(rejoin_module, "LOOK_EVERY_S", 0.001)
    consul = FakeConsul(("backend-server",))
    consul.quorum = False
    agent = Agent(consul, vm="backend-server")
    monkeypatch.setattr(guard, "ConsulPort", lambda *arguments, **more: agent)
    (tmp_path / POLICY_FILE).write_text(POLICY.model_dump_json())
    settings = LocalSettings(
        vm="backend-server",
        amqp=AmqpSettings(hosts=("127.0.0.1",)),
        state_dir=tmp_path,
        health_ports=HealthPorts(guard=0),
    )
    stop = threading.Event()
    thread = threading.Thread(target=guard.Guard(settings, NoUnits).run, args=(stop,))
    thread.start()
    try:
        assert agent.has_joined.wait(10)
        assert agent.joined[0] == POLICY.vms["messaging-server"].address
    finally:
        stop.set()
        thread.join(10)


class NoUnits:
    """Stands for systemd, which says nothing."""

    def __init__(self, units: object, post: object) -> None:
        pass

    def start(self) -> None:
        """Begin."""

    def stop(self) -> None:
        """End."""
