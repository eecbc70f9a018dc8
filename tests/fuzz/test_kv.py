"""Whatever a key under orch/ holds: it is read or reported, what else is there is seen as before, no daemon ends."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.domain import keys
from orchestrator.domain.decision import Memory
from orchestrator.domain.records import Endpoint, HistoryEntry, Installed, Record, Told
from orchestrator.domain.view import Kept, Unreadable, View
from orchestrator.node.duty import duties
from orchestrator.node.knowledge import ASSIGNMENTS_FILE, FEEDS_OF_FRESHNESS, POLICY_FILE, Knowledge
from orchestrator.observe.parse import parse_policy, parse_view
from orchestrator.recorder import Inputs, inputs_of, line_of
from orchestrator.store.port import KvPair
from orchestrator.store.records import transaction_of
from orchestrator.worker_steps import ALIVE_CHECK, Seen, Worker
from tests.fakes.fake_consul import PASSING, FakeConsul
from tests.fakes.fake_plays import SENDERS, FakeMailbox, FakePlays
from tests.fuzz.fleet import (
    DOCUMENT,
    NOW,
    PENDING,
    POLICY,
    RECORDS,
    SWITCHES,
    VMS,
    checks_without,
    document_of,
    pairs_with,
)
from tests.fuzz.strange import bounded, documents, expect_sentence, nearly, values

KINDS: Mapping[str, Record] = {**RECORDS, **SWITCHES}
WORKER, GUARD = "messaging-server", "database-server"
WELL = Inputs(NOW, pairs_with(), checks_without(), POLICY, Memory())
_SCRATCH = tempfile.TemporaryDirectory()
STATE_DIR = Path(_SCRATCH.name)


def seen_in(view: View) -> dict[str, Record | Unreadable | None]:
    """Return what the view shows of each key."""
    shown: dict[str, Record | Unreadable | None] = {}
    for name, service in view.services.items():
        shown[keys.lock(name)] = service.lock.value if service.lock else None
        for key, found in (
            (keys.assignment(name), service.assignment),
            (keys.endpoints(name), service.endpoints),
            (keys.rotation(name), service.rotation),
            (keys.sync(name), service.sync),
            (keys.members(name), service.members),
        ):
            shown[key] = found.value if isinstance(found, Kept) else found
    shown[keys.RELEASE] = view.release.value if isinstance(view.release, Kept) else view.release
    shown |= {keys.request(kept.value.id): kept.value for kept in view.requests}
    shown |= {keys.command(kept.value.id): kept.value for kept in view.commands}
    return shown | {bad.key: bad for bad in view.unreadable}


def is_right(key: str, value: bytes) -> bool:
    """Say whether the value is a record of the key's kind, and this key's."""
    try:
        record = type(KINDS[key]).from_json(value)
    except ValueError:
        return False
    name = "id" if key.startswith((keys.REQUESTS, keys.COMMANDS)) else "service"
    return getattr(record, name, None) == getattr(KINDS[key], name, None)


@pytest.mark.parametrize("key", KINDS)
@bounded(12)
@given(data=st.data(), down=st.sampled_from(((), *((vm,) for vm in VMS))))
def test_a_record_is_read_or_reported_and_decided_on(key: str, data: st.DataObject, down: tuple[str, ...]) -> None:
    value = data.draw(values(document_of(KINDS[key])))
    checks = checks_without(*down)
    well = Inputs(NOW, pairs_with(), checks, POLICY, Memory())
    inputs = Inputs(NOW + 1, pairs_with(key, value), checks, POLICY, well.decided().memory)
    before, now = seen_in(well.view()), seen_in(inputs.view())
    assert {each: what for each, what in now.items() if each != key} == {
        each: what for each, what in before.items() if each != key
    }
    found = now.get(key)
    if isinstance(found, Unreadable):
        expect_sentence(found.problem)
    assert isinstance(found, Unreadable) is not is_right(key, value), found
    outcome = inputs.decided()
    assert outcome.sentence
    for decision in outcome.decisions:
        transaction_of(decision, "session")
    replayed, recorded = inputs_of(line_of(inputs, outcome))
    assert replayed.decided().sentence == outcome.sentence == recorded["sentence"]


@bounded(60)
@given(
    key=st.sampled_from(
        [
            keys.rotate("backend"),
            keys.rotate("nobody"),
            keys.rotate("back\nend"),
            keys.SERVICES,
            keys.REQUESTS,
            "orch/x",
        ]
    ),
    value=st.binary(max_size=20) | documents().map(repr).map(lambda text: text.encode("utf-8", "replace")),
)
def test_a_key_that_is_no_record_may_hold_anything(key: str, value: bytes) -> None:
    inputs = Inputs(NOW, pairs_with(key, value), checks_without(), POLICY, Memory())
    outcome = inputs.decided()
    assert outcome.sentence
    for decision in outcome.decisions:
        transaction_of(decision, "session")


@bounded(80)
@given(value=values(DOCUMENT))
def test_the_policy_is_read_or_reported_and_the_guard_reads_what_the_controllers_read(value: bytes) -> None:
    pair = KvPair(keys.CONFIG, value, 7)
    found = parse_policy(pair)
    guard = Knowledge(GUARD, STATE_DIR / "none")
    guard.take_policy(pair)
    if isinstance(found, Unreadable):
        expect_sentence(found.problem)
        assert guard.policy is None
    else:
        assert found is not None
        assert guard.policy == found.value


@bounded(60)
@given(data=st.data())
def test_a_worker_goes_on_with_the_other_commands(data: st.DataObject) -> None:
    others = [key for key in KINDS if key not in (keys.command(PENDING), keys.assignment("frontend"))]
    key = data.draw(st.sampled_from(others))
    consul = FakeConsul([WORKER])
    consul.set_check(WORKER, ALIVE_CHECK, PASSING)
    port = consul.port(WORKER)
    for pair in pairs_with(key, data.draw(values(document_of(KINDS[key])))):
        port.kv_put(pair.key, pair.value)
    plays, mailbox = FakePlays(), FakeMailbox()
    worker = Worker(port, plays, mailbox, WORKER, SENDERS, lambda: NOW + consul.now)
    for _ in range(3):
        worker.cycle(Seen(consul.peek_list(keys.ROOT), (), True), consul.now)
        consul.now += 1
    assert PENDING in plays.running


@bounded(60)
@given(data=st.data())
def test_a_guard_goes_on_with_the_other_services(data: st.DataObject) -> None:
    key = data.draw(st.sampled_from([key for key in KINDS if key.startswith(keys.SERVICES)]))
    guard = Knowledge("backend-server", STATE_DIR)
    guard.policy = POLICY
    guard.troubled.clear()
    guard.kv.offer(1, pairs_with())
    well = {each.service: each for each in guard.view().situations}
    guard.kv.offer(2, pairs_with(key, data.draw(values(document_of(KINDS[key])))))
    view = guard.view()
    for each in view.situations:
        if each.service != key.removeprefix(keys.SERVICES).split("/")[0]:
            assert each == well[each.service]
        # An assignment that cannot be read is no absent one.
        assert each.assignment is not None
    duties(view, MappingProxyType({}), 100.0)


@bounded(60)
@given(policy=values(DOCUMENT), assignments=values({"backend": document_of(RECORDS[keys.assignment("backend")])}))
def test_a_guard_begins_with_whatever_it_finds_on_its_disk(policy: bytes, assignments: bytes) -> None:
    (STATE_DIR / POLICY_FILE).write_bytes(policy)
    (STATE_DIR / ASSIGNMENTS_FILE).write_bytes(assignments)
    guard = Knowledge("backend-server", STATE_DIR)
    guard.troubled = dict.fromkeys(FEEDS_OF_FRESHNESS, "not read yet")
    duties(guard.view(), MappingProxyType({}), 100.0)


@bounded(60)
@given(line=nearly(json.loads(line_of(WELL, WELL.decided()))))
def test_a_line_of_the_recorder_is_replayed_or_refused(line: bytes) -> None:
    try:
        inputs, _ = inputs_of(line)
    except ValueError as refused:
        expect_sentence(str(refused))
    else:
        assert inputs.decided().sentence


def test_there_is_a_record_of_every_kind() -> None:
    # An endpoint is a part of a record; nothing is decided of the history, of who was told of it, of what workers have.
    apart = {Endpoint, HistoryEntry, Installed, Told}
    assert {type(record) for record in KINDS.values()} == set(Record.__subclasses__()) - apart
    view = parse_view(pairs_with(), checks_without(), POLICY)
    assert not any(isinstance(what, Unreadable) for what in seen_in(view).values())
