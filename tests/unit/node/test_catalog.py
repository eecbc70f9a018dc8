"""After a trouble the agent sends its checks anew where the catalog has lost them; against a Consul in memory."""

from __future__ import annotations

from orchestrator.domain import keys
from orchestrator.node.catalog import COMPARE_AFTER_S, COMPARE_EVERY_S, CatalogComparison
from tests.fakes.fake_consul import FakeConsul, FakePort

VM, OTHER = "backend-server", "messaging-server"
OWN = keys.daemon_check_id("guard")


class CountingPort(FakePort):
    """Notes how often the agent was told to send what it has not sent, and with which token to compare."""

    synced = 0
    default_token: str | None = None

    def agent_compare(self, default_token: str) -> None:
        super().agent_compare(default_token)
        self.default_token = default_token

    def agent_sync(self, service_id: str) -> None:
        super().agent_sync(service_id)
        assert service_id == "orch-guard"
        self.synced += 1


class Fleet:
    """A VM whose agent runs the guard's check, and another."""

    def __init__(self) -> None:
        self.consul = FakeConsul([VM, OTHER], now=100.0)
        for vm in (VM, OTHER):
            self.consul.set_check(vm, OWN, "passing")
        self.port = CountingPort(self.consul, VM)
        self.comparison = CatalogComparison(VM, self.port, lambda: self.consul.now, lambda: "of whoever has none")

    def is_known(self) -> bool:
        checks = self.consul.port(OTHER).checks()[1]
        return (VM, OWN) in {(check.node, check.check_id) for check in checks}

    def strike_off(self) -> None:
        self.consul.remove_node(VM)
        assert not self.is_known()

    def passes(self, seconds: float) -> None:
        self.consul.now += seconds
        self.comparison.run()


def test_checks_that_the_catalog_lost_are_sent_anew_shortly_after_the_trouble() -> None:
    fleet = Fleet()
    fleet.comparison.trouble_ended()
    fleet.strike_off()
    fleet.passes(COMPARE_AFTER_S[0] - 0.1)
    assert not fleet.is_known(), "the agent may do it by itself at once"
    fleet.passes(0.1)
    assert fleet.is_known()
    assert fleet.port.default_token == "of whoever has none", "the agent's own stays in force"


def test_a_vm_that_is_struck_off_once_more_while_it_returns_is_seen_too() -> None:
    fleet = Fleet()
    fleet.comparison.trouble_ended()
    for before_s, after_s in zip((0.0, *COMPARE_AFTER_S), COMPARE_AFTER_S, strict=False):
        fleet.strike_off()
        fleet.passes(after_s - before_s)
        assert fleet.is_known()


def test_without_a_trouble_it_is_compared_all_the_same_twice_a_minute() -> None:
    fleet = Fleet()
    fleet.strike_off()
    fleet.passes(COMPARE_EVERY_S - 1)
    assert not fleet.is_known()
    fleet.passes(1)
    assert fleet.is_known()


def test_a_vm_that_is_struck_off_long_after_a_trouble_is_known_again_within_half_a_minute() -> None:
    fleet = Fleet()
    fleet.comparison.trouble_ended()
    for _ in COMPARE_AFTER_S:
        fleet.passes(COMPARE_AFTER_S[-1])
    fleet.strike_off()
    fleet.passes(COMPARE_EVERY_S)
    assert fleet.is_known()


def test_a_single_check_that_the_catalog_lost_is_sent_anew_though_the_guards_own_is_known() -> None:
    fleet = Fleet()
    lost = keys.daemon_check_id("controller")
    fleet.consul.set_check(VM, lost, "passing")
    fleet.consul.lose_check(VM, lost)
    fleet.comparison.trouble_ended()
    fleet.passes(COMPARE_AFTER_S[0])
    assert (VM, lost) in {(check.node, check.check_id) for check in fleet.port.checks()[1]}


def status_known_of(fleet: Fleet) -> str:
    return next(check.status for check in fleet.port.checks()[1] if (check.node, check.check_id) == (VM, OWN))


def test_a_check_that_the_catalog_has_with_another_status_for_a_while_is_sent_anew() -> None:
    fleet = Fleet()
    fleet.comparison.trouble_ended()
    fleet.consul.mistake_check(VM, OWN, "critical")
    fleet.passes(COMPARE_AFTER_S[0])
    assert status_known_of(fleet) == "critical", "what has just changed is on its way"
    fleet.passes(COMPARE_AFTER_S[1] - COMPARE_AFTER_S[0])
    assert status_known_of(fleet) == "passing"


def test_without_a_trouble_another_status_is_looked_at_once_more_soon() -> None:
    fleet = Fleet()
    fleet.consul.mistake_check(VM, OWN, "critical")
    fleet.passes(COMPARE_EVERY_S)
    fleet.passes(COMPARE_AFTER_S[0])
    assert status_known_of(fleet) == "passing"


def test_what_arrives_by_itself_is_not_sent_anew() -> None:
    fleet = Fleet()
    fleet.comparison.trouble_ended()
    for status, after_s in (("critical", COMPARE_AFTER_S[0]), ("passing", 0.5), ("critical", 0.5), ("passing", 0.5)):
        fleet.consul.mistake_check(VM, OWN, status)
        fleet.passes(after_s)
    assert fleet.port.default_token is None


def test_while_consul_cannot_be_asked_the_next_time_will_do() -> None:
    fleet = Fleet()
    fleet.comparison.trouble_ended()
    fleet.consul.set_cut(VM, True)
    fleet.passes(COMPARE_AFTER_S[0])
    fleet.consul.set_cut(VM, False)
    fleet.strike_off()
    fleet.passes(COMPARE_AFTER_S[1] - COMPARE_AFTER_S[0])
    assert fleet.is_known()


def test_an_agent_whose_checks_the_catalog_knows_is_left_alone() -> None:
    fleet = Fleet()
    fleet.comparison.trouble_ended()
    index = fleet.consul.index
    for _ in COMPARE_AFTER_S:
        fleet.passes(COMPARE_AFTER_S[-1])
    assert fleet.consul.index == index


def test_an_agent_is_told_to_send_what_its_probes_found_again_and_again_after_a_start() -> None:
    fleet = Fleet()
    for _ in COMPARE_AFTER_S:
        fleet.passes(COMPARE_AFTER_S[-1])
    assert fleet.port.synced == 0
    fleet.comparison.trouble_ended()
    for _ in COMPARE_AFTER_S:
        fleet.passes(COMPARE_AFTER_S[-1])
    assert fleet.port.synced == len(COMPARE_AFTER_S)
