"""The module `orch_files`, run as Ansible runs it."""

from __future__ import annotations

import getpass
import grp
import os
from pathlib import Path
from typing import Any

import pytest

from tests.library import answer_of, module


def written(path: Path, content: str, *check: str) -> dict[str, Any]:
    """Have the module write one file; returns its answer."""
    mine = {"owner": getpass.getuser(), "group": grp.getgrgid(os.getgid()).gr_name}
    files = [{"path": str(path), "content": content, "label": "rules", "check": list(check), **mine}]
    return answer_of("orch_files", files=files)


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


def test_what_stands_where_the_new_file_comes_is_not_followed(tmp_path: Path) -> None:
    """The folder may be an account's own, and root writes there."""
    path, elsewhere = tmp_path / "cookie", tmp_path / "elsewhere"
    elsewhere.write_text("mine\n")
    cookie = module("orch_erlang_cookie")
    for replace in (lambda: written(path, "new\n"), lambda: cookie.write(str(path), "newer\n", getpass.getuser())):
        Path(f"{path}.orch-new").symlink_to(elsewhere)
        replace()
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("newer\n", 0o400)
    assert elsewhere.read_text() == "mine\n"
    assert sorted(tmp_path.iterdir()) == [path, elsewhere]
