"""Replacing a copy of the database by a clone of another server's: the script alone, and the play over SSH.

Real MariaDB servers; the two VMs of the play are two sshd on loopback whose `systemctl` starts and stops one of them.
"""

from __future__ import annotations

import getpass
import json
import os
import pwd
import runpy
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jinja2
import pymysql
import pytest
import yaml

from orchestrator.node.replication import facts
from orchestrator.node.replication.sql import HEARTBEAT_S, MARIADB, SEMI_SYNC_TIMEOUT_MS
from tests.integration.mariadb_server import (
    ACCOUNTS_AND_SCHEMA,
    APP_PASSWORD,
    APP_USER,
    BACKUP_USER,
    GUARD_USER,
    REPLICATION_PASSWORD,
    REPLICATION_USER,
    Datadirs,
    MariaDb,
)
from tests.integration.ports import free_port
from tests.integration.waiting import WAIT_S, wait_for
from tests.tls import make_tls

CHECKOUT = Path(__file__).resolve().parents[2]
SCRIPT = CHECKOUT / "templates" / "database-copy"
FOUNDING = "; ".join((*ACCOUNTS_AND_SCHEMA, "CREATE DATABASE orch", "CREATE TABLE orch.heartbeat (id INT PRIMARY KEY)"))


@pytest.fixture
def pair(datadirs: Datadirs) -> Iterator[tuple[MariaDb, MariaDb]]:
    """Two servers as the package makes them, both running."""
    port = free_port()
    servers = (MariaDb(datadirs, 1, port), MariaDb(datadirs, 2, port))
    try:
        for server in servers:
            server.start()
        yield servers
    finally:
        for server in servers:
            server.remove()


def words_for(server: MariaDb) -> list[str]:
    here = server.here
    return [
        f"--datadir={here}/data", f"--socket={here}/s", f"--defaults-file={here}/my.cnf", f"--errant-dir={here}/errant",
        f"--accounts={server.accounts}",
    ]  # fmt: skip


def run(server: MariaDb, verb: str, *more: str, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(SCRIPT), verb, *more, *words_for(server)], input=text, capture_output=True, text=True, timeout=WAIT_S
    )


def answer(server: MariaDb, verb: str, *more: str, text: str = "") -> dict[str, object]:
    done = run(server, verb, *more, text=text)
    assert (done.returncode, done.stderr) == (0, "")
    return dict(json.loads(done.stdout))


def refusal(server: MariaDb, verb: str, *more: str) -> str:
    done = run(server, verb, *more)
    assert done.returncode == 1
    return done.stderr


def follow(server: MariaDb, source: MariaDb) -> None:
    server.ask("SET GLOBAL gtid_slave_pos = @@gtid_current_pos")
    server.ask(
        "CHANGE MASTER TO MASTER_HOST=%s, MASTER_PORT=%s, MASTER_USER='orch_replication', "
        "MASTER_PASSWORD='replication-secret', MASTER_USE_GTID=slave_pos, MASTER_CONNECT_RETRY=1, MASTER_SSL=1, "
        "MASTER_SSL_CA=%s, MASTER_SSL_VERIFY_SERVER_CERT=1",
        source.address,
        source.port,
        str(source.tls.ca),
    )
    server.ask("START SLAVE")


def position(server: MariaDb) -> str:
    return str(server.ask("SELECT @@gtid_current_pos AS p")[0]["p"])


def values(server: MariaDb) -> list[str]:
    return [row["v"] for row in server.ask("SELECT v FROM listings.t ORDER BY id")]


def insert(server: MariaDb, *words: str) -> None:
    for word in words:
        server.ask("INSERT INTO listings.t SELECT COALESCE(MAX(id), 0) + 1, %s FROM listings.t", word)


def diverge(old: MariaDb, new: MariaDb) -> None:
    """Found the database on `old`; `new` takes over before it has the last two writes of `old`."""
    answer(old, "found", text=FOUNDING)
    follow(new, old)
    insert(old, "shared")
    wait_for(lambda: position(new) == position(old), "the standby has everything")
    new.ask("STOP SLAVE")
    new.ask("RESET SLAVE ALL")
    insert(old, "lost-1", "lost-2")
    new.ask("SET GLOBAL read_only = 0")
    insert(new, "new-1", "new-2", "new-3")


def test_a_founded_database_reaches_a_standby_as_the_package_made_it_and_is_founded_once(
    pair: tuple[MariaDb, MariaDb],
) -> None:
    home, standby = pair
    assert answer(home, "found", text=FOUNDING)["changed"] is True
    assert answer(home, "found", text="nonsense")["changed"] is False
    assert answer(standby, "blank")["changed"] is False
    follow(standby, home)
    insert(home, "a")
    wait_for(lambda: position(standby) == position(home), "the standby follows from the beginning")
    assert values(standby) == ["a"]
    assert answer(standby, "needed")["needed"] is False
    assert answer(standby, "blank")["changed"] is False, "it is left alone once it replicates"


def test_a_copy_says_whether_it_has_served_and_what_it_knows(pair: tuple[MariaDb, MariaDb]) -> None:
    home, standby = pair
    assert answer(home, "served")["served"] is False
    answer(home, "found", text=FOUNDING)
    assert answer(home, "served")["served"] is False, "a deployment that was interrupted is begun again"
    follow(standby, home)
    home.ask("INSERT INTO orch.heartbeat VALUES (1)")
    wait_for(lambda: position(standby) == position(home), "the standby has everything")
    for server in pair:
        told = answer(server, "served")
        assert told["served"] is True
        assert set(str(told["gtids"]).split(",")) == {position(home)}


def rendered(name: str, **variables: object) -> str:
    filters = runpy.run_path(str(CHECKOUT / "ansible" / "filter_plugins" / "orch_mariadb.py"))
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters.update(filters["FilterModule"]().filters())
    return environment.from_string((CHECKOUT / "templates" / name).read_text()).render(**variables)


def test_the_rendered_statements_make_the_accounts_and_only_the_application_s_schema_is_the_application_s(
    pair: tuple[MariaDb, MariaDb],
) -> None:
    home, _ = pair
    accounts = {
        "orch_replication_user": REPLICATION_USER,
        "orch_replication_password": REPLICATION_PASSWORD,
        "app_database_name": "listings",
        "app_database_user": APP_USER,
        "app_database_password": APP_PASSWORD,
    }
    answer(home, "found", text=rendered("database-founding.sql.j2", **accounts))
    home.ask(MARIADB.heartbeat_write)
    home.ask("SET GLOBAL read_only = 0")
    with home.client() as client, client.cursor() as cursor:
        cursor.execute("CREATE TABLE mine (id INT PRIMARY KEY)")
        with pytest.raises(pymysql.err.OperationalError, match="denied"):
            cursor.execute("INSERT INTO orch.heartbeat VALUES (1, NOW(6))")
    grants = home.ask(f"SHOW GRANTS FOR {REPLICATION_USER}@'%'")
    assert any("REPLICATION SLAVE, SLAVE MONITOR ON" in str(grant) for grant in grants)
    binlog = (home.here / "data" / "binlog.000001").read_bytes()
    assert b"orch.heartbeat" in binlog, "a standby gets it by replication"
    assert APP_PASSWORD.encode() not in binlog


def test_mariadb_knows_every_setting_of_the_rendered_configuration_and_has_what_it_says(tmp_path: Path) -> None:
    tls = make_tls(tmp_path)
    text = rendered(
        "my.cnf.j2",
        inventory_hostname="backend-server",
        ansible_host="10.0.0.22",
        groups={"vms": ["database-server", "backend-server"]},
        orch_services={"database": {"port": 3306}},
        database_datadir="/var/lib/mysql",
        database_binlog_keep_days=10,
        orch_tls_ca=tls.ca,
        orch_tls_certificate=tls.certificate,
        orch_tls_key=tls.key,
    )
    (tmp_path / "my.cnf").write_text(text)
    done = subprocess.run(
        ["mariadbd", f"--defaults-file={tmp_path}/my.cnf", "--user=mysql", "--verbose", "--help"],
        env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "unknown" not in done.stderr
    effective = dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if len(line.split()) == 2)
    assert int(effective["server-id"]) > 0
    assert effective["read-only"] == "TRUE"
    assert effective["require-secure-transport"] == "TRUE"
    assert effective["rpl-semi-sync-master-timeout"] == str(SEMI_SYNC_TIMEOUT_MS)
    assert int(effective["slave-net-timeout"]) > HEARTBEAT_S, "a source that is alive is not taken for gone"
    assert effective["rpl-semi-sync-master-wait-point"] == "AFTER_SYNC"


def test_transactions_of_a_standby_s_own_package_are_forgotten_and_data_of_its_own_is_not(
    pair: tuple[MariaDb, MariaDb],
) -> None:
    _, standby = pair
    standby.ask("CREATE USER somebody@localhost")
    assert answer(standby, "blank")["changed"] is True
    assert position(standby) == ""
    standby.ask("CREATE DATABASE mine")
    assert "holds mine, which the home's copy would replace" in refusal(standby, "blank")


def test_where_home_had_data_before_the_binlog_began_a_standby_must_be_cloned(pair: tuple[MariaDb, MariaDb]) -> None:
    home, standby = pair
    home.ask("SET STATEMENT sql_log_bin=0 FOR CREATE DATABASE before_orch")
    answer(home, "found", text=FOUNDING)
    follow(standby, home)
    assert answer(standby, "needed")["needed"] is True


def test_a_copy_that_only_its_package_has_made_is_cloned_unless_it_holds_data_of_somebody_s(
    pair: tuple[MariaDb, MariaDb],
) -> None:
    _, new = pair
    assert answer(new, "needed")["needed"] is False, "a standby that was deployed, and follows nobody yet"
    for user in (GUARD_USER, BACKUP_USER):
        new.own(f"DROP USER {user}@localhost")
    told = answer(new, "needed")
    assert (told["needed"], told["empty"], told["why"]) == (True, True, "it is as its package made it")
    new.ask("CREATE DATABASE mine")
    assert "holds mine and was never the fleet's" in refusal(new, "needed")


def test_what_calls_for_a_clone_is_what_the_guard_takes_for_it() -> None:
    script = runpy.run_path(str(SCRIPT))
    for errno in range(1000, 4000):
        for error in ("requested to start from GTID 0-1-14", "binlog truncated"):
            replica = facts.Replica("", False, False, False, False, None, errno, error)
            assert script["can_never_follow"](errno, error) == replica.needs_clone, (errno, error)


def test_only_the_copy_that_takes_writes_is_a_source_and_it_is_never_replaced(pair: tuple[MariaDb, MariaDb]) -> None:
    active, standby = pair
    active.ask("SET GLOBAL read_only = 0")
    for verb in ("state", "send"):
        assert "is not the active one" in refusal(standby, verb)
    assert answer(active, "needed")["needed"] is False
    assert "it is the active one" in refusal(active, "receive")
    assert "it is the active one" in refusal(active, "save-errant", "")
    assert "is no list of GTIDs" in refusal(standby, "save-errant", "x; y")


def test_where_the_binlog_cannot_be_read_from_a_gtid_on_all_of_it_is_saved(
    pair: tuple[MariaDb, MariaDb], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = pair
    diverge(old, new)
    program = shutil.which("mariadb-binlog")
    (tmp_path / "mariadb-binlog").write_text(
        f'#!/bin/sh\ncase "$*" in *--start-position*) exit 1 ;; esac\nexec {program} "$@"\n'
    )
    (tmp_path / "mariadb-binlog").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    saved = answer(old, "save-errant", str(answer(new, "state")["gtids"]))
    assert saved["transactions"] == 2
    text = Path(str(saved["file"])).read_text()
    assert all(word in text for word in ("shared", "lost-1", "lost-2"))


def test_what_a_full_disk_has_torn_hinders_no_saving(pair: tuple[MariaDb, MariaDb]) -> None:
    old, new = pair
    diverge(old, new)
    old.ask("FLUSH BINARY LOGS")
    insert(old, "lost-3")
    names = [row["Log_name"] for row in old.ask("SHOW BINARY LOGS")]
    torn = old.here / "data" / names[-2]
    # The last event of "lost-2", its commit, and the file's end: the server would have rolled it back.
    os.truncate(torn, torn.stat().st_size - 60)
    saved = answer(old, "save-errant", str(answer(new, "state")["gtids"]))
    text = Path(str(saved["file"])).read_text()
    assert [word in text for word in ("'shared'", "lost-1", "lost-3")] == [False, True, True]


def test_what_two_servers_have_numbered_alike_is_saved(pair: tuple[MariaDb, MariaDb]) -> None:
    old, new = pair
    diverge(old, new)
    # A number that came before, from another server: as when one was rolled back here and the other one took over.
    old.ask("SET GLOBAL gtid_strict_mode = 0")
    old.ask("SET STATEMENT server_id = 77, gtid_seq_no = 2 FOR INSERT INTO listings.t VALUES (99, 'lost-3')")
    saved = answer(old, "save-errant", "")
    text = Path(str(saved["file"])).read_text()
    assert all(word in text for word in ("'shared'", "lost-1", "lost-2", "lost-3"))


def test_a_clone_that_comes_in_part_is_never_used(pair: tuple[MariaDb, MariaDb]) -> None:
    active, standby = pair
    answer(active, "found", text=FOUNDING)
    active.ask("SET GLOBAL read_only = 0")
    whole = subprocess.run([str(SCRIPT), "send", *words_for(active)], capture_output=True, check=True).stdout
    half = subprocess.run(
        [str(SCRIPT), "receive", *words_for(standby)], input=whole[: len(whole) // 2], capture_output=True
    )
    assert half.returncode == 1
    assert b"did not come whole" in half.stderr
    standby.stop()
    assert "no clone that is ready" in refusal(standby, "swap")
    standby.start()


SYSTEMCTL = """\
#!/bin/bash
# One unit, mariadb: the server of this VM.
here=$(cat "$ORCH_TEST_VM/server")
# A server that the test has started is a zombie when it has ended: it has no program any more.
running() { [ -s "$here/test-pid" ] && readlink "/proc/$(cat "$here/test-pid")/exe" >/dev/null; }
start() {
    running && return
    $AS_SERVER_USER mariadbd --defaults-file="$here/my.cnf" </dev/null >/dev/null 2>&1 & echo $! >"$here/test-pid"
    while running; do mariadb --no-defaults -S "$here/s" -e 'SELECT 1' >/dev/null 2>&1 && return; sleep 0.1; done
    exit 1
}
case "$*" in
    show*) running && state=active || state=inactive
        printf '%s\\n' Id=mariadb.service \\
            LoadState=loaded NeedDaemonReload=no ActiveState=$state ;;
    is-enabled*) echo enabled ;;
    start*) start ;;
    stop*) running && kill "$(cat "$here/test-pid")"; while running; do sleep 0.1; done ;;
    *) exit 0 ;;
esac
"""


class Vm:
    """An sshd whose commands find a `systemctl`, a `sudo` and a `database-copy` for one server."""

    def __init__(self, directory: Path, name: str, server: MariaDb) -> None:
        self.directory, self.server, self.port = directory / name, server, free_port()
        (self.directory / "bin").mkdir(parents=True)
        (self.directory / "server").write_text(str(server.here))
        database_copy = f'#!/bin/sh\nexec {SCRIPT} "$@" {" ".join(words_for(server))}\n'
        as_user = "setpriv --reuid=mysql --regid=mysql --init-groups" if os.geteuid() == 0 else ""
        for program, text in (
            ("systemctl", SYSTEMCTL.replace("$AS_SERVER_USER", as_user)),
            ("sudo", '#!/bin/sh\nshift\nexec "$@"\n'),
            ("database-copy", database_copy),
        ):
            (self.directory / "bin" / program).write_text(text)
            (self.directory / "bin" / program).chmod(0o755)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{self.directory}/host"], check=True)
        options = {
            "Port": self.port,
            "ListenAddress": "127.0.0.1",
            "HostKey": self.directory / "host",
            "AuthorizedKeysFile": directory / "id.pub",
            "PidFile": "none",
            "UsePAM": "no",
            "StrictModes": "no",
            "SetEnv": f"PATH={self.directory}/bin:/usr/sbin:/usr/bin:/sbin:/bin ORCH_TEST_VM={self.directory}",
        }
        words = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
        self.sshd = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", "/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null", *words],
            stderr=(self.directory / "sshd.log").open("wb"),
        )

    @property
    def known_host(self) -> str:
        return f"[127.0.0.1]:{self.port} {(self.directory / 'host.pub').read_text()}"

    def end(self) -> None:
        self.sshd.terminate()
        self.sshd.wait()
        pid = self.server.here / "test-pid"
        if pid.exists():
            subprocess.run(["kill", "-KILL", pid.read_text().strip()], check=False, stderr=subprocess.DEVNULL)


class Fleet:
    """database-server and backend-server, and the plays of this checkout."""

    def __init__(self, directory: Path, database: MariaDb, backend: MariaDb) -> None:
        self.directory = directory
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{directory}/id"], check=True)
        self.vms = {
            "database-server": Vm(directory, "database-server", database),
            "backend-server": Vm(directory, "backend-server", backend),
        }
        (directory / "known_hosts").write_text("".join(vm.known_host for vm in self.vms.values()))
        shutil.copytree(CHECKOUT / "ansible", directory / "ansible", symlinks=True)
        (directory / "ansible" / "inventory" / "hosts").unlink()
        hosts = {
            name: {"ansible_host": "127.0.0.1", "ansible_port": vm.port, "ansible_user": getpass.getuser()}
            for name, vm in self.vms.items()
        }
        (directory / "ansible" / "inventory" / "hosts.yml").write_text(
            yaml.safe_dump({"vms": {"hosts": hosts}, "brokers": {}, "controllers": {}, "workers": {}})
        )
        # As the worker's own, made by templates/worker-inventory.yml.j2.
        (directory / "ansible" / "inventory" / "group_vars" / "all" / "worker.yml").write_text(
            f"ansible_ssh_private_key_file: {directory}/id\n"
            f"ansible_ssh_common_args: -o UserKnownHostsFile={directory}/known_hosts -o StrictHostKeyChecking=yes\n"
        )

    def activate(self, **variables: object) -> subprocess.CompletedProcess[str]:
        settings = {"unit": "mariadb", "enable_at_boot": True, "database_copy": ["database-copy"]} | variables
        ansible = self.directory / "ansible"
        words = ["-i", "inventory/hosts.yml", "-e", json.dumps(settings), "playbooks/activate_database.yml"]
        return subprocess.run(
            [str(Path(sys.executable).with_name("ansible-playbook")), *words],
            cwd=ansible,
            env={**os.environ, "HOME": str(self.directory), "ANSIBLE_CONFIG": str(ansible / "ansible.cfg")},
            capture_output=True,
            text=True,
            timeout=120,
        )

    def end(self) -> None:
        for vm in self.vms.values():
            vm.end()


@pytest.fixture
def fleet(pair: tuple[MariaDb, MariaDb]) -> Iterator[Fleet]:
    if not Path("/usr/sbin/sshd").exists():
        pytest.fail("these tests need sshd: install the Debian package openssh-server", pytrace=False)
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="orch-", dir="/tmp") as directory:
        Path(directory).chmod(0o755)
        fleet = Fleet(Path(directory), *pair)
        try:
            yield fleet
        finally:
            fleet.end()


def hand_over_to_systemctl(server: MariaDb) -> None:
    """From now on the stand-in of systemctl starts and stops the server."""
    assert server._process is not None
    (server.here / "test-pid").write_text(str(server._process.pid))


def test_a_copy_that_has_diverged_is_saved_and_cloned_by_the_play_and_follows_then(
    fleet: Fleet, pair: tuple[MariaDb, MariaDb]
) -> None:
    old, new = pair
    diverge(old, new)
    follow(old, new)
    hand_over_to_systemctl(old)

    left = fleet.activate(target="database-server", source="backend-server", clone="never")
    assert left.returncode != 0
    told = "the copy on database-server must be replaced: `orch clone database` has it cloned from backend-server ("
    assert told in left.stdout
    assert values(old) == ["shared", "lost-1", "lost-2"], "never: the copy stays"

    done = fleet.activate(target="database-server", source="backend-server", clone="auto")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 transactions that nobody else has are saved in" in done.stdout
    saved = next((old.here / "errant").glob("*.sql")).read_text()
    assert "lost-1" in saved
    assert "lost-2" in saved
    assert "'shared'" not in saved
    assert old.ask("SELECT @@read_only AS r")[0]["r"] == 1
    assert position(old) == position(new)
    follow(old, new)
    insert(new, "after")
    wait_for(lambda: position(old) == position(new), "it follows")
    assert values(old) == values(new) == ["shared", "new-1", "new-2", "new-3", "after"]
    assert sorted(path.name for path in old.here.glob("data.orch-*")) == ["data.orch-lock"]


def test_an_empty_standby_is_filled_by_the_play(fleet: Fleet, pair: tuple[MariaDb, MariaDb]) -> None:
    standby, active = pair
    answer(active, "found", text=FOUNDING)
    active.ask("SET GLOBAL read_only = 0")
    insert(active, "a")
    standby.stop()
    shutil.rmtree(standby.here / "data")
    done = fleet.activate(target="database-server", source="backend-server", clone="auto")
    assert done.returncode == 0, done.stdout + done.stderr
    assert values(standby) == ["a"]
    if os.geteuid() == 0:
        assert (standby.here / "data").stat().st_uid == pwd.getpwnam("mysql").pw_uid


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"source": "elsewhere"}, "elsewhere is not one VM of the order of database: database-server, backend-server"),
        ({"source": "backend-server", "clone": "perhaps"}, "clone is auto or never, not perhaps"),
    ],
)
def test_a_source_that_is_none_ends_the_play_with_a_sentence(
    fleet: Fleet, pair: tuple[MariaDb, MariaDb], variables: dict[str, str], sentence: str
) -> None:
    hand_over_to_systemctl(pair[0])
    done = fleet.activate(target="database-server", **variables)
    assert done.returncode != 0
    assert sentence in done.stdout + done.stderr
