"""An agent is restarted by whoever does not lead: the leadership is handed over before."""

from __future__ import annotations

import itertools

from tests.library import module

restart = module("orch_consul_restart")


class Server:
    """One of Consul's servers, and what was done to it. `committed` is what it says at one look after the other."""

    def __init__(self, *, leads: bool, committed: tuple[int, ...] = (7,), answers: bool = True) -> None:
        self._leads, self._answers = leads, answers
        self._committed = itertools.chain(committed, itertools.repeat(committed[-1]))
        self.done: list[str] = []

    def leads(self) -> bool:
        if not self._answers:
            raise restart.NoAnswer("connection refused")
        return self._leads

    def committed(self) -> int:
        if not self._answers:
            raise restart.NoAnswer("connection refused")
        return next(self._committed)

    def knows_a_leader(self) -> bool:
        return True

    def hand_over(self) -> None:
        self.done.append("hand over")
        self._leads = False

    def restart(self) -> None:
        self.done.append("restart")
        self._answers = True


def test_the_one_that_leads_hands_over_and_another_one_does_not() -> None:
    leader, follower = Server(leads=True), Server(leads=False)
    assert (restart.hand_over(leader), leader.done) == ((True, ""), ["hand over"])
    assert (restart.hand_over(follower), follower.done) == ((False, ""), [])


def test_who_cannot_hand_over_says_why() -> None:
    done, why = restart.hand_over(Server(leads=True, answers=False))
    assert not done
    assert why == "the agent did not hand the leadership over: connection refused"


def test_it_is_back_when_it_knows_all_that_had_been_committed() -> None:
    server = Server(leads=False, committed=(9, 0, 8, 9))
    assert restart.restarted(server, server.restart, wait_s=5)
    assert server.done == ["restart"]
    assert not restart.restarted(server := Server(leads=False, committed=(9, 0)), server.restart, wait_s=0)


def test_one_that_does_not_answer_is_restarted_too() -> None:
    server = Server(leads=False, committed=(0, 1), answers=False)
    assert restart.restarted(server, server.restart, wait_s=5)
