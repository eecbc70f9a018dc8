"""The lab's command line where no machine is booted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from deploy.machines import cli
from deploy.machines.deployment import SavedState, kept_to_start_from
from deploy.machines.fleet import read_fleet
from deploy.machines.lab import suffices
from deploy.machines.places import LabPlaces
from deploy.machines.state import Fault, LabState


@pytest.fixture
def state_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the lab's state stands, in a host's folders of the test's own."""
    monkeypatch.setenv("ORCH_LAB_DIR", str(tmp_path / "labs"))
    monkeypatch.setenv("ORCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ORCH_LAB_NAME", "unit-lab")
    return LabPlaces("unit-lab").state_file


def status(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli.main, ["status", *words])
    return done.exit_code, done.stdout


def test_status_of_a_lab_that_is_not_there_says_so_and_ends_with_1(state_file: Path) -> None:
    code, said = status()
    assert code == 1
    assert "The lab unit-lab is down." in said
    code, said = status("--json")
    assert (code, json.loads(said)["up"], json.loads(said)["phase"]) == (1, False, "down")


@pytest.mark.parametrize("phase", ["starting", "settling"])
def test_status_ends_with_1_until_the_lab_has_settled(state_file: Path, phase: str) -> None:
    LabState(phase=phase).save(state_file)
    code, said = status()
    assert code == 1
    assert f"not up ({phase})" in said
    code, said = status("--json")
    assert (code, json.loads(said)["up"], json.loads(said)["phase"]) == (1, False, phase)


def test_status_ends_with_1_when_machines_died_and_with_0_when_somebody_powered_them_off(state_file: Path) -> None:
    LabState(phase="up").save(state_file)
    assert status()[0] == 1
    LabState(phase="up", faults=[Fault("poweroff", vm.name, 0.0) for vm in read_fleet().vms]).save(state_file)
    assert status()[0] == 0


@pytest.mark.parametrize(("words", "fresh"), [(["up"], False), (["up", "--fresh"], True)])
def test_fresh_is_what_the_lab_is_told(monkeypatch: pytest.MonkeyPatch, words: list[str], fresh: bool) -> None:
    told: list[dict[str, Any]] = []

    class Told:
        def up(self, **how: Any) -> None:
            told.append(how)

        def status(self) -> dict[str, Any]:
            return {"lab": "unit-lab", "up": False, "phase": "down", "vms": {}, "ui": None}

    monkeypatch.setattr(cli, "_open", lambda say: Told())
    assert CliRunner().invoke(cli.main, words).exit_code == 0
    assert told == [{"fresh": fresh, "bare": False}]


def test_fresh_deploys_anew_although_a_state_is_kept(state_file: Path) -> None:
    saved = SavedState("of-these-sources")
    assert kept_to_start_from(saved, fresh=False) is None
    saved.folder.mkdir(parents=True)
    assert kept_to_start_from(saved, fresh=False) == saved
    assert kept_to_start_from(saved, fresh=True) is None
    assert kept_to_start_from(None, fresh=False) is None


def test_a_lab_that_is_up_is_left_as_it_is_unless_another_is_asked_for() -> None:
    deployed, bare, half_made = LabState(phase="up"), LabState(phase="up", mode="bare"), LabState(phase="settling")
    assert suffices(deployed, fresh=False, bare=False)
    assert suffices(deployed, fresh=False, bare=True)
    assert suffices(bare, fresh=False, bare=True)
    assert not suffices(deployed, fresh=True, bare=False)
    assert not suffices(bare, fresh=False, bare=False)
    assert not suffices(half_made, fresh=False, bare=False)
