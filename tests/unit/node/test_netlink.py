"""The kernel's answers about addresses; changing them: tests/integration/test_guard_address.py."""

from __future__ import annotations

import pytest

from orchestrator.node.netlink import add_address, interfaces_with


def test_the_loopback_address_is_found() -> None:
    assert ("lo", 8) in interfaces_with("127.0.0.1")


def test_an_address_that_nobody_has_is_nowhere() -> None:
    assert interfaces_with("192.0.2.77") == ()


def test_an_interface_that_is_not_there_is_an_error() -> None:
    with pytest.raises(OSError, match="no interface"):
        add_address("192.0.2.77", 32, "no-such-one")
