"""What is finished is kept for a while; what is open or broken is never deleted."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.domain import keys
from orchestrator.domain.records import (
    Command,
    CommandState,
    HistoryEntry,
    MoveKind,
    Play,
    Request,
    RequestKind,
    RequestState,
)
from orchestrator.store.port import CasPut, KvPair
from orchestrator.store.retention import surplus_history, surplus_requests, trim_finished
from tests.fakes.fake_consul import FakeConsul


def request_pair(number: int, state: RequestState) -> KvPair:
    """Return a request of this age."""
    request_id = f"{number:013d}-backend"
    request = Request(
        id=request_id, kind=RequestKind.FAILOVER, service="backend", state=state, created=number, updated=number
    )
    return KvPair(keys.request(request_id), request.to_json().encode(), number + 1)


def command_pair(number: int, request_number: int, state: CommandState) -> KvPair:
    """Return a command of that request."""
    command_id = f"{number:013d}-backend-activate"
    command = Command(
        id=command_id,
        request_id=f"{request_number:013d}-backend",
        service="backend",
        kind=MoveKind.FAILOVER,
        play=Play.ACTIVATE,
        playbook="activate_backend.yml",
        target="vm-1",
        epoch=1,
        state=state,
        created=number,
    )
    return KvPair(keys.command(command_id), command.to_json().encode(), number + 1)


def test_the_oldest_history_entries_go_first() -> None:
    pairs = [KvPair(keys.history(f"{n:013d}"), b"whatever", n) for n in (3, 1, 2)]
    assert [delete.key for delete in surplus_history(pairs, 2)] == [keys.history("0000000000001")]
    assert surplus_history(pairs, 3) == ()


def test_a_finished_request_goes_with_its_commands_and_an_open_one_stays_however_old() -> None:
    requests = [
        request_pair(1, RequestState.RUNNING),
        request_pair(2, RequestState.SUCCEEDED),
        request_pair(3, RequestState.REFUSED),
    ]
    commands = [command_pair(n, n, CommandState.SUCCEEDED) for n in (1, 2, 3)]
    gone = [delete.key for delete in surplus_requests(requests, commands, 1)]
    assert gone == [commands[1].key, requests[1].key]


def test_a_finished_command_whose_request_is_gone_goes_and_an_open_one_stays() -> None:
    commands = [command_pair(1, 9, CommandState.FAILED), command_pair(2, 9, CommandState.RUNNING)]
    assert [delete.key for delete in surplus_requests([], commands, 1)] == [commands[0].key]


def test_what_cannot_be_read_is_never_deleted() -> None:
    broken = [KvPair(keys.request("1"), b"{", 1)]
    broken_commands = [KvPair(keys.command("1"), b"{", 1)]
    assert surplus_requests(broken, broken_commands, 0) == ()


@given(
    st.lists(st.tuples(st.integers(0, 30), st.sampled_from(list(RequestState))), unique_by=lambda one: one[0]),
    st.lists(
        st.tuples(st.integers(0, 30), st.integers(0, 30), st.sampled_from(list(CommandState))),
        unique_by=lambda one: one[0],
    ),
    st.integers(1, 5),
)
def test_exactly_the_newest_finished_are_left_and_no_command_loses_its_request(
    requests: list[tuple[int, RequestState]], commands: list[tuple[int, int, CommandState]], keep: int
) -> None:
    request_pairs = [request_pair(*one) for one in requests]
    gone = {delete.key for delete in surplus_requests(request_pairs, [command_pair(*one) for one in commands], keep)}
    finished = sorted(n for n, state in requests if state not in (RequestState.PENDING, RequestState.RUNNING))
    left = {n for n, _ in requests if request_pair(n, RequestState.PENDING).key not in gone}
    assert left == {n for n, _ in requests} - set(finished[:-keep] if len(finished) > keep else [])
    for number, of_request, state in commands:
        is_open = state in (CommandState.PENDING, CommandState.RUNNING)
        assert (command_pair(number, of_request, state).key in gone) == (not is_open and of_request not in left)


def test_what_a_sink_was_told_goes_with_the_sink() -> None:
    port = FakeConsul(["vm-1"]).port("vm-1")
    for sink in ("chat", "mail"):
        port.kv_put(keys.notified(sink), b"{}")
    session = port.session_create("orch-controller@vm-1", ())
    port.lock_acquire(keys.LEADER, b"", session)
    assert trim_finished(port, session, 10) == 0
    assert trim_finished(port, session, 10, frozenset({"mail"})) == 1
    assert port.kv_keys(keys.NOTIFIED) == (keys.notified("mail"),)


def test_trimming_leaves_the_newest_and_needs_the_lead() -> None:
    cluster = FakeConsul(["vm-1"])
    port = cluster.port("vm-1")
    for n in range(150):
        entry = HistoryEntry(id=f"{n:013d}", at=n, kind="note", reason="x")
        port.txn((CasPut(keys.history(entry.id), entry.to_json().encode(), 0),))
    session = port.session_create("orch-controller@vm-1", ())
    assert trim_finished(port, session, 10) == 0
    port.lock_acquire(keys.LEADER, b"", session)
    assert trim_finished(port, session, 10) == 140
    assert [key[-3:] for key in port.kv_keys(keys.HISTORY)] == [f"{n}" for n in range(140, 150)]
    assert trim_finished(port, session, 10) == 0
