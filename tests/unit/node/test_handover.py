"""The text of the rules that forward. What the kernel makes of it: tests/integration/test_handover.py."""

from __future__ import annotations

from ipaddress import AddressValueError, IPv4Address

import pytest

from orchestrator.node.duties import Forwarding
from orchestrator.node.handover import Forwarder, forwarding_rules, no_rules

VIP, PREVIOUS = IPv4Address("10.0.0.100"), IPv4Address("10.0.8.49")


def test_the_rules_are_one_table_of_their_own_that_takes_the_place_of_an_older_one() -> None:
    assert (
        forwarding_rules(VIP, PREVIOUS, 1.9996)
        == """\
add table ip orch_handover_10_0_0_100
delete table ip orch_handover_10_0_0_100
table ip orch_handover_10_0_0_100 {
    set moved { type ipv4_addr; flags timeout; elements = { 10.0.0.100 timeout 2000ms } }
    chain arriving {
        type filter hook prerouting priority -150; policy accept;
        ip daddr @moved tcp flags & syn == 0 socket wildcard 1 dup to 10.0.8.49 drop
    }
}
"""
    )


def test_a_time_that_is_almost_over_is_no_time_without_end() -> None:
    assert "timeout 1ms" in forwarding_rules(VIP, PREVIOUS, 0.0001)


def test_removing_them_needs_no_knowledge_whether_they_are_there() -> None:
    table = "orch_handover_10_0_0_100"
    assert no_rules(VIP) == f"add table ip {table}\ndelete table ip {table}\n"


def test_where_they_cannot_be_made_one_line_says_so_and_the_move_goes_on(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    Forwarder("10.0.0.100").begin(Forwarding("10.0.8.49", 1.0))
    (record,) = caplog.records
    assert "are reset, not forwarded" in record.message
    assert "nft" in record.message


@pytest.mark.parametrize("no_address", ["", "backend-server", "10.0.0.1; flush ruleset", "fe80::1"])
def test_what_is_no_address_never_reaches_the_rules(no_address: str, caplog: pytest.LogCaptureFixture) -> None:
    Forwarder("10.0.0.100").begin(Forwarding(no_address, 1.0))
    assert "are reset, not forwarded" in caplog.text
    with pytest.raises(AddressValueError):
        Forwarder(no_address)
