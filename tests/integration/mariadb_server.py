"""Real MariaDB servers for tests: each with a loopback address, data, socket and configuration of its own.

Needs the Debian package mariadb-server. The configuration is the fleet's own where it matters to what is tested.
As root the server runs as the package's user, and root is let in over the socket, as on a VM of the fleet.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import pymysql

from orchestrator.settings import DatabaseSettings
from tests.integration.small_disk import SmallDisk
from tests.rendering import TEMPLATES, render
from tests.tls import make_tls

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
_SERVER_USER = "mysql"
APP_USER, APP_PASSWORD = "orch_app", "app-secret"
REPLICATION_USER, REPLICATION_PASSWORD = "orch_replication", "replication-secret"
GUARD_USER, GUARD_PASSWORD = "orch_guard", "guard-secret"
BACKUP_USER, BACKUP_PASSWORD = "orch_backup", "backup-secret"

_CONFIGURATION = """\
[mariadbd]
datadir = {here}/data
socket = {here}/s
pid_file = {here}/pid
log_error = {here}/server.log
tmpdir = {here}
port = {port}
bind_address = {host}
skip_name_resolve = ON
ssl_ca = {tls.ca}
ssl_cert = {tls.certificate}
ssl_key = {tls.key}
tls_version = TLSv1.2,TLSv1.3
require_secure_transport = ON
server_id = {server_id}
read_only = 1
log_bin = binlog
log_slave_updates = ON
relay_log = relay
relay_log_recovery = ON
skip_slave_start = ON
gtid_strict_mode = ON
gtid_domain_id = 0
sync_binlog = 1
innodb_flush_log_at_trx_commit = 1
slave_net_timeout = 2
rpl_semi_sync_master_enabled = OFF
rpl_semi_sync_master_wait_point = AFTER_SYNC
rpl_semi_sync_master_wait_no_slave = ON
rpl_semi_sync_master_timeout = 315360000000
# Small, for tests only.
innodb_buffer_pool_size = 16M
innodb_log_file_size = 8M
performance_schema = OFF
{extra}

[mariadb-backup]
user = {backup_user}
password = {backup_password}
"""


class NoMariaDb(Exception):
    """There is no MariaDB to test with."""


class Datadirs:
    """Where the servers of a test session live: a short path, so that the sockets' names fit, and one empty datadir,
    made once and copied for each server."""

    def __init__(self) -> None:
        if shutil.which("mariadbd", path=_PATH) is None:
            raise NoMariaDb("these tests need MariaDB: install the Debian package mariadb-server")
        self.root = Path(tempfile.mkdtemp(prefix="orch-db-", dir="/tmp"))
        self.root.chmod(0o755)
        self.tls = make_tls(self.root)
        _give_to_server(self.tls.key)
        self._empty = self.root / "empty"
        subprocess.run(
            [
                "mariadb-install-db",
                "--no-defaults",
                f"--datadir={self._empty}",
                f"--auth-root-socket-user={_me()}",
                "--skip-test-db",
                "--innodb-log-file-size=8M",
                *([f"--user={_SERVER_USER}"] if os.geteuid() == 0 else []),
            ],
            env={**os.environ, "PATH": _PATH},
            check=True,
            capture_output=True,
        )

    def new(self) -> Path:
        """Return a new folder with a datadir as it is after the installation."""
        here = Path(tempfile.mkdtemp(dir=self.root))
        subprocess.run(["cp", "-a", str(self._empty), str(here / "data")], check=True)
        _give_to_server(here)
        return here

    def remove(self) -> None:
        """Remove everything."""
        shutil.rmtree(self.root, ignore_errors=True)


class MariaDb:
    """One server. `stop()` and `kill()` keep its data, `start()` goes on with it."""

    def __init__(self, datadirs: Datadirs, server_id: int, port: int, **options: str) -> None:
        """All servers of a pair listen on the same port, each on a loopback address of its own, as VMs do.

        `options` are added to the configuration.
        """
        self.here = datadirs.new()
        self.port = port
        self.address = f"127.0.0.{server_id}"
        self._process: subprocess.Popen[bytes] | None = None
        self._disk: SmallDisk | None = None
        password_file, guard_password_file = self.here / "replication_password", self.here / "guard_password"
        password_file.write_text(REPLICATION_PASSWORD + "\n")
        guard_password_file.write_text(GUARD_PASSWORD + "\n")
        self.tls = datadirs.tls
        self.accounts = self.here / "accounts.sql"
        self.accounts.write_text(OWN_ACCOUNTS)
        self._has_accounts = False
        (self.here / "my.cnf").write_text(
            _CONFIGURATION.format(
                here=self.here,
                host=self.address,
                port=self.port,
                server_id=server_id,
                tls=self.tls,
                backup_user=BACKUP_USER,
                backup_password=BACKUP_PASSWORD,
                extra="\n".join(f"{name} = {value}" for name, value in options.items()),
            )
        )
        self.settings = DatabaseSettings(
            socket=self.here / "s",
            datadir=self.here / "data",
            user=GUARD_USER,
            password_file=guard_password_file,
            ca_file=self.tls.ca,
            port=self.port,
            replication_user=REPLICATION_USER,
            replication_password_file=password_file,
        )

    def on_small_disk(self, size_bytes: int) -> SmallDisk:
        """Have its data on a disk of that size from its first start on."""
        self._disk = SmallDisk(self.here / "data", size_bytes)
        self.settings = self.settings.model_copy(update={"datadir": self._disk.folder})
        return self._disk

    def start(self) -> None:
        """Start it and return when it accepts connections."""
        words = [*_as_server_user(), "setpriv", "--pdeathsig", "KILL"]
        self._process = subprocess.Popen(
            [*(self._disk.inside if self._disk else ()), *words, "mariadbd", f"--defaults-file={self.here}/my.cnf"],
            env={**os.environ, "PATH": _PATH},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                self.admin().close()
            except pymysql.Error:
                time.sleep(0.05)
            else:
                self._make_accounts()
                return
        tail = self.log()[-3000:]
        self.kill()
        raise RuntimeError(f"MariaDB did not become ready; the end of its log:\n{tail}")

    def _make_accounts(self) -> None:
        """Make the accounts that are each server's own, as the deployment does, at the first start."""
        if not self._has_accounts:
            self.own(self.accounts.read_text())
            self._has_accounts = True

    def own(self, statements: str) -> None:
        """Carry out statements that are in no binlog."""
        with self.admin() as connection, connection.cursor() as cursor:
            for statement in ("SET SESSION sql_log_bin = 0", *filter(str.strip, statements.split(";\n"))):
                cursor.execute(statement)

    def stop(self) -> None:
        """Shut it down in order."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            self._process.wait(STOP_TIMEOUT_S)
            self._process = None

    def kill(self) -> None:
        """Kill it, as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def remove(self) -> None:
        """Kill it and delete its folder: a session's servers would take gigabytes."""
        self.kill()
        if self._disk is not None:
            self._disk.close()
        shutil.rmtree(self.here)

    def freeze(self) -> None:
        """Let it hang: it keeps its connections and accepts new ones, and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        # The signal is on its way: a thread may answer once more.
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def admin(self) -> pymysql.Connection[Any]:
        """Connect over the socket, as root."""
        return pymysql.connect(unix_socket=str(self.here / "s"), user=_me(), autocommit=True, read_timeout=30)

    def ask(self, statement: str, *values: Any) -> list[dict[str, Any]]:
        """Run one statement over the socket and return its rows."""
        with self.admin() as connection, connection.cursor(pymysql.cursors.DictCursor) as cursor:
            cursor.execute(statement, values or None)
            return list(cursor.fetchall())

    def client(self, **other: Any) -> pymysql.Connection[Any]:
        """Connect as the application does, unless it is to be otherwise."""
        as_application = {
            "host": self.address,
            "port": self.port,
            "user": APP_USER,
            "password": APP_PASSWORD,
            "database": "listings",
            "ssl_ca": str(self.tls.ca),
            "ssl_verify_cert": True,
            "ssl_verify_identity": True,
        }
        return pymysql.connect(autocommit=True, read_timeout=30, **{**as_application, **other})

    def relay_logs(self) -> list[Path]:
        """Return the files of the relay log, oldest first."""
        return sorted(path for path in (self.here / "data").glob("relay.[0-9]*"))

    def log(self) -> str:
        """Return the server's log."""
        try:
            return (self.here / "server.log").read_text(errors="replace")
        except FileNotFoundError:
            return ""


_PASSWORDS = {
    "app_database_password": APP_PASSWORD,
    "orch_replication_password": REPLICATION_PASSWORD,
    "database_guard_password": GUARD_PASSWORD,
    "database_backup_password": BACKUP_PASSWORD,
}
# What each server has by itself, and what is replicated: as it is deployed.
OWN_ACCOUNTS = render(TEMPLATES / "database-accounts.sql.j2", "database-server", **_PASSWORDS)
FOUNDING = render(TEMPLATES / "database-founding.sql.j2", "database-server", **_PASSWORDS)
# Without orch's own schema, which a guard makes where it is not there.
ACCOUNTS_AND_SCHEMA = (
    *FOUNDING.partition("CREATE DATABASE IF NOT EXISTS orch ")[0].rstrip("\n;").split(";\n"),
    "CREATE TABLE listings.t (id INT PRIMARY KEY, v VARCHAR(40)) ENGINE=InnoDB",
)


_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def _me() -> str:
    return pwd.getpwuid(os.geteuid()).pw_name


def _as_server_user() -> list[str]:
    if os.geteuid() != 0:
        return []
    return ["setpriv", f"--reuid={_SERVER_USER}", f"--regid={_SERVER_USER}", "--init-groups"]


def _give_to_server(folder: Path) -> None:
    if os.geteuid() == 0:
        owner = pwd.getpwnam(_SERVER_USER)
        os.chown(folder, owner.pw_uid, owner.pw_gid)
