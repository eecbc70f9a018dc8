"""`deploy/distribute_ssh_keys`: whose key opens which VM afterwards. A VM is a folder here, its scripts are run."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from deploy.machines.places import CHECKOUT

INVENTORY = """\
[vms]
frontend-server ansible_host=10.0.0.55
backend-server  ansible_port=2222 ansible_host=10.0.0.5 # behind the others

[controllers]
frontend-server
"""
ADDRESSES = ("10.0.0.55", "10.0.0.5")
# A VM is a folder named by its address: it lets in whose key its authorized_keys has, once its host key is pinned.
SSH = """\
#!/bin/sh
while [ $# -gt 2 ]; do
    case $1 in
        -i) key=$2; shift ;;
        -o) [ "$2" != StrictHostKeyChecking=accept-new ] || pins=yes; shift ;;
    esac
    shift
done
vm=@/$1
[ -e "$vm" ] || { echo "ssh: connect to host $1 port 22: Connection timed out" >&2; exit 255; }
[ -e "$vm/pinned" ] || [ "${pins-}" ] || { echo "Host key verification failed." >&2; exit 255; }
touch "$vm/pinned"
[ -e "${key%.pub}.pub" ] && grep -qF "$(cut -d' ' -f2 "${key%.pub}.pub")" "$vm/.ssh/authorized_keys" 2>/dev/null || {
    echo "admin@$1: Permission denied (publickey)." >&2; exit 255; }
HOME=$vm exec sh -c "$2"
"""
SUDO = '#!/bin/sh\n[ ! -e "$HOME/no-sudo" ]\n'


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    """Two VMs that the image's key opens, and both keys, in a folder."""
    (tmp_path / "hosts").write_text(INVENTORY)
    for name in ("image", "own"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", tmp_path / name], check=True)
    for address in ADDRESSES:
        (tmp_path / address / ".ssh").mkdir(parents=True)
        # As cloud-init leaves it: without an end of line.
        (tmp_path / address / ".ssh" / "authorized_keys").write_text((tmp_path / "image.pub").read_text().strip())
        (tmp_path / address / "pinned").touch()
    (tmp_path / "bin").mkdir()
    for name, text in (("ssh", SSH.replace("@", str(tmp_path))), ("sudo", SUDO), ("id", "#!/bin/sh\necho 1000\n")):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path


def distribute(fleet: Path, *words: str) -> tuple[int, list[str]]:
    """Return its exit status and the lines that it said."""
    given = ["--inventory", "hosts", "--public-key", "own.pub", "--key", "image", "--user", "admin"]
    done = subprocess.run(
        [str(CHECKOUT / "deploy" / "distribute_ssh_keys"), *given, *words],
        check=False,
        cwd=fleet,
        env={**os.environ, "PATH": f"{fleet}/bin:{os.environ['PATH']}", "HOME": str(fleet)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout.splitlines()


def keys(fleet: Path, address: str) -> list[str]:
    """Return whose keys the VM takes, by their comments."""
    return [line.split()[2] for line in (fleet / address / ".ssh" / "authorized_keys").read_text().splitlines()]


def both(said: str) -> list[str]:
    return [f"frontend-server: {said}", f"backend-server: {said}"]


def test_every_vm_takes_your_key_beside_the_image_s_and_another_run_changes_nothing(fleet: Path) -> None:
    assert distribute(fleet) == (0, both("has your key now"))
    assert [keys(fleet, address) for address in ADDRESSES] == [["image", "own"]] * 2
    assert (fleet / ADDRESSES[0] / ".ssh" / "authorized_keys").stat().st_mode & 0o777 & ~0o644 == 0
    assert distribute(fleet) == (0, both("had your key already"))
    assert [keys(fleet, address) for address in ADDRESSES] == [["image", "own"]] * 2


def test_the_image_s_key_is_retired_once_yours_works_and_is_not_missed_by_later_runs(fleet: Path) -> None:
    assert distribute(fleet, "--retire") == (0, both("has your key now; image opens it no more"))
    assert [keys(fleet, address) for address in ADDRESSES] == [["own"]] * 2
    assert distribute(fleet, "--retire") == (0, both("had your key already; image had been retired"))


def test_nothing_is_retired_where_your_key_does_not_open_the_vm(fleet: Path) -> None:
    (fleet / "own").rename(fleet / "elsewhere")
    ssh = fleet / "bin" / "ssh"
    ssh.write_text(ssh.read_text().replace("HOME=$vm", '[ "$2" != true ] || exit 255\nHOME=$vm'))
    code, said = distribute(fleet, "--retire")
    assert code == 1
    why = "it has your key now, and does not let you in with it: is its private half here, or in your agent?"
    assert said == both(why)
    assert keys(fleet, ADDRESSES[0]) == ["image", "own"]


def test_each_vm_that_cannot_be_served_has_its_sentence_and_the_others_are_served(fleet: Path) -> None:
    (fleet / ADDRESSES[0]).rename(fleet / "off")
    why = "ssh: connect to host 10.0.0.55 port 22: Connection timed out"
    assert distribute(fleet) == (1, [f"frontend-server: {why}", "backend-server: has your key now"])
    assert keys(fleet, ADDRESSES[1]) == ["image", "own"]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        ("pinned", "its host key is not pinned yet: --first-contact pins it, and tells what to compare"),
        ("keys", "it lets admin in with neither your key nor image"),
        ("sudo", "admin may not use sudo there without a password, which Ansible needs"),
    ],
)
def test_what_ansible_would_stumble_over_is_said_in_a_sentence(fleet: Path, spoil: str, said: str) -> None:
    for address in ADDRESSES:
        vm = fleet / address
        if spoil == "sudo":
            (vm / "no-sudo").touch()
        else:
            (vm / ("pinned" if spoil == "pinned" else ".ssh/authorized_keys")).unlink()
    assert distribute(fleet) == (1, both(said))


def test_an_unknown_host_key_is_pinned_only_when_that_is_asked_for(fleet: Path) -> None:
    for address in ADDRESSES:
        (fleet / address / "pinned").unlink()
    assert distribute(fleet, "--first-contact") == (0, both("has your key now"))
    assert distribute(fleet) == (0, both("had your key already"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--public-key", "own"), "own is a private key, which is to leave this machine never: name its .pub file"),
        (("--public-key", "hosts"), "hosts is no public key of SSH's"),
        (("--public-key", "nowhere.pub"), "nowhere.pub cannot be read; `ssh-keygen -t ed25519` makes a key of yours"),
        (("--key", "hosts"), "hosts is no private key that can be used without a passphrase: "),
        (("--inventory", "nowhere"), "there is no inventory at nowhere (No such file or directory)"),
        (("--inventory", "own.pub"), "own.pub gives no VM an address (ansible_host=…)"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_any_vm_is_asked(fleet: Path, words: tuple[str, ...], said: str) -> None:
    code, lines = distribute(fleet, *words)
    assert code == 1
    assert lines[0].startswith(f"distribute_ssh_keys: {said}")
    assert [keys(fleet, address) for address in ADDRESSES] == [["image"]] * 2
