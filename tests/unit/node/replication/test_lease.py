"""The lease: no write is taken for longer than it lasts after the role lock was last confirmed."""

from __future__ import annotations

import threading

import pytest

from orchestrator.domain import keys
from orchestrator.node.replication.lease import ASK_AGAIN, CLOSE_WITHIN_S, TIMEOUT, Confirmation, Lease, must_close
from orchestrator.node.replication.server import NotInTime, ServerAway
from orchestrator.node.systemd import SystemdAway
from orchestrator.store.port import KvPair, Unknown
from tests.fakes.fake_consul import FakeConsul, FakePort
from tests.unit.node.replication.told_server import ToldServer

SERVICE, LEASE_S = "database", 1.0
CLOSING = f"close_writes {CLOSE_WITHIN_S}"


@pytest.mark.parametrize(("now", "over"), [(10.0, False), (10.999, False), (11.0, True), (99.0, True), (9.0, True)])
def test_a_lease_is_over_when_its_time_has_passed_or_the_clock_went_back(now: float, over: bool) -> None:
    assert must_close(now, 10.0, LEASE_S) is over


class Primary:
    """A lease whose turns the test takes, the lock in a fake Consul, and a server that notes what it is told."""

    def __init__(self) -> None:
        self.consul = FakeConsul(["a", "b"])
        self.port: FakePort = self.consul.port("a")
        self.session = self.port.session_create("database on a", ())
        assert self.port.lock_acquire(keys.lock(SERVICE), b"{}", self.session)
        self.server = ToldServer()
        self.now = 100.0
        self.said: list[str] = []
        self.noted: list[Confirmation] = []
        self.kills = 0
        self.kill_trouble: Exception | None = None
        self.lease = Lease(
            SERVICE,
            LEASE_S,
            lambda: self.port,
            lambda: self.server,
            self._kill,
            self.said.append,
            lambda: self.now,
            self.noted.append,
        )

    def _kill(self) -> None:
        if self.kill_trouble:
            raise self.kill_trouble
        self.kills += 1

    def arm(self) -> None:
        self.lease.arm(self.session, 4, self.now)

    def turn(self) -> float | None:
        """Let the lock be confirmed, and the time be looked at."""
        self.lease.confirm(self.port)
        return self.lease.watch(self.server)


@pytest.fixture
def primary() -> Primary:
    return Primary()


def test_a_lease_that_is_not_armed_does_nothing(primary: Primary) -> None:
    assert primary.turn() is None
    assert (primary.server.told, primary.said) == ([], [])


def test_a_lock_that_is_confirmed_again_and_again_keeps_writes_open(primary: Primary) -> None:
    primary.arm()
    for _ in range(20):
        primary.now += 0.9
        assert primary.turn() == LEASE_S
    assert primary.server.told == []


def test_writes_are_closed_when_the_lock_cannot_be_confirmed_in_time(primary: Primary) -> None:
    primary.arm()
    primary.consul.quorum = False
    primary.now += 0.9
    assert primary.turn() == pytest.approx(0.1)
    assert primary.server.told == []
    primary.now += 0.1
    assert primary.turn() is None
    assert primary.server.told == [CLOSING]
    assert primary.said == ["the role lock was not confirmed for 1.0 s: writes were closed"]
    assert primary.lease.armed is None, "until it is armed again"


def test_a_confirmation_counts_from_when_it_was_asked_for(primary: Primary) -> None:
    primary.arm()
    primary.now += 0.5
    asked = primary.port.kv_get

    def slow(key: str, *, index: int = 0, wait_s: float = 0.0) -> tuple[int, KvPair | None]:
        primary.now += 0.4
        return asked(key, index=index, wait_s=wait_s)

    primary.port.kv_get = slow  # type: ignore[method-assign]
    assert primary.turn() == pytest.approx(LEASE_S - 0.4)


def test_one_question_that_is_lost_does_not_end_the_lease(primary: Primary) -> None:
    """Asked as the thread asks, and answered as slowly as the lease has time for."""
    primary.arm()
    asked, lost = primary.port.kv_get, iter([False, True] * 10)

    def slow(key: str, *, index: int = 0, wait_s: float = 0.0) -> tuple[int, KvPair | None]:
        primary.now += LEASE_S * (TIMEOUT if (is_lost := next(lost)) else ASK_AGAIN) - 0.001
        assert primary.lease.watch(primary.server) is not None
        if is_lost:
            raise Unknown("no answer in time")
        return asked(key, index=index, wait_s=wait_s)

    primary.port.kv_get = slow  # type: ignore[method-assign]
    for _ in range(20):
        rest_s = primary.lease.confirm(primary.port)
        primary.now += rest_s
    assert (primary.server.told, primary.said) == ([], [])


@pytest.mark.parametrize(("taken", "why"), [(True, "the role lock is another's"), (False, "the lock is free")])
def test_writes_are_closed_at_once_when_the_lock_is_no_longer_ours(primary: Primary, taken: bool, why: str) -> None:
    primary.arm()
    primary.port.session_destroy(primary.session)
    if taken:
        other = primary.consul.port("b")
        assert other.lock_acquire(keys.lock(SERVICE), b"{}", other.session_create("database on b", ()))
    primary.turn()
    assert primary.server.told == [CLOSING]
    assert primary.said == [f"{why}: writes were closed"]


@pytest.mark.parametrize("problem", [ServerAway("it hangs"), NotInTime("it hangs"), KeyError("a bug")])
def test_a_server_that_does_not_close_has_its_processes_killed(primary: Primary, problem: Exception) -> None:
    primary.server.trouble["close_writes"] = problem
    primary.arm()
    primary.consul.quorum = False
    primary.now += LEASE_S
    assert primary.turn() is None
    assert primary.kills == 1
    assert "its processes were killed" in primary.said[0]
    assert primary.lease.armed is None


def test_what_can_neither_be_closed_nor_killed_is_tried_again(primary: Primary) -> None:
    primary.server.trouble["close_writes"] = ServerAway("it hangs")
    primary.kill_trouble = SystemdAway("no D-Bus")
    primary.arm()
    primary.consul.quorum = False
    primary.now += LEASE_S
    assert primary.turn() == pytest.approx(0.1)
    assert primary.said == []
    primary.server.trouble.clear()
    assert primary.turn() is None
    assert primary.server.told == [CLOSING, CLOSING]


def test_a_lease_that_was_disarmed_closes_nothing(primary: Primary) -> None:
    primary.arm()
    primary.lease.disarm()
    primary.now += 10.0
    assert primary.turn() is None
    assert primary.server.told == []


def test_writes_are_opened_only_while_the_lease_of_that_session_lasts(primary: Primary) -> None:
    with pytest.raises(NotInTime):
        primary.lease.open_writes(primary.server, primary.session)
    primary.arm()
    with pytest.raises(NotInTime):
        primary.lease.open_writes(primary.server, "another session")
    primary.lease.open_writes(primary.server, primary.session)
    primary.now += LEASE_S
    with pytest.raises(NotInTime):
        primary.lease.open_writes(primary.server, primary.session)
    assert primary.server.told == ["open_writes"]


def test_the_threads_close_by_themselves() -> None:
    primary, closed = Primary(), threading.Event()
    lease = Lease(
        SERVICE, 0.05, lambda: primary.port, lambda: primary.server, primary._kill, lambda sentence: closed.set()
    )
    lease.start()
    primary.consul.quorum = False
    lease.arm(primary.session, 4, 0.0)
    assert closed.wait(10.0)
    lease.stop()
    assert primary.server.told == [CLOSING, "close"]


def test_each_question_for_the_lock_is_told_with_what_it_came_to(primary: Primary) -> None:
    primary.turn()
    assert primary.noted == [], "nothing is asked while it is not armed"
    primary.arm()
    primary.turn()
    primary.consul.quorum = False
    primary.turn()
    primary.consul.quorum = True
    primary.port.session_destroy(primary.session)
    primary.turn()
    assert primary.noted == [Confirmation.CONFIRMED, Confirmation.UNANSWERED, Confirmation.LOST]
