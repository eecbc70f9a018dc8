"""The exit codes, in one table, and the exception that ends a verb with one of them.

`orch --help` and docs/cli.md are generated from `MEANINGS`; a test compares README.md and docs/architecture.md with
`in_one_line()`. Imports nothing heavy: `--version` goes through here.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import IO, Any

import click


class Exit(IntEnum):
    """What `orch` tells the shell. The numbers are promised in docs/architecture.md."""

    DONE = 0
    BUG = 1
    USAGE = 2
    REFUSED = 3
    FAILED = 4
    SUPERSEDED = 5
    TIMED_OUT = 6
    UNREACHABLE = 7
    BROKEN_INPUT = 8
    WARNINGS = 9
    ERRORS = 10


MEANINGS: Mapping[Exit, str] = {
    Exit.DONE: "done; with --no-wait: accepted; `status` and `why` exit 0 whenever the fleet could be read",
    Exit.BUG: "an error in the program itself (a traceback says where)",
    Exit.USAGE: "wrong usage: unknown verb or option, missing argument, a value of the wrong form",
    Exit.REFUSED: (
        "refused: nothing was moved, and the sentence says why and what would be possible (of what the leader refuses "
        "the request stays in KV, ended as refused); also where the user's token gives no right to it in Consul"
    ),
    Exit.FAILED: (
        "failed: the move or its play failed; `replay`: an outcome differs; `config diff`: the files differ; "
        "`notify test`: the sample was not delivered; `backup`: it was not made, or not restored"
    ),
    Exit.SUPERSEDED: "the request was superseded or cancelled before it was done",
    Exit.TIMED_OUT: "timed out waiting, or waiting was interrupted; the request goes on",
    Exit.UNREACHABLE: "Consul cannot be reached, or has no leader (no quorum)",
    Exit.BROKEN_INPUT: (
        "a file (or the policy in KV) is missing, cannot be read or written, or is not what it should be; every fault "
        "is listed"
    ),
    Exit.WARNINGS: "`doctor`: everything works, and something is not as it should be",
    Exit.ERRORS: "`doctor`: something does not work, or could not be found out",
}

SHORT: Mapping[Exit, str] = {
    Exit.DONE: "done",
    Exit.BUG: "error in the program",
    Exit.USAGE: "wrong usage",
    Exit.REFUSED: "refused",
    Exit.FAILED: "failed",
    Exit.SUPERSEDED: "superseded or cancelled",
    Exit.TIMED_OUT: "timed out waiting",
    Exit.UNREACHABLE: "Consul not reachable",
    Exit.BROKEN_INPUT: "broken or missing file",
    Exit.WARNINGS: "the doctor warns",
    Exit.ERRORS: "the doctor found errors",
}

# By the final states of a request and of a command (their values, so that this module stays light).
OF_STATE: Mapping[str, Exit] = {
    "succeeded": Exit.DONE,
    "failed": Exit.FAILED,
    "refused": Exit.REFUSED,
    "superseded": Exit.SUPERSEDED,
    "cancelled": Exit.SUPERSEDED,
}


class Stop(click.ClickException):
    """End the verb with this exit code and one sentence on stderr. `facts` join the JSON answer."""

    def __init__(self, code: Exit, sentence: str, facts: Mapping[str, Any] | None = None) -> None:
        """Keep what is to be said; `facts` must be JSON-able."""
        super().__init__(sentence)
        self.exit = code
        self.facts = dict(facts or {})

    @property
    def exit_code(self) -> int:  # type: ignore[override]
        """The number for the shell (click asks for it)."""
        return int(self.exit)

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the sentence to stderr."""
        click.echo(f"orch: {self.message}", err=True, file=file)

    def as_json(self) -> dict[str, Any]:
        """Return the JSON answer of a verb that ended this way."""
        said = {"exit": self.exit_code, "outcome": self.exit.name.lower(), "reason": self.message}
        return said | self.facts


def refuse(sentence: str) -> Stop:
    """Return the refusal to raise; nothing may have been written before."""
    return Stop(Exit.REFUSED, f"refused: {sentence}", {"outcome": "refused", "reason": sentence})


def in_one_line() -> str:
    """Return every exit code with a word or two, as other documents tell it."""
    return ", ".join(f"{code.value} {meaning}" for code, meaning in SHORT.items()) + "."


def table() -> str:
    """Return the table of exit codes as Markdown."""
    rows = [f"| {code.value} | {meaning} |" for code, meaning in MEANINGS.items()]
    return "\n".join(["| exit | meaning |", "|---|---|", *rows])
