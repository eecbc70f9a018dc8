"""Nothing is skipped in CI without the run failing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.machines.places import CHECKOUT

ONE_TEST = "import pytest\n@pytest.mark.skip(reason='no')\ndef test_it(): pass\n"
# Beside a test that passes: a run without any test fails by itself.
WHOLE_MODULE = "import pytest\npytest.skip('no', allow_module_level=True)\ndef test_it(): pass\n"
EXPECTED_TO_FAIL = "import pytest\n@pytest.mark.xfail\ndef test_it(): assert False\n"
PASSES = "def test_it(): pass\n"


def run_of(folder: Path, text: str, *words: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_first.py").write_text(PASSES)
    (folder / "test_second.py").write_text(text)
    argv = [sys.executable, "-m", "pytest", "-p", "deploy.machines.no_skips", "-p", "no:cacheprovider", *words, "."]
    env = {**os.environ, "CI": "1", "PYTHONPATH": str(CHECKOUT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(argv, check=False, cwd=folder, env=env, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("text", "words"),
    [(ONE_TEST, ()), (WHOLE_MODULE, ()), (WHOLE_MODULE, ("-p", "xdist.plugin", "-n", "2"))],
    ids=["a test", "a module", "a module with xdist"],
)
def test_what_is_skipped_fails_the_run_and_is_counted_once(tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    done = run_of(tmp_path, text, *words)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout
    assert "1 skipped where nothing may be (root, or CI): counted as failed" in done.stdout


def test_a_test_that_is_expected_to_fail_is_not_skipped(tmp_path: Path) -> None:
    done = run_of(tmp_path, EXPECTED_TO_FAIL)
    assert done.returncode == pytest.ExitCode.OK, done.stdout
    assert "counted as failed" not in done.stdout
