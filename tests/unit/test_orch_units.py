"""The module `orch_units`, run as Ansible runs it, with a stand-in for systemctl."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.library import answer_of

# Two units: what `show` tells of them is from before one was disabled without a reload.
SYSTEMCTL = """\
#!/bin/sh
echo "$*" >>"{here}/asked"
case "$1" in
show)
    for unit in web.service app.service; do
        printf 'Id=%s\\nLoadState=loaded\\nUnitFileState=enabled\\nNeedDaemonReload=no\\nActiveState=active\\n\\n' $unit
    done ;;
is-enabled) shift; for unit; do [ -e "{here}/$unit" ] && echo enabled || echo disabled; done; exit 1 ;;
esac
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the stand-in finds which units are enabled."""
    (tmp_path / "systemctl").write_text(SYSTEMCTL.format(here=tmp_path))
    (tmp_path / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


def told(**each: bool | None) -> dict[str, Any]:
    """Have the units started, and enabled or not."""
    return answer_of("orch_units", units=[{"name": n, "state": "started", "enabled": e} for n, e in each.items()])


def test_a_unit_that_was_disabled_is_enabled_again_whatever_systemd_remembers(here: Path) -> None:
    (here / "web.service").touch()
    answer = told(web=True, app=True)
    assert (answer["changed"], answer["said"]) == (True, ["--quiet --no-reload enable app.service"])


def test_a_unit_that_is_as_wanted_is_left_alone(here: Path) -> None:
    (here / "web.service").touch()
    assert told(web=True, app=False)["changed"] is False


def test_a_unit_under_another_name_is_judged_by_its_own(here: Path) -> None:
    (here / "web.service").touch()
    (here / "app.service").touch()
    assert told(web=True, alias=True)["changed"] is False


def test_whether_a_unit_is_enabled_is_asked_only_where_it_matters(here: Path) -> None:
    assert told(web=None, app=None)["changed"] is False
    assert "is-enabled" not in (here / "asked").read_text()
