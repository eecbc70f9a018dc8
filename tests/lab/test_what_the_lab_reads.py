"""What the lab takes from its host and from the checkout: mirrors, versions, the inventory, keys of caches."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.machines.apt import Source, deb822_sources, host_sources, one_line_sources
from deploy.machines.cache import cached, entry_path, key_of
from deploy.machines.fleet import parse_inventory, read_fleet
from deploy.machines.places import LabError, LabPlaces
from deploy.machines.tools import is_supported, version_in

DEB822 = """\
Types: deb deb-src
# a comment
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/example.gpg

Types: deb
Enabled: no
URIs: http://off.example/
Suites: bookworm
"""


def test_a_mirror_is_read_from_deb822_and_disabled_ones_are_left_out() -> None:
    assert deb822_sources(DEB822) == [
        Source(
            "http://mirror.example/debian",
            ("bookworm", "bookworm-updates"),
            ("main",),
            "/usr/share/keyrings/example.gpg",
        )
    ]


def test_a_mirror_is_read_from_one_line_sources_with_and_without_options() -> None:
    text = (
        "# deb http://old.example sid main\n"
        "deb [arch=amd64 signed-by=/k.gpg] http://a.example noble main universe # end\n"
        "deb http://b.example noble-updates main\n"
        "deb-src http://b.example noble main\n"
    )
    assert one_line_sources(text) == [
        Source("http://a.example", ("noble",), ("main", "universe"), "/k.gpg"),
        Source("http://b.example", ("noble-updates",), ("main",), None),
    ]


def test_only_sources_of_the_hosts_own_release_are_taken(tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list.d" / "debian.sources").write_text(DEB822)
    (tmp_path / "sources.list.d" / "other.list").write_text("deb http://third.party.example stable main\n")
    assert [source.uri for source in host_sources("bookworm", tmp_path)] == ["http://mirror.example/debian"]
    with pytest.raises(LabError, match="no mirror for trixie"):
        host_sources("trixie", tmp_path)


@pytest.mark.parametrize(
    ("program", "shown", "supported"),
    [
        ("consul", "Consul v1.22.5\nRevision 1234", True),
        ("consul", "Consul v1.15.0", True),
        ("consul", "Consul v1.14.9", False),
        ("consul", "Consul v2.0.0", False),
        ("consul-template", "consul-template v0.41.1 ()", True),
        ("consul-template", "consul-template v0.29.5 (x)", False),
    ],
)
def test_a_program_from_path_is_used_where_its_version_is_supported(program: str, shown: str, supported: bool) -> None:
    version = version_in(shown)
    assert version is not None
    assert is_supported(program, version) is supported


def test_the_fleet_is_the_inventorys() -> None:
    addresses, groups = parse_inventory(
        "[vms]\nweb ansible_host=10.0.0.5 # a remark\ndb ansible_host=10.0.0.6\n"
        "[controllers]\ndb\n[all:children]\nvms\n[vms:vars]\nansible_user=root\n"
    )
    assert addresses == {"web": "10.0.0.5", "db": "10.0.0.6"}
    assert groups == {"vms": ("web", "db"), "controllers": ("db",)}


def test_a_services_name_stands_for_its_unit_and_anything_else_for_itself() -> None:
    fleet = read_fleet()
    assert fleet.unit("database") == "mariadb.service"
    assert fleet.unit("backend") == "node-app.service"
    assert fleet.unit("orch-controller") == "orch-controller.service"
    assert fleet.unit("epmd.socket") == "epmd.socket"
    with pytest.raises(LabError, match="neither a service"):
        fleet.unit("--now")


def test_a_labs_name_that_could_not_name_a_namespace_is_refused() -> None:
    with pytest.raises(LabError, match="is no name for a lab"):
        LabPlaces.from_environment("../etc")


def test_a_cache_key_follows_names_contents_and_texts(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    first = key_of(texts=["x"], paths=[tmp_path], relative_to=tmp_path)
    assert key_of(texts=["x"], paths=[tmp_path], relative_to=tmp_path) == first
    assert key_of(texts=["y"], paths=[tmp_path], relative_to=tmp_path) != first
    (tmp_path / "a").rename(tmp_path / "b")
    assert key_of(texts=["x"], paths=[tmp_path], relative_to=tmp_path) != first


def test_an_interrupted_build_leaves_nothing_that_a_later_one_would_believe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORCH_CACHE", str(tmp_path))

    def interrupted(folder: Path) -> None:
        (folder / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached("thing", "k", interrupted)
    assert not entry_path("thing", "k").exists()
    assert list((tmp_path / "thing").iterdir()) == []
    built = cached("thing", "k", lambda folder: (folder / "whole").touch())
    assert [path.name for path in built.iterdir()] == ["whole"]
    assert cached("thing", "k", interrupted) == built
