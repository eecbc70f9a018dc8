"""Releases of the playbooks: told apart by what is in them, laid beside each other, switched in one step."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator.execute.releases import Releases, digest_of
from tests.library import answer_of

FILES = [
    {"path": "ansible/playbooks/activate_web.yml", "content": "- hosts: all\n", "mode": "0644"},
    {"path": "ansible/library/own.py", "content": "#!/usr/bin/python\n", "mode": "0755"},
    {"path": "templates/web.conf.j2", "content": "listen {{ port }};\n"},
]
LINKS = {"ansible/playbooks/roles": "../roles"}


def install(home: Path, files: list[dict[str, Any]] = FILES, *, check: bool = False) -> dict[str, Any]:
    """Run the module as Ansible does."""
    return answer_of("orch_release", home=str(home), files=files, links=LINKS, _ansible_check_mode=check)


def changed(text: str) -> list[dict[str, Any]]:
    return [FILES[0] | {"content": text}, *FILES[1:]]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "orch"


@pytest.fixture
def releases(home: Path) -> Releases:
    home.mkdir()
    return Releases(home / "plays" / "ansible")


def test_the_module_and_the_worker_count_in_the_same_way(home: Path, releases: Releases) -> None:
    told = install(home)
    assert told["changed"]
    found = releases.look()
    assert (found.current, set(found.kept)) == (told["digest"], {told["digest"]})
    assert releases.find(told["digest"]) == releases.current() == (home / "plays").resolve() / "ansible"
    assert not install(home)["changed"]


def test_a_new_release_is_current_and_the_former_one_still_there(home: Path, releases: Releases) -> None:
    first = install(home)["digest"]
    began_in = releases.current()
    second = install(home, changed("- hosts: none\n"))["digest"]
    assert releases.look().current == second
    assert releases.find(first) == began_in
    assert (began_in / "playbooks" / "activate_web.yml").read_text() == "- hosts: all\n"
    assert install(home)["digest"] == first
    assert releases.current() == began_in, "it was still whole, so it is used again"


@pytest.mark.parametrize(
    "edit",
    [
        lambda plays: (plays / "ansible" / "playbooks" / "activate_web.yml").write_text("- hosts: some\n"),
        lambda plays: (plays / "templates" / "more.j2").write_text(""),
        lambda plays: (plays / "templates" / "web.conf.j2").unlink(),
        lambda plays: (plays / "templates" / "web.conf.j2").chmod(0o755),
        lambda plays: (plays / "templates" / "web.conf.j2").rename(plays / "templates" / "site.conf.j2"),
    ],
    ids=["edited", "added", "deleted", "made a program", "renamed"],
)
def test_what_somebody_edited_is_another_release_and_is_mended_in_a_folder_of_its_own(
    home: Path, releases: Releases, edit: Any
) -> None:
    digest = install(home)["digest"]
    edited = (home / "plays").resolve()
    edit(home / "plays")
    assert releases.look().current not in (digest, None)
    assert releases.find(digest) is None
    assert install(home)["changed"]
    assert releases.look().current == digest
    assert (home / "plays").resolve() != edited
    assert edited.is_dir(), "a play that began there goes on"


def test_what_python_leaves_behind_is_no_edit(home: Path, releases: Releases) -> None:
    digest = install(home)["digest"]
    cache = home / "plays" / "ansible" / "library" / "__pycache__"
    cache.mkdir()
    (cache / "own.pyc").write_bytes(b"\0")
    assert releases.look().current == digest


def test_a_check_changes_nothing(home: Path, releases: Releases) -> None:
    assert install(home, check=True)["changed"]
    assert list(home.iterdir()) == []


def test_former_releases_go_after_an_hour_and_not_before_and_the_newest_stay(home: Path, releases: Releases) -> None:
    digests = [install(home, changed(f"# {n}\n"))["digest"] for n in range(6)]
    left = home / "releases" / ".new-1"
    left.mkdir()
    assert set(releases.look().kept) == set(digests)
    for age_s, path in enumerate(sorted((home / "releases").iterdir(), key=lambda path: path.stat().st_mtime), 3601):
        os.utime(path, (time.time() - 9999 + age_s,) * 2)
    last = install(home, changed("# 6\n"))["digest"]
    assert set(releases.look().kept) == {*digests[2:], last}
    assert not left.exists()


def test_an_interrupted_installation_is_no_release(home: Path, releases: Releases) -> None:
    digest = install(home)["digest"]
    (home / "releases" / ".new-1" / "ansible").mkdir(parents=True)
    assert set(releases.look().kept) == {digest}


def test_plain_folders_as_they_were_before_there_were_releases_are_one(tmp_path: Path) -> None:
    (tmp_path / "ansible").mkdir()
    (tmp_path / "ansible" / "ansible.cfg").write_text("[defaults]\n")
    found = Releases(tmp_path / "ansible").look()
    assert found.current == digest_of(tmp_path)
    assert list(found.kept.values()) == [tmp_path / "ansible"]
