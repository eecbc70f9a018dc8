"""`deploy/bootstrap.sh` without root, in a checkout and with a cache of the test's own."""

from __future__ import annotations

import os
import pty
import subprocess
from pathlib import Path

import pytest

from deploy.machines.places import CHECKOUT

# What the script itself runs; of the packages' commands none is among them.
WORDS = ("bash", "dirname", "awk", "sha256sum", "cut", "readlink", "ln", "mkdir", "flock", "rm", "touch", "sort", "env")


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A folder with a checkout, and a PATH on which nothing is installed that the lab needs."""
    deploy = tmp_path / "checkout" / "deploy"
    deploy.mkdir(parents=True)
    (deploy / "bootstrap.sh").write_bytes((CHECKOUT / "deploy" / "bootstrap.sh").read_bytes())
    (tmp_path / "checkout" / "setup.cfg").write_text("[options]\ninstall_requires =\n    nothing\n")
    commands = tmp_path / "bin"
    commands.mkdir()
    for word in WORDS:
        where = next(Path(folder, word) for folder in ("/usr/bin", "/bin") if Path(folder, word).exists())
        (commands / word).symlink_to(where)
    return tmp_path


def python_that(machine: Path, has_ensurepip: bool) -> None:
    """Put a Python on the PATH that makes an environment of nothing."""
    python = machine / "bin" / "python3"
    python.write_text(
        "#!/bin/bash\n"
        'case "$*" in\n'
        f"    *ensurepip*) exit {0 if has_ensurepip else 1} ;;\n"
        f'    *sys.executable*) echo "{python}" ;;\n'
        '    "-m venv "*) mkdir -p "$3/bin"; for each in python pip; do ln -s /bin/true "$3/bin/$each"; done ;;\n'
        "esac\n"
    )
    python.chmod(0o755)


def bootstrap(machine: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": str(machine / "bin"), "HOME": str(machine), "ORCH_CACHE": str(machine / "cache")}
    return subprocess.run(
        ["bash", str(machine / "checkout" / "deploy" / "bootstrap.sh"), *words],
        check=False,
        env={**env, "ORCH_NO_PACKAGES": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_without_root_the_environment_is_made_and_the_packages_left_out_are_named(machine: Path) -> None:
    python_that(machine, has_ensurepip=True)
    done = bootstrap(machine)
    assert done.returncode == 0, done.stderr
    venv = machine / "checkout" / ".venv"
    assert venv.is_symlink()
    assert os.access(venv / "bin" / "python", os.X_OK)
    left_out = next(line for line in done.stderr.splitlines() if "left out without root" in line)
    assert "systemd-container" in left_out
    assert "the lab of four machines needs them" in left_out


def test_a_second_run_makes_nothing(machine: Path) -> None:
    python_that(machine, has_ensurepip=True)
    bootstrap(machine)
    assert "making" not in bootstrap(machine).stderr


def test_a_directory_in_the_place_of_the_link_is_refused_and_left_alone(machine: Path) -> None:
    python_that(machine, has_ensurepip=True)
    own = machine / "checkout" / ".venv"
    own.mkdir()
    done = bootstrap(machine)
    assert done.returncode == 1
    assert f"{own} is not the link that this script makes" in done.stderr
    assert list(own.iterdir()) == []


def test_without_root_a_python_that_makes_no_environment_is_told_with_what_it_is_for(machine: Path) -> None:
    python_that(machine, has_ensurepip=False)
    done = bootstrap(machine)
    assert done.returncode == 1
    said = done.stderr.splitlines()[-1]
    assert "needs the package python3-venv to make the Python environment" in said
    assert "lab" not in said
    assert not (machine / "checkout" / ".venv").exists()


@pytest.mark.parametrize("killed", [True, False])
def test_what_keeps_services_off_goes_after_a_killed_run_unless_it_is_the_machines_own(
    tmp_path: Path, killed: bool
) -> None:
    policy = tmp_path / "policy-rc.d"
    leave = "keep_new_services_off; kill -KILL $BASHPID" if killed else 'echo "exit 0" >"$policy"'
    script = """
        source "$1"
        policy=$2 cache=$3
        may_install() { true; }
        """
    words = [str(CHECKOUT / "deploy" / "bootstrap.sh"), str(policy), str(tmp_path / "cache")]
    subprocess.run(["bash", "-c", f"{script} {leave}", "bash", *words], check=False, timeout=30)
    assert policy.exists()
    subprocess.run(["bash", "-c", f"{script} install_packages sh:dash", "bash", *words], check=True, timeout=30)
    assert policy.exists() is not killed


def test_make_alone_lists_the_targets_with_nothing_but_what_every_machine_has(tmp_path: Path) -> None:
    for word in ("make", "awk", "sh"):
        (tmp_path / word).symlink_to(Path("/usr/bin", word))
    done = subprocess.run(
        ["make", "-C", str(CHECKOUT)], env={"PATH": str(tmp_path)}, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "make demo " in done.stdout


def sourced(tmp_path: Path, release: str, script: str) -> str:
    """Run a script with bootstrap's functions, as root on a machine of the release, in a checkout of the test's own."""
    (tmp_path / "os-release").write_text(release)
    (tmp_path / "cache" / "locks").mkdir(parents=True, exist_ok=True)
    (tmp_path / "cache" / "logs").mkdir(exist_ok=True)
    begin = 'source "$1"; checkout=$2 cache=$2/cache os_release=$2/os-release; may_install() { true; };'
    words = [str(CHECKOUT / "deploy" / "bootstrap.sh"), str(tmp_path)]
    return subprocess.run(
        ["bash", "-c", f"{begin} {script}", "bash", *words], check=True, capture_output=True, text=True, timeout=30
    ).stdout


DEBIAN, UBUNTU, MINT = "ID=debian\n", "ID=ubuntu\nID_LIKE=debian\n", 'ID=linuxmint\nID_LIKE="ubuntu debian"\n'


@pytest.mark.parametrize(("release", "has_package"), [(DEBIAN, True), (UBUNTU, False), (MINT, False)])
def test_the_package_chromium_is_wanted_where_it_holds_a_browser(
    tmp_path: Path, release: str, has_package: bool
) -> None:
    wanted = sourced(tmp_path, release, "wanted_packages --test").splitlines()
    assert ("chromium:chromium" in wanted) is has_package
    assert "rabbitmq-server:rabbitmq-server" in wanted
    assert "rabbitmq-server:rabbitmq-server" not in sourced(tmp_path, release, "wanted_packages").splitlines()


def test_playwrights_browser_is_kept_in_the_cache_and_found_as_chromium(tmp_path: Path) -> None:
    commands = tmp_path / ".venv" / "bin"
    commands.mkdir(parents=True)
    (commands / "playwright").write_text(
        '#!/bin/sh\necho "$*" >>"$0.asked"\nmkdir -p "$PLAYWRIGHT_BROWSERS_PATH"\n'
        'cp /bin/true "$PLAYWRIGHT_BROWSERS_PATH/chrome"\n'
    )
    (commands / "python").write_text('#!/bin/sh\necho "$PLAYWRIGHT_BROWSERS_PATH/chrome"\n')
    for command in commands.iterdir():
        command.chmod(0o755)
    sourced(tmp_path, UBUNTU, "have_playwrights_browser; have_playwrights_browser")
    assert (commands / "playwright.asked").read_text() == "install --with-deps chromium\n"
    assert (tmp_path / ".venv" / "browser" / "chromium").resolve() == tmp_path / "cache" / "browsers" / "chrome"


def shown_until(terminal: int, words: bytes) -> bytes:
    """Read what a terminal shows until the words came, or until nobody has it open any more."""
    shown = b""
    while words not in shown:
        try:
            shown += os.read(terminal, 4096)
        except OSError:
            return shown
    return shown


@pytest.mark.timeout(60)
@pytest.mark.parametrize("killed", [True, False])
def test_on_a_terminal_the_seconds_are_shown_until_it_is_over_or_killed(tmp_path: Path, killed: bool) -> None:
    ours, theirs = pty.openpty()
    script = 'source "$1"; start_clock installing; read -r; stop_clock; say over'
    words = ["bash", "-c", script, "bash", str(CHECKOUT / "deploy" / "bootstrap.sh")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stderr=theirs, text=True) as process:
        os.close(theirs)
        assert b"2 s" in shown_until(ours, b"2 s")
        if killed:
            process.kill()
            process.wait()
        else:
            process.communicate("go on\n")
        # Ends because the terminal is let go: no clock goes on.
        assert (b"over" in shown_until(ours, b"never shown")) is not killed
    os.close(ours)
