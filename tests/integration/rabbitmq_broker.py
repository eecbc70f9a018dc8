"""A real RabbitMQ broker for tests: one node on loopback, ports, cookie and data of its own.

It has the fleet's definitions (accounts, permissions, queues) and TLS as they are deployed, rendered from the
templates, and one user more for the test's own looks, who may do anything.

Needs the Debian package rabbitmq-server; as root the broker runs as the package's user, as its scripts want.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import secrets
import shutil
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pika

from orchestrator.domain.wire import QUEUE
from orchestrator.settings import AmqpAccount, AmqpSettings
from tests.integration.ports import free_port
from tests.rendering import TEMPLATES, as_json, render
from tests.tls import make_tls

START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 60.0
_LIBRARY = Path("/usr/lib/rabbitmq/bin")
_USER = "rabbitmq"
VHOST = "orch"
CONTROLLER, WORKER, OPERATOR, APP = "orch_controller", "orch_worker", "orch_operator", "orch_app"


class NoRabbit(Exception):
    """There is no RabbitMQ to test with."""


class RabbitBroker:
    """One broker. `stop()` ends it and keeps its data, so that `start()` goes on with the same queues.

    `beside`: a broker that this one could form a cluster with; it lives longer (its epmd is used). Without `has_queues`
    it has the accounts, and no queue.
    """

    def __init__(self, directory: Path, beside: RabbitBroker | None = None, *, has_queues: bool = True) -> None:
        if not (_LIBRARY / "rabbitmq-server").exists() or shutil.which("epmd") is None:
            raise NoRabbit("these tests need RabbitMQ: install the Debian package rabbitmq-server")
        self._directory = directory
        self._beside = beside
        self.port, self._dist_port = free_port(), free_port()
        self._epmd_port: int = beside._epmd_port if beside else free_port()
        self._cookie: str = beside._cookie if beside else secrets.token_hex(20)
        self.user = "orch-test"
        names = (self.user, CONTROLLER, WORKER, OPERATOR, APP)
        self.passwords: dict[str, str] = beside.passwords if beside else {name: secrets.token_hex(16) for name in names}
        self.node = f"orch-test-{secrets.token_hex(4)}@localhost"
        self._process: subprocess.Popen[bytes] | None = None
        self._epmd: subprocess.Popen[bytes] | None = None
        self.tls = make_tls(directory)
        self._write_files(has_queues)

    @property
    def cookie_file(self) -> Path:
        """The secret by which the members of a cluster know each other."""
        return self._directory / ".erlang.cookie"

    @property
    def settings(self) -> AmqpSettings:
        """What our daemons need to reach it."""
        return AmqpSettings(
            hosts=("127.0.0.1",),
            port=self.port,
            ca_file=self.tls.ca,
            vhost=VHOST,
            controller=AmqpAccount(user=CONTROLLER, password_file=self.password_file(CONTROLLER)),
            worker=AmqpAccount(user=WORKER, password_file=self.password_file(WORKER)),
            requesters=(OPERATOR,),
        )

    def password_file(self, user: str) -> Path:
        """Return the file with the user's password."""
        return self._directory / f"{user}.password"

    def start(self) -> None:
        """Start the broker and return when it accepts connections."""
        self.begin()
        self.wait_ready()

    def begin(self) -> None:
        """Start the broker without waiting for it."""
        if self._epmd is None and self._beside is None:
            # A private one: the server would otherwise leave a shared daemon behind.
            self._epmd = self._spawn(["epmd", "-port", str(self._epmd_port), "-address", "127.0.0.1"])
        self._process = self._spawn([str(_LIBRARY / "rabbitmq-server")])

    def wait_ready(self) -> None:
        """Return when it accepts connections."""
        assert self._process is not None
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            try:
                self.connect().close()
            except Exception:
                time.sleep(0.1)
            else:
                return
        tail = (self._directory / "server.log").read_text(errors="replace")[-3000:]
        self.close()
        raise RuntimeError(f"RabbitMQ did not become ready; the end of its log:\n{tail}")

    @property
    def runs(self) -> bool:
        """Say whether its process is there."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """Shut the broker down; what was confirmed is on disk."""
        if self._process is not None:
            process, self._process = self._process, None
            subprocess.run(["kill", "-TERM", "--", f"-{process.pid}"], check=False, stderr=subprocess.DEVNULL)
            try:
                process.wait(STOP_TIMEOUT_S)
            finally:
                end_group(process)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Have it say and hear nothing for the time of the block, its connections open; then it dies and is started."""
        self.freeze()
        try:
            yield
        finally:
            if self._process is not None:
                end_group(self._process)
            self.start()

    def freeze(self) -> None:
        """Have it say and hear nothing, its connections open."""
        assert self._process is not None
        subprocess.run(["kill", "-STOP", "--", f"-{self._process.pid}"], check=True)

    def thaw(self) -> None:
        """Let a frozen one go on."""
        assert self._process is not None
        subprocess.run(["kill", "-CONT", "--", f"-{self._process.pid}"], check=True)

    def put_data_aside(self) -> None:
        """Let a stopped broker begin anew, as the play does on a VM whose broker the cluster has forgotten."""
        data = self._directory / self.node
        data.rename(data.with_name(f"{data.name}.aside-{secrets.token_hex(4)}"))

    def close(self) -> None:
        """End everything that was started, at once."""
        if self._process is not None:
            end_group(self._process)
            self._process = None
        if self._epmd is not None:
            end_group(self._epmd)
            self._epmd = None
        end_all_at_home(self._directory)

    def connect(self, user: str = "", vhost: str = VHOST) -> pika.BlockingConnection:
        """Return a connection for the test's own looks, or one of a user's."""
        user = user or self.user
        return pika.BlockingConnection(
            pika.ConnectionParameters(
                "127.0.0.1",
                self.port,
                vhost,
                pika.PlainCredentials(user, self.passwords[user]),
                ssl_options=pika.SSLOptions(ssl.create_default_context(cafile=str(self.tls.ca)), "127.0.0.1"),
                socket_timeout=2,
                blocked_connection_timeout=5,
            )
        )

    def publish(self, body: bytes, user: str = OPERATOR, **properties: Any) -> None:
        """Publish one message on the queue of commands, by default as whoever publishes by hand."""
        with self.connect(user) as connection:
            channel = connection.channel()
            channel.confirm_delivery()
            kept = pika.BasicProperties(**{"delivery_mode": 2, "user_id": user, **properties})
            channel.basic_publish("", QUEUE, body, kept, mandatory=True)

    def depth(self, name: str, vhost: str = VHOST) -> int:
        """Return how many messages wait in a queue."""
        with self.connect(vhost=vhost) as connection:
            count: int = connection.channel().queue_declare(name, passive=True).method.message_count
            return count

    def delete_queues(self) -> None:
        """Delete the queues of commands, as only an administrator may."""
        with self.connect() as connection:
            for queue in self._queues:
                connection.channel().queue_delete(queue["name"])

    def make_queues(self) -> None:
        """Make the queues of commands where they are not there, as an import of the definitions does."""
        with self.connect() as connection:
            for queue in self._queues:
                connection.channel().queue_declare(queue["name"], durable=True, arguments=queue["arguments"])

    @property
    def environment(self) -> dict[str, str]:
        """What RabbitMQ's tools need to ask this broker."""
        # Before the package's wrappers, which would ask the system's own broker.
        return self._environment() | {"PATH": f"{_LIBRARY}:/usr/sbin:/usr/bin:/sbin:/bin"}

    def _spawn(self, command: list[str]) -> subprocess.Popen[bytes]:
        as_user = ["setpriv", f"--reuid={_USER}", f"--regid={_USER}", "--init-groups"] if os.geteuid() == 0 else []
        log = (self._directory / "server.log").open("ab")
        # --pdeathsig is cleared by a change of user, so it comes last.
        return subprocess.Popen(
            [*as_user, "setpriv", "--pdeathsig", "KILL", *command],
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def _environment(self) -> dict[str, str]:
        here = str(self._directory)
        return {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "LC_ALL": "C.UTF-8",
            "HOME": here,
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_MNESIA_BASE": here,
            "RABBITMQ_LOG_BASE": here,
            "RABBITMQ_CONFIG_FILE": f"{here}/rabbitmq.conf",
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{here}/enabled_plugins",
            "RABBITMQ_PID_FILE": f"{here}/pid",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            # A tool that outlives its broker's folder would leave its dump in whatever folder the tests are run from.
            "ERL_CRASH_DUMP_BYTES": "0",
        }

    def _write_files(self, has_queues: bool) -> None:
        """Write configuration, cookie, and the definitions that the broker imports when it starts."""
        given = {
            "ansible_host": "127.0.0.1",
            "orch_amqp_port": self.port,
            "orch_tls_ca": str(self.tls.ca),
            "orch_tls_certificate": str(self.tls.certificate),
            "orch_tls_key": str(self.tls.key),
            "orch_amqp_controller_password": self.passwords[CONTROLLER],
            "orch_amqp_worker_password": self.passwords[WORKER],
            "orch_amqp_operator_password": self.passwords[OPERATOR],
            "app_amqp_password": self.passwords[APP],
        }
        definitions = as_json(render(TEMPLATES / "rabbitmq-definitions.json.j2", "messaging-server", **given))
        self._queues = definitions["queues"]
        if not has_queues:
            definitions["queues"] = []
        definitions["users"].append({"name": self.user, "password": self.passwords[self.user], "tags": []})
        for vhost in definitions["vhosts"]:
            may_all = {"configure": ".*", "write": ".*", "read": ".*"}
            definitions["permissions"].append({"user": self.user, "vhost": vhost["name"], **may_all})
        settings = render(TEMPLATES / "rabbitmq.conf.j2", "messaging-server", **given)
        of_clients = "".join(re.findall(r"^(?:listeners|ssl_options|max_message_size).*\n", settings, re.MULTILINE))
        files = {
            "rabbitmq.conf": of_clients + f"load_definitions = {self._directory}/definitions.json\n"
            "log.console = false\nlog.file.level = warning\n"
            # Seconds of waiting that only a cluster of several nodes needs.
            "raft.wal_max_size_bytes = 1048576\n",
            "definitions.json": json.dumps(definitions),
            "enabled_plugins": "[].",
            ".erlang.cookie": self._cookie,
            "server.log": "",
            **{self.password_file(user).name: password + "\n" for user, password in self.passwords.items()},
        }
        for name, text in files.items():
            path = self._directory / name
            path.write_text(text)
            path.chmod(0o400 if path == self.cookie_file else 0o600)
        if os.geteuid() == 0:
            owner = pwd.getpwnam(_USER)
            for path in (self._directory, *self._directory.iterdir()):
                os.chown(path, owner.pw_uid, owner.pw_gid)


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that we started together with its session."""
    subprocess.run(["kill", "-KILL", "--", f"-{process.pid}"], check=False, stderr=subprocess.DEVNULL)
    process.wait()


def end_all_at_home(home: Path) -> None:
    """Kill what else has the folder for its home, and return when it has ended: what the broker runs (df, another
    Erlang to see to epmd) has a session of its own, and may write there once more while the folder is removed."""
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while pids := [entry.name for entry in Path("/proc").glob("[0-9]*") if _is_at_home(entry, home)]:
        assert time.monotonic() < deadline, f"{', '.join(pids)} were killed and do not end"
        subprocess.run(["kill", "-KILL", "--", *pids], check=False, stderr=subprocess.DEVNULL)
        time.sleep(0.01)


def _is_at_home(process: Path, home: Path) -> bool:
    try:
        return f"HOME={home}".encode() in (process / "environ").read_bytes().split(b"\0")
    except OSError:
        return False  # another account's, or it has just ended
