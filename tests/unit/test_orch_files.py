"""The module `orch_files`, run as Ansible runs it."""

from __future__ import annotations

import getpass
import grp
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

MODULE = Path(__file__).resolve().parents[2] / "ansible" / "library" / "orch_files.py"


def written(path: Path, content: str, *check: str) -> dict[str, Any]:
    """Have the module write one file; returns its answer."""
    mine = {"owner": getpass.getuser(), "group": grp.getgrgid(os.getgid()).gr_name}
    files = [{"path": str(path), "content": content, "label": "rules", "check": list(check), **mine}]
    arguments = json.dumps({"ANSIBLE_MODULE_ARGS": {"files": files}})
    done = subprocess.run([sys.executable, str(MODULE)], input=arguments, capture_output=True, text=True, timeout=30)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_a_file_that_its_program_refuses_stays_as_it_was_and_the_program_is_quoted(tmp_path: Path) -> None:
    path = tmp_path / "rules"
    path.write_text("good\n")
    judge = ("sh", "-c", 'grep -q good "$1" || { echo "no good in line 1" >&2; exit 1; }', "sh")
    told = written(path, "bad\n", *judge)
    assert told["failed"]
    assert f"{path} stays as it is: sh refuses what was to replace it: no good in line 1" in told["msg"]
    assert path.read_text() == "good\n"
    assert list(tmp_path.iterdir()) == [path]
    assert written(path, "very good\n", *judge)["labels"] == ["rules"]
    assert path.read_text() == "very good\n"


@pytest.mark.parametrize("content", ["good\n", "bad\n"])
def test_what_has_not_changed_is_not_judged_again(tmp_path: Path, content: str) -> None:
    path = tmp_path / "rules"
    path.write_text(content)
    path.chmod(0o644)
    assert written(path, content, "false")["changed"] is False
