"""`orch controller`, `worker`, `guard`: the daemons, from settings and signals to their `run`."""

from __future__ import annotations

import importlib
import logging
import signal
import threading
from types import FrameType

import click

from orchestrator.cli.app import App
from orchestrator.cli.exits import Exit, Stop


@click.command()
@click.pass_obj
def controller(app: App) -> None:
    """Run the controller.

    It watches and decides; of all controllers one leads. SIGTERM or SIGINT ends it.
    """
    _run(app, "controller")


@click.command()
@click.pass_obj
def worker(app: App) -> None:
    """Run the worker.

    It takes commands and runs their playbooks. SIGTERM or SIGINT ends it.
    """
    _run(app, "worker")


@click.command()
@click.pass_obj
def guard(app: App) -> None:
    """Run the guard of this VM.

    It registers the VM's instances and holds their role locks. SIGTERM or SIGINT ends it and moves nothing.
    """
    _run(app, "guard")


def _run(app: App, daemon: str) -> None:
    from orchestrator.journal import configure_journal
    from orchestrator.settings import SettingsError, load_settings

    configure_journal()
    try:
        settings = load_settings(app.settings_file)
        importlib.import_module(f"orchestrator.{daemon}").run(settings, _stop_on_signal(daemon))
    except SettingsError as problem:
        raise Stop(Exit.BROKEN_INPUT, str(problem)) from None


def _stop_on_signal(daemon: str) -> threading.Event:
    """Return the event that SIGTERM and SIGINT set. A second signal ends the process at once, the hard way."""
    stop = threading.Event()
    asked: list[int] = []

    def say_stop(number: int) -> None:
        logging.getLogger(f"orchestrator.{daemon}").info("%s: stopping", signal.Signals(number).name)
        stop.set()

    def ask_to_stop(number: int, _: FrameType | None) -> None:
        if asked:
            raise SystemExit(128 + number)
        asked.append(number)
        # From a thread: the interrupted main thread may be inside the event's own lock, which is not reentrant.
        threading.Thread(target=say_stop, args=(number,), daemon=True).start()

    signal.signal(signal.SIGTERM, ask_to_stop)
    signal.signal(signal.SIGINT, ask_to_stop)
    return stop
