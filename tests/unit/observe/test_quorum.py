"""When gossip may be old: after a loss of quorum that no election explains."""

from __future__ import annotations

from orchestrator.observe.quorum import LONG_LOSS_S, QuorumWatch


def _after(*looks: tuple[float, bool]) -> float | None:
    """Return since when there is a quorum again, after looks at these times; in seconds from the first."""
    watch = QuorumWatch()
    for at, known in looks:
        watch.note(known=known, monotonic=at)
    return None if watch.since is None else round(watch.since, 3)


def test_an_election_is_no_loss() -> None:
    assert _after((0, True), (1, False), (1 + LONG_LOSS_S - 0.1, False), (1 + LONG_LOSS_S - 0.1, True)) is None


def test_a_long_loss_counts_from_its_end() -> None:
    assert _after((0, True), (1, False), (4, False), (1 + LONG_LOSS_S, True), (30, True)) == 1 + LONG_LOSS_S


def test_two_short_losses_are_not_one_long_one() -> None:
    assert _after((0, False), (3, True), (4, False), (7, True)) is None


def test_a_daemon_that_starts_without_a_quorum_counts_from_its_start() -> None:
    assert _after((0, False), (LONG_LOSS_S, True)) == LONG_LOSS_S
