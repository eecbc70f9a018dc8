"""What a worker does, given what it knows."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.domain import keys
from orchestrator.domain.records import CommandState, Play
from orchestrator.domain.view import Kept, Unreadable
from orchestrator.execute.choice import Ack, Ask, Choice, Claim, Close, Mine, Reject, Rules, Situation, Stop, choose
from tests.unit.execute.build import BACKEND_KEY, NOW, OURS, THEIRS, a_command, a_situation, an_assignment, running

ONE = a_command(1).id


def actions_of(choice: Choice) -> list[str]:
    """The actions in short."""
    short = []
    for action in choice.actions:
        if isinstance(action, Ask):
            short.append(f"ask {action.key}")
        elif isinstance(action, Claim):
            short.append(f"claim {action.command.value.id} {action.attempt}")
        elif isinstance(action, Close):
            short.append(f"close {action.command.value.id} {action.state.value}")
        elif isinstance(action, Stop):
            short.append(f"stop {action.command_id} {action.state.value if action.state else 'unwritten'}")
        elif isinstance(action, Ack):
            short.append(f"ack {action.command_id}")
        elif isinstance(action, Reject):
            short.append(f"refuse {action.command_id}")
    return short


pending = Kept(a_command(1), 10)
FRESH = (keys.command(ONE), BACKEND_KEY)
TABLE: dict[str, tuple[Situation, list[str]]] = {
    "a pending command whose message came is claimed at once": (
        a_situation(pending, delivered=(ONE,)),
        [f"claim {ONE} 1"],
    ),
    "a pending command without a message waits": (a_situation(pending), []),
    "a pending command without a message is picked up from KV after a while": (
        a_situation(pending, pending_since={ONE: NOW - 1.0}),
        [f"claim {ONE} 1"],
    ),
    "a message for a command that is not known yet has it read": (
        a_situation(delivered=(ONE,)),
        [f"ask {keys.command(ONE)}"],
    ),
    "a message for a command that does not exist is refused": (
        a_situation(delivered=(ONE,), asked=(keys.command(ONE),)),
        [f"refuse {ONE}"],
    ),
    "a message for a command that cannot be read is refused": (
        replace(a_situation(delivered=(ONE,)), commands={ONE: Unreadable(keys.command(ONE), 10, "no JSON")}),
        [f"refuse {ONE}"],
    ),
    "a message for a finished command is acknowledged": (
        a_situation(Kept(a_command(1, state=CommandState.SUCCEEDED), 10), delivered=(ONE,)),
        [f"ack {ONE}"],
    ),
    "a message for a command that another worker runs is held": (
        a_situation(Kept(running(1), 10, THEIRS), delivered=(ONE,)),
        [],
    ),
    "without a session nothing is claimed": (a_situation(pending, delivered=(ONE,), session=None), []),
    "a command of an older epoch is superseded": (
        a_situation(pending, assignment=Kept(an_assignment(8), 9), delivered=(ONE,)),
        [f"close {ONE} superseded"],
    ),
    "a command of a newer epoch has the assignment read first": (
        a_situation(pending, assignment=Kept(an_assignment(6), 4), delivered=(ONE,)),
        [f"ask {BACKEND_KEY}"],
    ),
    "a command of an epoch that the assignment does not have is superseded": (
        a_situation(pending, assignment=Kept(an_assignment(6), 4), delivered=(ONE,), asked=FRESH),
        [f"close {ONE} superseded"],
    ),
    "a command whose assignment is gone is superseded": (
        a_situation(pending, assignment=None, delivered=(ONE,), asked=FRESH),
        [f"close {ONE} superseded"],
    ),
    "a command whose assignment cannot be read waits": (
        a_situation(pending, assignment=Unreadable(BACKEND_KEY, 4, "no JSON"), delivered=(ONE,), asked=FRESH),
        [],
    ),
    "a command that was cancelled before it began is closed": (
        a_situation(Kept(a_command(1, cancel_requested=True), 10)),
        [f"close {ONE} cancelled"],
    ),
    "a command whose worker went away is taken over at once": (
        a_situation(Kept(running(1, attempt=1), 10)),
        [f"claim {ONE} 2"],
    ),
    "a command that three workers began is given up": (
        a_situation(Kept(running(1, attempt=3), 10)),
        [f"close {ONE} failed"],
    ),
    "a claim of ours whose answer was lost goes on as the same attempt": (
        a_situation(Kept(running(1, attempt=2), 10, OURS)),
        [f"claim {ONE} 2"],
    ),
    "a claim that was lost is not tried again at once": (
        a_situation(pending, delivered=(ONE,), not_before={ONE: NOW + 0.2}),
        [],
    ),
    "only as many plays run as there are slots, what starts a service first": (
        a_situation(
            Kept(a_command(1, play=Play.DEACTIVATE, target="backend-server"), 10),
            Kept(a_command(2), 11),
            delivered=(a_command(1).id, a_command(2).id),
            rules=Rules(parallel_plays=1),
        ),
        [f"claim {a_command(2).id} 1"],
    ),
    "two plays of one service on one VM do not run at once": (
        a_situation(pending, Kept(running(2), 11, THEIRS), delivered=(ONE,)),
        [],
    ),
    "our play goes on while all is well": (
        a_situation(Kept(running(1), 10, OURS), plays={ONE: Mine(OURS)}, delivered=(ONE,)),
        [],
    ),
    "our play is stopped when its epoch is superseded": (
        a_situation(Kept(running(1), 10, OURS), plays={ONE: Mine(OURS)}, assignment=Kept(an_assignment(8), 12)),
        [f"stop {ONE} superseded"],
    ),
    "our play whose record was overwritten is stopped when its epoch is superseded": (
        replace(
            a_situation(plays={ONE: Mine(OURS, command=running(1))}, assignment=Kept(an_assignment(8), 12)),
            commands={ONE: Unreadable(keys.command(ONE), 12, "garbage", OURS)},
        ),
        [f"stop {ONE} superseded"],
    ),
    "our play is stopped when it is cancelled": (
        a_situation(Kept(running(1, cancel_requested=True), 10, OURS), plays={ONE: Mine(OURS)}),
        [f"stop {ONE} cancelled"],
    ),
    "our play is stopped when the lock is lost": (
        a_situation(Kept(running(1), 10, None), plays={ONE: Mine(OURS)}),
        [f"stop {ONE} unwritten"],
    ),
    "our play is stopped when the session is lost": (
        a_situation(Kept(running(1), 10, OURS), plays={ONE: Mine(OURS)}, session=None),
        [f"stop {ONE} unwritten"],
    ),
    "our play is stopped when the session is another": (
        a_situation(Kept(running(1), 10, OURS), plays={ONE: Mine("session-before")}),
        [f"stop {ONE} unwritten"],
    ),
    "our play whose record is not to be seen has it read before anything else": (
        a_situation(plays={ONE: Mine(OURS)}),
        [f"ask {keys.command(ONE)}"],
    ),
    "our play whose record was deleted is stopped": (
        a_situation(plays={ONE: Mine(OURS)}, asked=(keys.command(ONE),)),
        [f"stop {ONE} unwritten"],
    ),
    "a play that is ending is left alone": (
        a_situation(Kept(running(1), 10, None), plays={ONE: Mine(OURS, ending=True)}, delivered=(ONE,)),
        [],
    ),
}


@pytest.mark.parametrize("sentence", TABLE)
def test_choice(sentence: str) -> None:
    situation, expected = TABLE[sentence]
    choice = choose(situation)
    assert actions_of(choice) == expected
    assert choice.sentence


def test_a_command_that_waits_for_its_message_says_when_to_look_again() -> None:
    assert choose(a_situation(pending, pending_since={ONE: NOW - 0.4})).wake_at == pytest.approx(NOW + 0.6)


def test_the_sentence_of_a_take_over_names_the_worker_that_went_away() -> None:
    sentence = choose(a_situation(Kept(running(1, worker="messaging-server"), 10))).sentence
    assert sentence == (
        f"Command {ONE} (activate backend on messaging-server) is taken over from the worker on messaging-server, "
        "attempt 2."
    )


def a_random_situation(seed: int) -> Situation:
    """Some commands in any state, some of them in hand, some announced by a message."""
    dice = Random(seed)
    kept = [
        Kept(
            a_command(
                number,
                state=dice.choice(list(CommandState)),
                epoch=dice.randint(1, 3),
                attempt=dice.randint(0, 4),
                cancel_requested=dice.random() < 0.2,
                play=dice.choice(list(Play)),
                target=dice.choice(["backend-server", "messaging-server"]),
            ),
            dice.randint(1, 50),
            dice.choice([None, None, OURS, THEIRS]),
        )
        for number in range(dice.randint(0, 6))
    ]
    ids = [each.value.id for each in kept] + ["0000000000009-backend-unknown"]
    assignments = [None, Unreadable(BACKEND_KEY, 5, "no JSON"), *(Kept(an_assignment(epoch), 5) for epoch in (1, 2, 3))]
    asked = [BACKEND_KEY, *(keys.command(command_id) for command_id in ids)]
    return a_situation(
        *kept,
        assignment=dice.choice(assignments),
        asked=tuple(key for key in asked if dice.random() < 0.5),
        plays={
            command_id: Mine(dice.choice([OURS, OURS, "session-before"]), dice.random() < 0.3)
            for command_id in ids
            if dice.random() < 0.3
        },
        delivered=tuple(command_id for command_id in ids if dice.random() < 0.5),
        session=dice.choice([None, OURS, OURS]),
        rules=Rules(1.0, dice.randint(1, 4), dice.randint(0, 3)),
        pending_since={command_id: NOW - dice.random() * 2 for command_id in ids},
    )


any_situation = st.integers(0, 2**32).map(a_random_situation)
many = settings(max_examples=300)


@many
@given(any_situation)
def test_only_what_nobody_holds_and_what_is_of_the_present_epoch_is_ever_claimed(situation: Situation) -> None:
    for action in choose(situation).actions:
        if isinstance(action, Claim):
            command = action.command
            assert situation.session is not None
            assert command.session in (None, situation.session)
            assert command.value.id not in situation.plays
            assert command.value.epoch == action.assignment.value.epoch
            assert not command.value.is_final
            assert not command.value.cancel_requested


@many
@given(any_situation)
def test_no_more_plays_are_begun_than_there_are_slots_and_one_per_service_and_vm(situation: Situation) -> None:
    claims = [action for action in choose(situation).actions if isinstance(action, Claim)]
    assert len(claims) <= max(0, situation.rules.parallel_plays - len(situation.plays))
    places = [(claim.command.value.service, claim.command.value.target) for claim in claims]
    assert len(places) == len(set(places))


@many
@given(any_situation)
def test_a_message_is_acknowledged_only_when_its_command_is_over_and_refused_only_without_one(
    situation: Situation,
) -> None:
    for action in choose(situation).actions:
        if isinstance(action, Ack):
            seen = situation.commands.get(action.command_id)
            assert isinstance(seen, Kept)
            assert seen.value.is_final
        elif isinstance(action, Reject):
            assert not isinstance(situation.commands.get(action.command_id), Kept)


@many
@given(any_situation)
def test_choosing_says_the_same_twice_and_always_says_something(situation: Situation) -> None:
    assert choose(situation) == choose(situation)
    assert choose(situation).sentence
