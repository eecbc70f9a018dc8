"""The sample application with a real MariaDB and a real RabbitMQ that restart, hang and go away."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import tarfile
import tempfile
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from deploy.machines.tools import SAMPLE_APP, app_modules
from tests.integration.mariadb_server import (
    ACCOUNTS_AND_SCHEMA,
    APP_PASSWORD,
    APP_USER,
    Datadirs,
    MariaDb,
)
from tests.integration.ports import free_port
from tests.integration.rabbitmq_broker import APP, RabbitBroker
from tests.integration.waiting import WAIT_S, wait_for

LISTING = {"title": "House by the water", "city": "Sneek", "price": 350000.5, "rooms": 4}


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def listing(self) -> dict[str, Any]:
        found: dict[str, Any] = self.body["listing"]
        return found


class App:
    """One process of the application."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._log = Path(environment["APP_DATABASE_PASSWORD_FILE"]).with_name("app.log")
        self.port = free_port()
        self._environment = environment | {"APP_PORT": str(self.port), "APP_VM": "backend-server"}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and return when it listens, whatever it has reached."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "node", str(SAMPLE_APP / "app" / "server.js")],
                env={"PATH": os.environ["PATH"], **self._environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_for(self._listens, "the application listens")

    def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"the application has ended: {self.log()}"
        try:
            return self.ask("GET", "/health").status == 200
        except ConnectionError:
            return False

    def log(self) -> str:
        """Return what it has written so far."""
        return self._log.read_text()

    def stop(self) -> int:
        """Let it finish what is open and end; return its exit status."""
        assert self._process is not None
        process, self._process = self._process, None
        process.terminate()
        return process.wait(WAIT_S)

    def kill(self) -> None:
        """End it at once, if it runs."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def ask(self, method: str, path: str, body: Any = None, key: str | None = None) -> Answer:
        """Send one request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)
        try:
            headers = {} if key is None else {"Idempotency-Key": key}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.getheaders()), json.loads(answer.read()))
        finally:
            connection.close()

    def post(self, title: str, key: str | None = None) -> Answer:
        return self.ask("POST", "/listings", {**LISTING, "title": title}, key)

    def is_indexed(self, listing_id: int) -> bool:
        return bool(self.ask("GET", f"/listings/{listing_id}").listing["indexed"])


class Database(MariaDb):
    """A server that is opened for writes as the guard does: not by itself when it starts."""

    @property
    def is_running(self) -> bool:
        return self._process is not None

    def open_writes(self) -> None:
        self.ask("SET GLOBAL read_only = 0")

    def close_writes(self) -> None:
        self.ask("SET GLOBAL read_only = 1")

    def titled(self, title: str) -> int:
        """Return how many listings have the title."""
        return int(self.ask("SELECT COUNT(*) AS found FROM listings.listings WHERE title = %s", title)[0]["found"])


@pytest.fixture(scope="module")
def modules() -> Iterator[Path]:
    """The application's packages, out of the archive that is deployed."""
    with tempfile.TemporaryDirectory(prefix="orch-app-modules-") as folder:
        with tarfile.open(app_modules(print)) as archive:
            archive.extractall(folder)
        yield next(Path(folder).glob("app-modules/*/node_modules"))


@pytest.fixture(scope="module")
def server(datadirs: Datadirs) -> Iterator[Database]:
    server = Database(datadirs, 1, free_port())
    try:
        server.start()
        server.open_writes()
        for statement in ACCOUNTS_AND_SCHEMA:
            server.ask(statement)
        yield server
    finally:
        server.remove()


@pytest.fixture
def database(server: Database) -> Iterator[Database]:
    """A database that is writable before and after each test."""
    yield server
    server.thaw() if server.is_running else server.start()
    server.open_writes()


@pytest.fixture
def environment(database: Database, rabbit_broker: RabbitBroker, modules: Path, tmp_path: Path) -> dict[str, str]:
    password_file = tmp_path / "database_password"
    password_file.write_text(APP_PASSWORD + "\n")
    authorities = tmp_path / "ca.pem"
    authorities.write_text(database.tls.ca.read_text() + rabbit_broker.tls.ca.read_text())
    return {
        "NODE_PATH": str(modules),
        "APP_DATABASE_HOST": "127.0.0.1",
        "APP_DATABASE_PORT": str(database.port),
        "APP_DATABASE_USER": APP_USER,
        "APP_DATABASE_PASSWORD_FILE": str(password_file),
        "APP_AMQP_HOST": "127.0.0.1",
        "APP_AMQP_PORT": str(rabbit_broker.port),
        "APP_AMQP_PASSWORD_FILE": str(rabbit_broker.password_file(APP)),
        "APP_CA_FILE": str(authorities),
        # Longer than a server of the tests takes to start on a busy machine.
        "APP_DEADLINE_MS": "50000",
    }


@pytest.fixture
def app(environment: dict[str, str]) -> Iterator[App]:
    """An application that waits as long as a test's server takes."""
    app = App(environment)
    app.start()
    yield app
    app.kill()
    print(app.log())


@pytest.fixture
def hasty_app(environment: dict[str, str]) -> Iterator[App]:
    """An application that gives up after a second."""
    app = App(environment | {"APP_DEADLINE_MS": "1000"})
    app.start()
    yield app
    app.kill()
    print(app.log())


@pytest.fixture
def restored_broker(rabbit_broker: RabbitBroker) -> Iterator[RabbitBroker]:
    """The broker, for a test that takes it away: it runs again afterwards."""
    yield rabbit_broker
    rabbit_broker.close()
    rabbit_broker.start()


def a_title() -> str:
    return f"House {uuid.uuid4()}"


def test_a_new_listing_is_read_back_as_it_was_sent_and_is_indexed(app: App) -> None:
    made = app.ask("POST", "/listings", {**LISTING, "title": "Ferme à l'été 🏡"})
    assert made.status == 201
    assert made.headers["X-Served-By"] == "backend-server"
    assert made.headers["Location"] == f"listings/{made.listing['id']}"
    wait_for(lambda: app.is_indexed(made.listing["id"]), "the listing is indexed")
    found = app.ask("GET", f"/listings/{made.listing['id']}").listing
    assert found == {**made.listing, "indexed": True}
    assert found["title"] == "Ferme à l'été 🏡"
    assert found["price"] == 350000.5
    assert app.ask("GET", "/listings").body["listings"][0] == found


def test_what_a_new_database_begins_with_is_published_too(app: App) -> None:
    app.post(a_title())
    first = wait_for(
        lambda: [found for found in app.ask("GET", "/listings").body["listings"] if found["city"] == "Deventer"],
        "the first listings are there",
    )[0]
    wait_for(lambda: app.is_indexed(first["id"]), "a listing that no request has made is indexed")


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_database_that_restarts_costs_a_pause_and_no_request(app: App, database: Database, end: str) -> None:
    title, done = a_title(), threading.Event()
    assert app.post(title).status == 201

    def keep_posting() -> list[int]:
        statuses = []
        while not done.is_set():
            statuses.append(app.post(title).status)
        return statuses

    with ThreadPoolExecutor() as pool:
        clients = [pool.submit(keep_posting) for _ in range(4)]
        try:
            wait_for(lambda: database.titled(title) >= 10, "the clients write")
            getattr(database, end)()
            reader = pool.submit(app.ask, "GET", "/listings/1")
            database.start()  # read-only, as each server of the fleet comes up
            database.open_writes()
            before = database.titled(title)
            wait_for(lambda: database.titled(title) >= before + 10, "the clients write again")
        finally:
            done.set()
        statuses = [status for client in clients for status in client.result()]
        assert reader.result().status == 200
    assert set(statuses) == {201}
    assert database.titled(title) == len(statuses) + 1


def test_a_request_waits_while_the_database_is_read_only(app: App, database: Database) -> None:
    title = a_title()
    assert app.post(title).status == 201
    database.close_writes()
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(app.post, title)
        wait_for(lambda: "read-only" in app.ask("GET", "/health").body["message"], "the application has noticed")
        assert not asked.done()
        database.open_writes()
        assert asked.result().status == 201
    assert database.titled(title) == 2


def test_nothing_is_read_from_a_server_that_takes_no_writes_while_another_may(
    environment: dict[str, str], hasty_app: App, database: Database
) -> None:
    posted = hasty_app.post(a_title())
    database.close_writes()
    for number in (0, 1):
        # Its connections are new: those of one that has been open for writes would have been ended with them.
        asked = App(environment | ({"APP_DEADLINE_MS": "1000"} if number == 0 else {}))
        asked.start()
        try:
            # In the end an answer that may be old is better than none.
            answer = asked.ask("GET", f"/listings/{posted.listing['id']}")
            assert answer.status == (503, 200)[number]
        finally:
            asked.kill()


def test_a_database_that_hangs_is_asked_again_and_nothing_is_doubled(app: App, database: Database) -> None:
    title = a_title()
    with ThreadPoolExecutor() as pool:
        assert [answer.status for answer in pool.map(app.post, [title] * 5)] == [201] * 5
    database.freeze()
    with ThreadPoolExecutor() as pool:
        asked = [pool.submit(app.post, title) for _ in range(5)]
        # The server still carries out what it had received: the second tries must find that, and not do it again.
        given_up = "the database took longer than 2000 ms"
        wait_for(lambda: given_up in app.log(), "a request is tried again")
        database.thaw()
        assert [one.result().status for one in asked] == [201] * 5
    assert database.titled(title) == 10


def test_health_stays_200_and_says_so_while_the_database_is_away(hasty_app: App, database: Database) -> None:
    both = "backend on backend-server: database reachable, broker reachable"
    wait_for(lambda: hasty_app.ask("GET", "/health").body["message"].startswith(both), "both are reached")
    database.stop()
    wait_for(
        lambda: "database not reachable" in hasty_app.ask("GET", "/health").body["message"],
        "/health says that it is away",
    )
    assert hasty_app.ask("GET", "/health").status == 200
    refused = hasty_app.post(a_title())
    assert refused.status == 503
    assert refused.headers["Retry-After"] == "1"
    assert "database" in refused.body["error"]
    assert hasty_app.ask("GET", "/listings/1").status == 503


def test_the_same_key_makes_one_listing_however_often_it_is_sent(app: App, database: Database) -> None:
    title, key = a_title(), str(uuid.uuid4())
    with ThreadPoolExecutor() as pool:
        answers = list(pool.map(lambda _: app.post(title, key), range(8)))
    assert [answer.status for answer in answers] == [201] * 8
    assert len({answer.listing["id"] for answer in answers}) == 1
    assert database.titled(title) == 1
    assert app.post("Another house", key).status == 409
    assert app.post(title, "two words").status == 422


def test_without_a_broker_a_listing_is_202_and_published_when_the_broker_is_back(
    hasty_app: App, database: Database, restored_broker: RabbitBroker
) -> None:
    assert wait_for(lambda: (made := hasty_app.post(a_title())).status == 201 and made, "the broker is used")
    restored_broker.stop()
    title, key = a_title(), str(uuid.uuid4())
    saved = hasty_app.post(title, key)
    assert saved.status == 202
    assert not hasty_app.is_indexed(saved.listing["id"])
    message = hasty_app.ask("GET", "/health").body["message"]
    assert "broker not reachable" in message
    restored_broker.start()
    wait_for(lambda: hasty_app.is_indexed(saved.listing["id"]), "it is indexed without being sent again")
    again = hasty_app.post(title, key)
    assert again.status == 201
    assert again.listing["id"] == saved.listing["id"]
    assert database.titled(title) == 1


def test_a_broker_that_restarts_costs_a_pause_and_no_request(app: App, restored_broker: RabbitBroker) -> None:
    assert app.post(a_title()).status == 201
    with ThreadPoolExecutor() as pool:
        restored_broker.stop()
        asked = [pool.submit(app.post, a_title()) for _ in range(5)]
        restored_broker.start()
        answers = [one.result() for one in asked]
    assert [answer.status for answer in answers] == [201] * 5
    for answer in answers:
        wait_for(lambda answer=answer: app.is_indexed(answer.listing["id"]), "each is indexed")


def test_what_a_killed_application_had_committed_is_published_by_the_next_one(
    app: App, database: Database, environment: dict[str, str], restored_broker: RabbitBroker
) -> None:
    title = a_title()
    assert app.post(a_title()).status == 201
    restored_broker.stop()
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(app.post, title)
        wait_for(lambda: database.titled(title) == 1, "it is committed")
        app.kill()
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            asked.result()
    restored_broker.start()
    (row,) = database.ask("SELECT id, published_at FROM listings.listings WHERE title = %s", title)
    assert row["published_at"] is None
    app.start()
    wait_for(lambda: app.is_indexed(row["id"]), "the next process has published it")


def test_a_message_that_comes_twice_or_is_no_listing_does_no_harm(app: App, rabbit_broker: RabbitBroker) -> None:
    made = app.post(a_title())
    wait_for(lambda: app.is_indexed(made.listing["id"]), "it is indexed")
    with rabbit_broker.connect(vhost="app") as connection:
        channel = connection.channel()
        content = json.dumps({"id": made.listing["id"], "key": made.headers["Idempotency-Key"]}).encode()
        for body in (content, b"no listing", b'{"id": "1"}', content):
            channel.basic_publish("", "listings", body)
    after = app.post(a_title())
    wait_for(lambda: app.is_indexed(after.listing["id"]), "what comes after it is indexed")
    wait_for(lambda: rabbit_broker.depth("listings", "app") == 0, "nothing stays in the queue")


def test_it_finishes_what_is_open_when_it_is_stopped(app: App, database: Database) -> None:
    title = a_title()
    database.close_writes()
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(app.post, title)
        wait_for(lambda: "read-only" in app.ask("GET", "/health").body["message"], "the application has noticed")
        ended = pool.submit(app.stop)
        database.open_writes()
        assert asked.result().status == 201
        assert ended.result() == 0


def test_a_database_without_a_broker_keeps_the_listings(environment: dict[str, str]) -> None:
    app = App({name: value for name, value in environment.items() if not name.startswith("APP_AMQP")})
    app.start()
    try:
        made = app.post(a_title())
        assert made.status == 201
        assert app.ask("GET", f"/listings/{made.listing['id']}").listing == made.listing
    finally:
        app.kill()


@pytest.mark.parametrize("stranger", ["database", "broker"])
def test_a_server_that_another_authority_has_signed_is_not_talked_to(
    environment: dict[str, str], database: Database, rabbit_broker: RabbitBroker, tmp_path: Path, stranger: str
) -> None:
    known = rabbit_broker if stranger == "database" else database
    (tmp_path / "ca.pem").write_text(known.tls.ca.read_text())
    app = App(environment | {"APP_DEADLINE_MS": "2000"})
    app.start()
    try:
        wait_for(
            lambda: "self-signed certificate" in app.ask("GET", "/health").body["message"], "it says what is wrong"
        )
        assert app.post(a_title()).status == (503 if stranger == "database" else 202)
    finally:
        app.kill()


@pytest.mark.parametrize("file_first", [True, False], ids=["file first", "server first"])
def test_a_password_is_changed_without_a_restart_and_without_a_lost_request(
    app: App, environment: dict[str, str], database: Database, file_first: bool
) -> None:
    assert app.post(a_title()).status == 201
    file = Path(environment["APP_DATABASE_PASSWORD_FILE"])
    steps = [
        lambda: file.write_text("another-secret\n"),
        lambda: database.ask(f"ALTER USER {APP_USER}@'%' IDENTIFIED BY 'another-secret'"),
    ]
    try:
        for step in steps if file_first else reversed(steps):
            step()
            # What new connections need is between the two what the former password was good for.
            if file_first or step is steps[0]:
                database.ask(f"KILL USER {APP_USER}")
            assert app.post(a_title()).status == 201
    finally:
        database.ask(f"ALTER USER {APP_USER}@'%' IDENTIFIED BY '{APP_PASSWORD}'")


def test_a_wrong_setting_ends_it_with_one_sentence(environment: dict[str, str]) -> None:
    environment["APP_DATABASE_PASSWORD_FILE"] = "/nowhere/password"
    done = subprocess.run(
        ["node", str(SAMPLE_APP / "app" / "server.js")],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("APP_DATABASE_PASSWORD_FILE: ")
    assert len(done.stderr.splitlines()) == 1
