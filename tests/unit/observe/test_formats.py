"""What a newer orch wrote is told apart from what is absent and from what is broken, and left alone."""

from __future__ import annotations

import json

import pytest

from orchestrator.domain import keys
from orchestrator.domain.decision import Memory, Put
from orchestrator.domain.records import FORMAT, NEWER
from orchestrator.domain.view import Unreadable
from orchestrator.recorder import Inputs
from tests.fuzz.fleet import NOW, POLICY, SERVICES, checks_without, pairs_with
from tests.fuzz.test_kv import KINDS, seen_in

NEWER_FIELDS = {"format": FORMAT + 1, "field_to_come": "something that must not be overlooked"}


def inputs_with(key: str, **fields: object) -> Inputs:
    value = json.dumps(json.loads(KINDS[key].to_json()) | fields).encode()
    return Inputs(NOW, pairs_with(key, value), checks_without(), POLICY, Memory())


@pytest.mark.parametrize("key", KINDS)
def test_a_record_of_a_newer_format_is_unreadable_and_says_why(key: str) -> None:
    found = seen_in(inputs_with(key, **NEWER_FIELDS).view())[key]
    assert isinstance(found, Unreadable)
    assert found.problem.startswith(NEWER)
    assert found.is_newer


@pytest.mark.parametrize("key", KINDS)
def test_every_record_says_its_format_and_one_that_says_none_is_of_the_first(key: str) -> None:
    fields = json.loads(KINDS[key].to_json())
    assert fields.pop("format") == FORMAT == 1
    assert type(KINDS[key]).from_json(json.dumps(fields)) == KINDS[key]


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize(("fields", "is_repaired"), [(NEWER_FIELDS, False), ({"epoch": "x"}, True)])
def test_an_older_controller_does_not_put_its_own_assignment_in_the_place_of_a_newer_one(
    service: str, fields: dict[str, object], is_repaired: bool
) -> None:
    key = keys.assignment(service)
    outcome = inputs_with(key, **fields).decided()
    written = [change for made in outcome.decisions for change in made.changes if isinstance(change, Put)]
    assert any(change.key == key for change in written) is is_repaired
    if not is_repaired:
        (found,) = [each for each in outcome.diagnoses if each.service == service]
        assert found.code == "assignment_unreadable"
        assert "is left alone" in found.sentence
        assert "bring this one's VM up to date" in str(found.not_actionable_because)
