"""An agent that knows no leader is told to join the others, until one answers."""

from __future__ import annotations

from orchestrator.node.rejoin import Rejoin
from orchestrator.store.port import Unknown
from tests.fakes.fake_consul import FakeConsul, FakePort

VMS = ("a", "b", "c")


class Agent(FakePort):
    """Notes whom it was told to join; those who are away do not answer."""

    def __init__(self, cluster: FakeConsul, away: tuple[str, ...] = ()) -> None:
        super().__init__(cluster, "a")
        self.away = away
        self.joined: list[str] = []

    def agent_join(self, address: str) -> None:
        self.joined.append(address)
        if address in self.away:
            raise Unknown("nobody answers")


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
