"""Policy documents: text (YAML or JSON) -> `Policy`, or every fault as a plain sentence with its place. Pure.

Also the way back: the text that `config apply` writes, and the one that `config diff` compares.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from orchestrator.domain.policy import Policy


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
_TOO_DEEP = Faults(("the document is nested too deeply to be one",))


class _Twice(ValueError):
    """A key stands twice in one mapping."""


def document_of(text: str | bytes) -> Any | Faults:
    """Read YAML or JSON text. A key that stands twice in a mapping is a fault: one of the two would be ignored."""
    try:
        return json.loads(text, object_pairs_hook=_unambiguous)
    except _Twice as error:
        return Faults((str(error),))
    except RecursionError:
        return _TOO_DEEP
    except ValueError:
        return _yaml_document(text)


def json_document(text: str | bytes) -> Any | Faults:
    """Read JSON text, as strictly."""
    try:
        return json.loads(text, object_pairs_hook=_unambiguous)
    except _Twice as error:
        return Faults((str(error),))
    except RecursionError:
        return _TOO_DEEP
    except json.JSONDecodeError as error:
        return Faults((f"line {error.lineno}, column {error.colno}: not JSON: {error.msg}",))
    except ValueError as error:
        return Faults((f"not JSON: {error}",))


def _unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _Twice(f"{key!r} stands twice in one mapping")
        found[key] = value
    return found


def _yaml_document(text: str | bytes) -> Any | Faults:
    import yaml

    class Loader(yaml.SafeLoader):
        """A loader of its own, so that what is refused below is nobody else's."""

    def mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            # YAML's own `<<` may be overridden by what stands beside it; that is what it is for.
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if (key.tag, key.value) in seen:
                    raise _Twice(f"line {key.start_mark.line + 1}: {key.value!r} stands twice in one mapping")
                seen.add((key.tag, key.value))
        loader.flatten_mapping(node)
        return loader.construct_mapping(node, deep=True)

    Loader.add_constructor("tag:yaml.org,2002:map", mapping)
    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        return Faults((_yaml_fault(error),))
    except RecursionError:
        return _TOO_DEEP
    except ValueError as error:
        # Also what YAML takes for a date and Python does not.
        return Faults((str(error),))


def policy_of(text: str | bytes) -> Policy | Faults:
    """Read and validate a policy document."""
    document = document_of(text)
    if isinstance(document, Faults):
        return document
    if not isinstance(document, dict):
        return Faults((f"the document is {_named(document)}, not a mapping with vms, services and so on",))
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


def _yaml_fault(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "document"
    return f"{where}: not YAML: {getattr(error, 'problem', None) or error}"


def _sentence(fault: Mapping[str, Any]) -> str:
    where = ".".join(str(part) for part in fault["loc"]) or "policy"
    return f"{where}: {_plain(fault)}"


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
        return f"{given!r} is not one of {context.get('expected')}"
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
