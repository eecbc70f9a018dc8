"""The deployment's own Ansible modules, for tests that call what is in them or run them as Ansible does."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from ansible import module_utils

ANSIBLE = Path(__file__).resolve().parents[1] / "ansible"
LIBRARY = ANSIBLE / "library"
# Ansible packs what a module imports from there together with the module.
UTILS = str(ANSIBLE / "module_utils")
RUN = """
import runpy, sys
from ansible import module_utils
# The module reads its arguments from stdin only where there are none.
utils, path = sys.argv[1:]
del sys.argv[1:]
module_utils.__path__.append(utils)
runpy.run_path(path, run_name="__main__")
"""


def module(name: str) -> ModuleType:
    """Return a module of the deployment's."""
    if UTILS not in module_utils.__path__:
        module_utils.__path__.append(UTILS)
    spec = importlib.util.spec_from_file_location(name, LIBRARY / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules[name] = found
    spec.loader.exec_module(found)
    return found


def answer_of(name: str, **arguments: Any) -> dict[str, Any]:
    """Run a module of the deployment's as Ansible does; return its answer."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, UTILS, str(LIBRARY / f"{name}.py")],
        input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}),
        capture_output=True,
        text=True,
        timeout=30,
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (1 if answer.get("failed") else 0), done.stderr
    return answer
