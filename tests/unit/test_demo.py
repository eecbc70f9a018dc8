"""What `make demo` tells: its news in their order, its numbers, and how to go on."""

from __future__ import annotations

import io
import json
import subprocess
from pathlib import Path
from typing import Any, cast

import pytest
from rich.console import Console

from deploy.machines.lab import Lab
from deploy.machines.places import DEFAULT_LAB_NAME, LabError
from deploy.machines.state import Fault, LabState
from deploy.trials import demo
from deploy.trials.client import Traffic
from deploy.trials.outage import Outage, Sample
from deploy.trials.timeline import Step
from deploy.trials.trial import Result


class Telling:
    """A lab whose history is what the test says."""

    def __init__(self) -> None:
        self.history = [entry(1.0, "what was before")]

    def run(self, vm: str, argv: list[str], **how: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(argv, 0, json.dumps({"history": self.history}), "")


class Served:
    """Traffic that is answered as the test says."""

    def __init__(self) -> None:
        self.seen: list[Sample] = []

    def samples(self) -> list[Sample]:
        return self.seen


def entry(at: float, reason: str) -> dict[str, Any]:
    return {"id": f"{at}-{reason}", "at": at, "reason": reason}


def answers(at: float, by: str) -> list[Sample]:
    """Return some requests in a row that this VM answered, or nobody."""
    return [Sample(at + each / 10, at + each / 10, bool(by), by=by) for each in range(8)]


@pytest.fixture
def shown() -> Console:
    return Console(file=io.StringIO(), width=200)


def lines(console: Console) -> list[str]:
    """Return what was printed, without the times."""
    text = cast(io.StringIO, console.file).getvalue()
    return [" ".join(line.split()) for line in text.splitlines()]


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """A lab in a folder of the test's own; without a state it is down."""
    monkeypatch.setenv("ORCH_LAB_DIR", str(tmp_path))
    monkeypatch.setenv("ORCH_CACHE", str(tmp_path / "cache"))
    return Lab.open("other-lab")


def test_news_of_orch_and_of_the_client_are_told_once_and_in_the_order_in_which_they_happened(shown: Console) -> None:
    telling, served = Telling(), Served()
    live = demo.Live(cast(Lab, telling), cast(Traffic, served), shown)
    served.seen = [*answers(10.0, "backend-server"), *answers(11.0, ""), *answers(14.0, "messaging-server")]
    telling.history += [entry(12.0, "backend fails over"), entry(13.0, "backend is active on messaging-server")]
    live._tell_news()
    told = [line.split(" ", 1)[1] for line in lines(shown)]
    assert told == [
        "client is served by backend-server",
        "client gets no answer",
        "orch backend fails over",
        "orch backend is active on messaging-server",
        "client is served by messaging-server",
    ]
    live._tell_news()
    assert len(lines(shown)) == len(told)


def test_the_table_has_each_step_with_its_share_or_says_that_it_was_meanwhile(shown: Console) -> None:
    steps = [Step("detected", 0.5, 0.5), Step("play done", 3.25, None)]
    shown.print(demo.steps_table(Result("a trial", Outage(0.0, 0, 0, 0.0), steps)))
    rows = [line.strip("│ ").replace("│", "").split() for line in lines(shown) if "│" in line]
    assert rows == [["detected", "0.50", "0.50"], ["play", "done", "3.25", "meanwhile"]]


def test_every_command_to_go_on_with_names_the_lab_where_it_is_not_the_usual_one(lab: Lab, shown: Console) -> None:
    assert demo.prefix(Lab.open(DEFAULT_LAB_NAME)) == ""
    demo.look_around(lab, shown)
    commands = [line for line in lines(shown) if "./deploy/lab" in line]
    assert len(commands) == 7
    assert all("ORCH_LAB_NAME=other-lab ./deploy/lab " in line for line in commands)


def test_a_lab_with_faults_in_force_is_not_used(lab: Lab, shown: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "require_root", lambda: None)
    state = LabState(phase="up", faults=[Fault("kill", "backend-server", 0.0, "node-app.service")])
    state.save(lab.places.state_file)
    with pytest.raises(LabError, match=r"kill node-app.service on backend-server\); `ORCH_LAB_NAME=other-lab .* mend`"):
        demo.bring_up(lab, shown)


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (None, ""),
        (LabState(phase="up"), "The lab stays as it is. `ORCH_LAB_NAME=other-lab ./deploy/lab down` takes it down."),
        (
            LabState(phase="starting"),
            "The lab stays as it is, half-made; `ORCH_LAB_NAME=other-lab make demo` makes it anew.",
        ),
        (
            LabState(phase="up", faults=[Fault("kill", "backend-server", 0.0)]),
            "The lab stays as it is with its fault in force (`ORCH_LAB_NAME=other-lab ./deploy/lab mend` undoes it).",
        ),
    ],
)
def test_after_an_interruption_it_says_what_is_left(
    lab: Lab, shown: Console, state: LabState | None, said: str
) -> None:
    if state is not None:
        state.save(lab.places.state_file)
    demo._say_what_is_left(lab, shown)
    assert " ".join(lines(shown)).startswith(said)
    assert bool(lines(shown)) is bool(said)
