"""A feed reads on whatever happens, and the newest reading wins."""

from __future__ import annotations

import queue
from typing import cast

from orchestrator.node.feed import Feed, Newest, Reading
from orchestrator.store.port import Port, Unknown


def no_leader() -> Port:
    raise AssertionError("nothing is asked of the leader")


def take(answers: list[int | None], feed: Feed[str]) -> int:
    """Return the next index that Consul answers with, None: it does not answer; after the last the feed is stopped."""
    if not answers:
        feed.stop()
        return 0
    answer = answers.pop(0)
    if answer is None:
        raise Unknown("no cluster leader")
    return answer


def test_an_older_reading_changes_nothing_unless_consul_was_restored() -> None:
    newest: Newest[str] = Newest()
    assert newest.offer(5, "five")
    assert not newest.offer(4, "four")
    assert newest.value == "five"
    assert not newest.offer(6, "five")
    assert newest.offer(2, "two", restarted=True)
    assert (newest.index, newest.value) == (2, "two")


def test_after_an_error_it_starts_over_without_an_index() -> None:
    asked: list[int] = []
    answers: list[int | None] = [7, None, 8, 3, 3]
    posted: queue.SimpleQueue[Reading[str]] = queue.SimpleQueue()

    def read(_: Port, index: int, __: float) -> tuple[int, str]:
        asked.append(index)
        answer = take(answers, feed)
        return answer, f"at {answer}"

    feed: Feed[str] = Feed("kv", lambda: cast("Port", None), read, posted.put, wait_s=1.0, open_leader=no_leader)
    feed.start()
    found = [posted.get(timeout=5) for _ in range(5)]
    assert [each.problem or each.value for each in found] == ["at 7", "no cluster leader", "at 8", "at 3", "at 3"]
    assert [each.restarted for each in found] == [False, False, False, True, False]
    assert asked[:5] == [0, 7, 0, 8, 0]


def test_after_an_error_a_lower_index_counts_where_the_leader_says_so_too() -> None:
    """First an agent was only behind, then Consul was restored."""
    answers: dict[str, list[int | None]] = {"copy": [7, None, 3, 9, None, 4, 5], "leader": [8, 4]}
    posted: queue.SimpleQueue[Reading[str]] = queue.SimpleQueue()

    def read(port: Port, index: int, __: float) -> tuple[int, str]:
        answer = take(answers[str(port)], feed)
        return answer, f"{answer} from the {port}"

    feed: Feed[str] = Feed(
        "kv",
        lambda: cast("Port", "copy"),
        read,
        posted.put,
        wait_s=1.0,
        open_leader=lambda: cast("Port", "leader"),
    )
    feed.start()
    found = [posted.get(timeout=5) for _ in range(7)]
    told = [each.problem or (each.value, each.restarted) for each in found]
    assert told == [
        ("7 from the copy", False),
        "no cluster leader",
        ("8 from the leader", False),
        ("9 from the copy", False),
        "no cluster leader",
        ("4 from the leader", True),
        ("5 from the copy", False),
    ]
