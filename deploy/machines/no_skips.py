"""A pytest plugin: as root, or with CI set, a skipped test is a failure. Elsewhere what is left out is only told.

Without it a missing package or a wrong condition would turn the most valuable tests into silence.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

# By node, and not counted: with pytest-xdist each process collects, and so skips, a whole module anew.
_skipped: set[str] = set()
_FROM_WORKER = "skipped_whole"


def is_strict() -> bool:
    """May nothing be skipped here?"""
    return os.geteuid() == 0 or bool(os.environ.get("CI"))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail"):
        _skipped.add(report.nodeid)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """A module that skips itself has no test that could be reported."""
    if report.skipped:
        _skipped.add(report.nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what a process of pytest-xdist skipped: it hands on the reports of tests only."""
    _skipped.update(getattr(node, "workeroutput", {}).get(_FROM_WORKER, ()))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput[_FROM_WORKER] = sorted(_skipped)
    elif _skipped and is_strict():
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _skipped and is_strict():
        terminalreporter.write_line(
            f"{len(_skipped)} skipped where nothing may be (root, or CI): counted as failed", red=True
        )
