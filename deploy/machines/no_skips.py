"""A pytest plugin: as root, or with CI set, a skipped test is a failure. Elsewhere what is left out is only told.

Without it a missing package or a wrong condition would turn the most valuable tests into silence.
"""

from __future__ import annotations

import os

import pytest

_skipped: list[str] = []


def is_strict() -> bool:
    """May nothing be skipped here?"""
    return os.geteuid() == 0 or bool(os.environ.get("CI"))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail"):
        _skipped.append(report.nodeid)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if _skipped and is_strict() and not hasattr(session.config, "workerinput"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _skipped and is_strict():
        terminalreporter.write_line(
            f"{len(_skipped)} skipped where nothing may be (root, or CI): counted as failed", red=True
        )
