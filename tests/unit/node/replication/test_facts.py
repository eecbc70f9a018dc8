"""What the errors of a database server mean."""

from __future__ import annotations

import pytest

from orchestrator.node.replication.facts import Replica


def replica(errno: int, error: str = "") -> Replica:
    return Replica("10.0.0.1", False, True, True, True, None, errno, error)


def test_only_a_copy_that_can_never_follow_needs_a_clone() -> None:
    assert replica(1236, "connecting slave requested to start from GTID 0-1-37, which is not in the ...").needs_clone
    assert replica(1950).needs_clone
    assert replica(1062).needs_clone
    assert not replica(1236, "log event entry exceeded max_allowed_packet").needs_clone
    assert not replica(1045).needs_clone
    assert not replica(0).needs_clone


@pytest.mark.parametrize(
    ("errno", "said"),
    [
        (1045, "is refused there, because of its account or password: X"),
        (1594, "cannot read what it has received, which is fetched again: X"),
        (1950, "can never follow it again and must be replaced: X"),
        (1114, "has stopped: X"),
    ],
)
def test_each_error_of_a_copy_has_its_sentence(errno: int, said: str) -> None:
    assert replica(errno, "X").trouble == said
    assert replica(0).trouble == ""


def test_a_relay_log_that_cannot_be_read_is_no_reason_for_a_clone() -> None:
    assert (replica(1594).relay_log_corrupt, replica(1594).needs_clone) == (True, False)
