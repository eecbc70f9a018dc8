"""The fleet's secrets: made once, encrypted where they are kept, and never made anew because they cannot be read."""

from __future__ import annotations

import datetime
import json
import runpy
import ssl
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleLookupError

ANSIBLE = Path(__file__).resolve().parents[2] / "ansible"
PLUGIN = str(ANSIBLE / "lookup_plugins" / "orch_secret.py")
plugin: dict[str, Any] = runpy.run_path(PLUGIN)
WANTED = {"names": ["frontend-server", "localhost"], "addresses": ["10.0.8.49", "127.0.0.1"], "issuer": "of the test"}


def store(folder: Path, password: str = "password") -> Any:
    return plugin["Store"](folder / "secrets", folder / password)


def ask(folder: Path) -> str:
    """Ask as one of Ansible's forks does."""
    fresh = runpy.run_path(PLUGIN)
    return str(
        fresh["Store"](folder / "secrets", folder / "password").get("amqp_worker_password", fresh["make_password"])
    )


def test_a_secret_is_made_once_and_is_not_readable_where_it_is_kept(tmp_path: Path) -> None:
    made = store(tmp_path).get("amqp_worker_password", plugin["make_password"])
    assert len(made) == 40
    assert made.isalnum()
    assert store(tmp_path).get("amqp_worker_password", plugin["make_password"]) == made
    kept = tmp_path / "secrets" / "secrets.vault"
    assert kept.read_text().startswith("$ANSIBLE_VAULT;")
    assert made not in kept.read_text()
    for path in (kept, tmp_path / "password"):
        assert path.stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in kept.parent.iterdir()) == [".lock", "secrets.vault"]


def test_it_is_a_vault_that_ansible_opens(tmp_path: Path) -> None:
    made = store(tmp_path).get("amqp_worker_password", plugin["make_password"])
    argv = [str(Path(sys.executable).with_name("ansible-vault")), "view", "--vault-password-file"]
    argv += [str(tmp_path / "password"), str(tmp_path / "secrets" / "secrets.vault")]
    seen = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout
    assert json.loads(seen) == {"amqp_worker_password": made}


def test_forks_that_ask_at_the_same_time_get_the_same(tmp_path: Path) -> None:
    with ProcessPoolExecutor(4) as forks:
        assert len(set(forks.map(ask, [tmp_path] * 8))) == 1


def test_without_the_password_nothing_is_made_anew(tmp_path: Path) -> None:
    store(tmp_path).get("amqp_worker_password", plugin["make_password"])
    kept = (tmp_path / "secrets" / "secrets.vault").read_bytes()
    with pytest.raises(AnsibleLookupError, match=r"password, .*, is not here: put it there"):
        store(tmp_path, "another").get("amqp_worker_password", plugin["make_password"])
    (tmp_path / "another").write_text("wrong\n")
    with pytest.raises(AnsibleLookupError, match="cannot be read with the password in"):
        store(tmp_path, "another").get("tls_ca", plugin["make_ca"])
    assert (tmp_path / "secrets" / "secrets.vault").read_bytes() == kept


def test_a_secret_of_a_fleet_that_had_no_vault_is_taken_over(tmp_path: Path) -> None:
    old = tmp_path / "secrets" / "amqp_worker_password"
    old.parent.mkdir()
    old.write_text("from before\n")
    assert store(tmp_path).get("amqp_worker_password", plugin["make_password"]) == "from before"
    assert not old.exists()
    assert store(tmp_path).get("amqp_worker_password", plugin["make_password"]) == "from before"


def test_a_secret_is_made_anew_when_that_is_asked_for(tmp_path: Path) -> None:
    made = store(tmp_path).get("amqp_worker_password", plugin["make_password"])
    anew = store(tmp_path).get("amqp_worker_password", plugin["make_password"], renew=True)
    assert anew != made
    assert store(tmp_path).get("amqp_worker_password", plugin["make_password"]) == anew
    assert store(tmp_path).former("amqp_worker_password") == made
    assert store(tmp_path).former("app_password") == ""


@pytest.mark.parametrize(("called", "is_let_in"), [("frontend-server", True), ("10.0.8.49", True), ("other", False)])
def test_a_vms_certificate_is_good_for_its_names_and_addresses_alone(
    tmp_path: Path, called: str, is_let_in: bool
) -> None:
    ca = plugin["make_ca"]()
    made = plugin["make_certificate"](ca, WANTED)
    (tmp_path / "pem").write_text(made["certificate"] + made["key"])
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context(cadata=ca["certificate"])
    server.load_cert_chain(tmp_path / "pem")
    # Both ways: a VM also comes to others with it.
    client.load_cert_chain(tmp_path / "pem")
    server.load_verify_locations(cadata=ca["certificate"])
    server.verify_mode = ssl.CERT_REQUIRED
    if is_let_in:
        shake_hands(server, client, called)
    else:
        with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
            shake_hands(server, client, called)


def test_another_fleets_authority_is_worth_nothing(tmp_path: Path) -> None:
    made = plugin["make_certificate"](plugin["make_ca"](), WANTED)
    (tmp_path / "pem").write_text(made["certificate"] + made["key"])
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "pem")
    client = ssl.create_default_context(cadata=plugin["make_ca"]()["certificate"])
    with pytest.raises(ssl.SSLCertVerificationError, match="verify failed"):
        shake_hands(server, client, "frontend-server")


def test_a_certificate_is_renewed_when_it_is_not_what_is_wanted_or_ends_within_a_year() -> None:
    made = plugin["make_certificate"](plugin["make_ca"](), WANTED)
    assert plugin["fits"](WANTED, made)
    assert not plugin["fits"]({**WANTED, "addresses": ["10.0.8.50"]}, made)
    assert not plugin["fits"]({**WANTED, "issuer": "another"}, made)
    soon = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=364)
    assert not plugin["fits"](WANTED, {**made, "expires": soon.isoformat()})


def test_a_play_gets_it_by_its_variables(tmp_path: Path) -> None:
    given = {"orch_secrets_dir": str(tmp_path / "secrets"), "orch_vault_password_file": str(tmp_path / "password")}
    words = "{{ [orch_amqp_worker_password, orch_amqp_worker_password, KEY | b64decode | length] }}".replace(
        "KEY", "lookup('orch_secret', 'k', kind='key')"
    )
    argv = [str(Path(sys.executable).with_name("ansible")), "frontend-server", "-m", "ansible.builtin.debug"]
    argv += ["-a", f"msg={words}", "-e", json.dumps(given)]
    done = subprocess.run(argv, cwd=ANSIBLE, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    made = store(tmp_path).get("amqp_worker_password", lambda: pytest.fail("it was not kept"))
    assert done.stdout.count(made) == 2


def rotated(folder: Path, **variables: Any) -> subprocess.CompletedProcess[str]:
    """Run rotate_secrets.yml as far as it needs no VM."""
    given = {"orch_secrets_dir": str(folder / "secrets"), "orch_vault_password_file": str(folder / "password")}
    argv = [str(Path(sys.executable).with_name("ansible-playbook")), "playbooks/rotate_secrets.yml", "--tags", "renew"]
    argv += ["-e", json.dumps({**given, **variables})]
    return subprocess.run(argv, cwd=ANSIBLE, capture_output=True, text=True, timeout=120)


def test_a_rotation_makes_each_secret_anew_once_and_says_none(tmp_path: Path) -> None:
    made = store(tmp_path).get("amqp_worker_password", plugin["make_password"])
    done = rotated(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    anew = store(tmp_path).get("amqp_worker_password", lambda: pytest.fail("it is gone"))
    assert anew != made
    assert store(tmp_path).former("amqp_worker_password") == made
    assert not [secret for secret in (made, anew) if secret in done.stdout + done.stderr]


def test_a_rotation_of_something_else_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    made = store(tmp_path).get("amqp_worker_password", plugin["make_password"])
    done = rotated(tmp_path, rotate=["amqp_worker_password", "tls_ca"])
    assert done.returncode != 0
    assert "tls_ca: no secret that can be rotated; these can: amqp_controller_password, " in " ".join(
        done.stdout.split()
    )
    assert store(tmp_path).get("amqp_worker_password", plugin["make_password"]) == made


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, called: str) -> None:
    """Connect the two in memory; raises what the client thinks of the server."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=called),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert all(end.version() for end in ends)
    assert ends[1].getpeercert()
