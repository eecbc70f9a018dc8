"""Text -> document, as strictly as a policy needs it: YAML or JSON, in which no key stands twice. Pure.

Of two equal keys both formats' usual readers take the last one and say nothing; here that is a fault.
"""

from __future__ import annotations

import json
from typing import Any

from orchestrator.domain.sentence import one_line


class BrokenDocument(ValueError):
    """The text is no document; the message is one sentence that begins with the place where there is one."""


_TOO_DEEP = "the document is nested too deeply to be one"


def document_in(text: str | bytes) -> Any:
    """Read YAML or JSON; raises `BrokenDocument`."""
    try:
        return json.loads(text, object_pairs_hook=_unambiguous)
    except BrokenDocument:
        raise
    except RecursionError:
        raise BrokenDocument(_TOO_DEEP) from None
    except ValueError:
        return _yaml_document_in(text)


def json_document_in(text: str | bytes) -> Any:
    """Read JSON alone; raises `BrokenDocument`."""
    try:
        return json.loads(text, object_pairs_hook=_unambiguous)
    except BrokenDocument:
        raise
    except RecursionError:
        raise BrokenDocument(_TOO_DEEP) from None
    except json.JSONDecodeError as error:
        raise BrokenDocument(f"line {error.lineno}, column {error.colno}: not JSON: {error.msg}") from None
    except ValueError as error:
        raise BrokenDocument(f"not JSON: {error}") from None


def _unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise BrokenDocument(f"{key!r} stands twice in one mapping")
        found[key] = value
    return found


def _yaml_document_in(text: str | bytes) -> Any:
    # Imported here: most documents are JSON, and the import costs more than reading them.
    import yaml

    class Loader(yaml.SafeLoader):
        """A loader of its own, so that what is refused below is nobody else's."""

    def mapping(loader: yaml.SafeLoader, node: yaml.Node) -> dict[Any, Any]:
        if not isinstance(node, yaml.MappingNode):
            raise yaml.constructor.ConstructorError(None, None, "what is called a mapping is none", node.start_mark)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            # YAML's own `<<` may be overridden by what stands beside it; that is what it is for.
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if (key.tag, key.value) in seen:
                    raise BrokenDocument(f"line {key.start_mark.line + 1}: {key.value!r} stands twice in one mapping")
                seen.add((key.tag, key.value))
        loader.flatten_mapping(node)
        return loader.construct_mapping(node, deep=True)

    Loader.add_constructor("tag:yaml.org,2002:map", mapping)
    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise BrokenDocument(_yaml_fault(error)) from None
    except RecursionError:
        raise BrokenDocument(_TOO_DEEP) from None
    except BrokenDocument:
        raise
    except ValueError as error:
        # What YAML takes for a date and Python does not.
        raise BrokenDocument(one_line(str(error))) from None
    except (LookupError, AttributeError, ArithmeticError):
        # What PyYAML meets in a value that is not of the kind that its tag says (`!!bool maybe`).
        raise BrokenDocument("not YAML: a value is not what its tag says") from None


def _yaml_fault(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "document"
    return one_line(f"{where}: not YAML: {getattr(error, 'problem', None) or error}")
