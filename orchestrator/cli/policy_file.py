"""Policy documents: text (YAML or JSON) -> `Policy`, or every fault as a plain sentence with its place. Pure.

Also the way back: the text that `config apply` writes, and the one that `config diff` compares.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from orchestrator.domain.document import BrokenDocument, document_in
from orchestrator.domain.policy import Policy
from orchestrator.domain.sentence import one_line


@dataclass(frozen=True)
class Faults:
    """What is wrong with a document: one sentence per fault, each beginning with the place."""

    sentences: tuple[str, ...]


# Kinds of fault for which pydantic names types of Python.
_SHOULD_BE = {
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "invalid_key": "text as a key",
}


def policy_of(text: str | bytes) -> Policy | Faults:
    """Read and validate a policy document."""
    try:
        document = document_in(text)
    except BrokenDocument as broken:
        return Faults((str(broken),))
    if not isinstance(document, dict):
        return Faults((one_line(f"the document is {_named(document)}, not a mapping with vms, services and so on"),))
    try:
        return Policy.model_validate(document)
    except ValidationError as error:
        return Faults(fault_sentences(error))


def fault_sentences(error: ValidationError) -> tuple[str, ...]:
    """Return every fault as a sentence that begins with its place."""
    return tuple(_sentence(fault) for fault in error.errors())


def canonical_json(policy: Policy) -> str:
    """Return what is written to KV: JSON, which YAML readers read too, one field a line for people in the UI."""
    return json.dumps(_written(policy), indent=2, ensure_ascii=False) + "\n"


def canonical_yaml(policy: Policy) -> str:
    """Return the policy as YAML in the order of the schema, every default spelled out: two equal policies give
    equal texts."""
    return to_yaml(_written(policy))


def to_yaml(document: Any) -> str:
    """Return a document as YAML for people: in the given order, short lists of words in one line."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """A dumper of its own, so that the style below is nobody else's."""

    def sequence(dumper: yaml.SafeDumper, items: list[Any]) -> yaml.Node:
        plain = all(isinstance(item, str | int | float) for item in items)
        return dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=plain)

    Dumper.add_representer(list, sequence)
    return str(yaml.dump(document, Dumper=Dumper, sort_keys=False, default_flow_style=False, width=120))


def _written(policy: Policy) -> dict[str, Any]:
    return policy.model_dump(mode="json", exclude_none=True)


def _sentence(fault: Mapping[str, Any]) -> str:
    where = ".".join(str(part) for part in fault["loc"]) or "policy"
    return one_line(f"{where}: {_plain(fault)}")


def _plain(fault: Mapping[str, Any]) -> str:
    """Say pydantic's fault in our own words where its are not meant for operators (its error types are listed in
    pydantic's documentation, "Validation Errors")."""
    kind, given, context = fault["type"], fault.get("input"), fault.get("ctx") or {}
    if kind == "value_error":
        return str(context.get("error", fault["msg"]))
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        known = _known_fields(fault["loc"])
        return "is not a known field" + (f"; known here: {', '.join(known)}" if known else "")
    if kind == "string_pattern_mismatch":
        return f"{given!r} does not have the form {context.get('pattern')}"
    if kind in _SHOULD_BE:
        return f"should be {_SHOULD_BE[kind]} (it is {_named(given)})"
    if kind == "literal_error":
        return f"{_named(given)} is not one of {context.get('expected')}"
    said = str(fault["msg"]).replace("Input should", "should").replace("Value error, ", "")
    return f"{said} (it is {_named(given)})"


def _known_fields(loc: tuple[Any, ...]) -> tuple[str, ...]:
    """Return the fields of the model in which the last part of the place was not known."""
    model: Any = Policy
    for part in loc[:-1]:
        field = model.model_fields.get(part) if _is_model(model) else None
        if field is not None:
            model = model_within(field.annotation)
    return tuple(model.model_fields) if _is_model(model) else ()


def model_within(annotation: Any) -> Any:
    """Return the model in an annotation such as `dict[Name, VmPolicy]` or `FrontDoorPolicy | None`."""
    if _is_model(annotation):
        return annotation
    inner = [model_within(part) for part in getattr(annotation, "__args__", ())]
    return next((model for model in inner if model is not None), None)


def _is_model(candidate: Any) -> bool:
    return isinstance(candidate, type) and issubclass(candidate, BaseModel)


def _named(value: Any) -> str:
    if value is None:
        return "empty"
    if isinstance(value, dict | list):
        return f"a {'mapping' if isinstance(value, dict) else 'list'}"
    return repr(value)
