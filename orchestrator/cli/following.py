"""Follow requests to their end: blocking queries in, progress and an honest exit status out. Never writes.

Ctrl-C and the time limit stop the waiting only; the request goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext

import click
import tenacity

from orchestrator.cli.app import App
from orchestrator.cli.exits import OF_STATE, Exit, Stop
from orchestrator.cli.fleet import records_under
from orchestrator.cli.report import record
from orchestrator.cli.steps import Step, doing_now, ending, failed_output, steps_of
from orchestrator.domain import keys
from orchestrator.domain.records import Command, HistoryEntry, Request
from orchestrator.store.port import KvPair, Unknown

BLOCK_S = 10.0
# Consul elects a new Raft leader in about 1 s (design.md, "Facts"); asking more often does not make it faster.
RETRY_S = 0.5


def follow_to_the_end(app: App, request_ids: tuple[str, ...], timeout_s: float) -> None:
    """Show the progress of the requests until all have ended; ends the verb with what became of the worst of them."""
    follower = Follower(app, request_ids, app.monotonic() + timeout_s)
    try:
        follower.run()
    except KeyboardInterrupt:
        raise follower.left_alone("you stopped waiting") from None
    follower.conclude()


class Follower:
    """The state of one waiting: what has been seen and what has been said."""

    def __init__(self, app: App, request_ids: tuple[str, ...], deadline: float) -> None:
        """Nothing is read yet; `deadline` is in the app's monotonic time."""
        self._app = app
        self._ids = request_ids
        self._deadline = deadline
        self._said: set[tuple[str, str]] = set()
        self._requests: dict[str, Request] = {}
        self._commands: list[Command] = []
        self._spinner: Callable[[str], None] = lambda _: None

    def run(self) -> None:
        """Read and show until every request has ended; ends the verb when the time is over."""
        index = 0
        with self._progress_display():
            while True:
                index, pairs = self._read(index)
                self._take_in(pairs)
                if all(i in self._requests and self._requests[i].is_final for i in self._ids):
                    return
                if self._app.monotonic() >= self._deadline:
                    raise self.left_alone("it has not ended within the time limit")

    def conclude(self) -> None:
        """Say what became of each request; ends the verb unless all succeeded."""
        ended = [self._requests[request_id] for request_id in self._ids]
        if self._app.as_json:
            self._app.answer(self._as_json(ended))
        for request in ended:
            for line in failed_output(request, self._commands):
                self._app.say(f"    {line}")
            self._app.say(ending(request))
        worst = max(OF_STATE[request.state.value] for request in ended)
        if worst is not Exit.DONE:
            # What became of it has been said on stdout; stderr stays quiet.
            raise click.exceptions.Exit(int(worst))

    def left_alone(self, why: str) -> Stop:
        """Return the end of a waiting that ended before its requests did."""
        open_ids = [i for i in self._ids if i not in self._requests or not self._requests[i].is_final]
        commands = " and ".join(f"`orch follow {i}`" for i in open_ids)
        goes_on = "the request goes on" if len(open_ids) == 1 else "the requests go on"
        return Stop(Exit.TIMED_OUT, f"{why}; {goes_on}: {commands} to see how it ends.", {"requests": open_ids})

    def _read(self, index: int) -> tuple[int, tuple[KvPair, ...]]:
        """Wait for the next change under orch/. An election or an agent's restart is waited out, as the request is
        safe in KV; one that outlasts the time limit ends the verb."""
        remaining = max(0.0, self._deadline - self._app.monotonic())
        attempts = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(Unknown),
            stop=lambda _: self._app.monotonic() >= self._deadline,
            wait=tenacity.wait_fixed(RETRY_S),
            sleep=self._app.sleep,
            before_sleep=lambda _: self._spinner("Consul does not answer; trying again"),
            reraise=True,
        )
        found, pairs = attempts(
            self._app.port.kv_list, keys.ROOT, index=index, wait_s=min(BLOCK_S, remaining) if index else 0.0
        )
        return (found if found >= index else 0), pairs

    def _take_in(self, pairs: tuple[KvPair, ...]) -> None:
        known, unreadable = records_under(keys.REQUESTS, Request, pairs)
        by_id = {request.id: request for request in known}
        broken = {bad.key: bad.problem for bad in unreadable}
        self._commands, _ = records_under(keys.COMMANDS, Command, pairs)
        for request_id in self._ids:
            if keys.request(request_id) in broken:
                raise Stop(Exit.FAILED, f"the request cannot be read: {broken[keys.request(request_id)]}")
            if request_id not in by_id:
                raise self._gone(request_id, pairs)
            request = self._requests[request_id] = by_id[request_id]
            self._show(request, steps_of(request, self._commands))

    def _gone(self, request_id: str, pairs: tuple[KvPair, ...]) -> Stop:
        """A request that is not in KV never was, or is so old that the journal has outlived it."""
        entries, _ = records_under(keys.HISTORY, HistoryEntry, pairs)
        last = [entry for entry in entries if entry.request_id == request_id]
        if last:
            return Stop(Exit.REFUSED, f"request {request_id} has been cleared away; its last entry: {last[-1].reason}")
        return Stop(Exit.REFUSED, f"refused: there is no request {request_id}; `orch history` shows what there was.")

    def _show(self, request: Request, steps: Iterable[Step]) -> None:
        name = f"{request.service}: " if len(self._ids) > 1 else ""
        for step in steps:
            if (request.id, step.text) not in self._said:
                self._said.add((request.id, step.text))
                self._app.say(f"{max(0.0, step.at - request.created):+6.1f} s  {name}{step.text}")
        if not request.is_final:
            self._spinner(f"{name}{doing_now(request, self._commands)}")

    def _as_json(self, ended: list[Request]) -> dict[str, object]:
        mine = [record(command) for command in self._commands if command.request_id in self._ids]
        worst = max(OF_STATE[request.state.value] for request in ended)
        said = {"exit": int(worst), "outcome": worst.name.lower(), "reason": " ".join(ending(r) for r in ended)}
        return said | {"requests": [record(request) for request in ended], "commands": mine}

    def _progress_display(self) -> AbstractContextManager[object]:
        """On a terminal, a line below the steps says what is waited for; piped, each of these is a line of its own."""
        if self._app.as_json:
            return nullcontext()
        if not self._app.on_terminal():
            self._spinner = self._say_once
            return nullcontext()
        live = self._app.console.status("waiting for the controller")
        self._spinner = lambda text: live.update(text)
        return live

    def _say_once(self, text: str) -> None:
        if ("", text) not in self._said:
            self._said.add(("", text))
            self._app.say(f"          {text}")
