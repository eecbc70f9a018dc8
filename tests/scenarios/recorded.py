"""The golden scenarios: folders whose name is a sentence, with a recording in the recorder's own format.

`decisions.jsonl` is what `decide()` was given and what came of it, as a controller writes it; an incident becomes a
scenario by copying such a file into a new folder. `story.txt` is the same for reading.
`python -m tests.scenarios.recorded` writes the outcomes anew after a wording was changed: look at the diff.
"""

from __future__ import annotations

from pathlib import Path

from orchestrator.recorder import inputs_of, line_of

FOLDER = Path(__file__).parent
RECORDING, STORY = "decisions.jsonl", "story.txt"


def scenarios() -> list[Path]:
    """Return the folders."""
    return sorted(path.parent for path in FOLDER.glob(f"*/{RECORDING}"))


def story_of(folder: Path) -> str:
    """Tell what is decided in the scenario, one line for each decision, with the seconds since its beginning."""
    lines, begin = [], None
    for line in (folder / RECORDING).read_text().splitlines():
        inputs, recorded = inputs_of(line)
        begin = inputs.now if begin is None else begin
        lines += [f"{inputs.now - begin:8.2f}  {code}: {sentence}" for code, _, sentence in recorded["decisions"]]
    return "\n".join(lines) + "\n"


def rewrite(folder: Path) -> None:
    """Write the outcomes anew as `decide()` has them now."""
    recorded = (folder / RECORDING).read_text().splitlines()
    inputs = [inputs_of(line)[0] for line in recorded]
    (folder / RECORDING).write_text("".join(line_of(each, each.decided()) + "\n" for each in inputs))
    (folder / STORY).write_text(story_of(folder))


if __name__ == "__main__":
    for scenario in scenarios():
        rewrite(scenario)
