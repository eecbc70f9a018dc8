"""Notices to real receivers on the loopback, and by a real Consul from one leader to the next."""

from __future__ import annotations

import json
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.domain import keys
from orchestrator.domain.decision import Decision, Put
from orchestrator.domain.records import Told
from orchestrator.domain.sinks import SinkPolicy
from orchestrator.domain.view import Kept
from orchestrator.notify.delivery import deliver
from orchestrator.notify.notice import Notice, Templates, Undelivered, fields_of
from orchestrator.notify.notifier import Notifier
from orchestrator.store.consul_port import ConsulPort
from orchestrator.store.port import TxnOutcome
from orchestrator.store.records import apply_decision, create_record, read_record
from tests.integration.consul_agent import ConsulAgent
from tests.integration.receivers import HOST, Certificate, MailServer, Webhook
from tests.unit.notify.build import entry_of, sink_of

TEMPLATES = Templates(Path(__file__).resolve().parents[2] / "templates")
NOTICE = Notice(entry_of(1), "ops")
WITHIN_S = 30.0


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    receiver = Webhook()
    yield receiver
    receiver.close()


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    return Certificate(tmp_path)


@pytest.fixture
def mail(certificate: Certificate) -> Iterator[MailServer]:
    receiver = MailServer(certificate)
    yield receiver
    receiver.close()


def secret(folder: Path, text: str, mode: int = 0o600) -> str:
    """Write a file with the secret and return its path."""
    file = folder / "secret"
    file.write_text(text)
    file.chmod(mode)
    return str(file)


def mail_sink(mail: MailServer, **fields: Any) -> SinkPolicy:
    """Return a sink that is told by this mail server."""
    known = {"name": "mail", "kind": "email", "host": HOST, "port": mail.port, "sender": "orch@example.org"}
    return sink_of(**(known | {"recipients": ["a@example.org", "b@example.org"]} | fields))


def refusal_of(sink: SinkPolicy) -> Undelivered:
    """Try the sink, which does not take it, and return why."""
    with pytest.raises(Undelivered) as caught:
        deliver(sink, NOTICE, TEMPLATES)
    return caught.value


# -- webhook -------------------------------------------------------------------------------------------------------


def test_a_webhook_gets_json_with_the_token_and_a_key_that_stays_the_same(webhook: Webhook, tmp_path: Path) -> None:
    sink = sink_of(url=f"{webhook.url}?room=1", token_file=secret(tmp_path, "t0ken\n"))
    assert deliver(sink, NOTICE, TEMPLATES) == "the webhook answered 204 No Content"
    path, headers, body = webhook.received.get(timeout=WITHIN_S)
    assert path == "/hook?room=1"
    assert json.loads(body) == fields_of(NOTICE)
    assert headers["Authorization"] == "Bearer t0ken"
    assert (headers["Content-Type"], headers["Idempotency-Key"]) == ("application/json", NOTICE.entry.id)


def test_the_url_itself_may_be_the_secret(webhook: Webhook, tmp_path: Path) -> None:
    deliver(
        sink_of(name="chat", kind="webhook", template="chat", url_file=secret(tmp_path, webhook.url)), NOTICE, TEMPLATES
    )
    assert json.loads(webhook.received.get(timeout=WITHIN_S)[2]) == {"text": "*failover* backend: It fell."}


@pytest.mark.parametrize(
    ("status", "why", "is_final"),
    [
        (500, "the webhook answered 500 Internal Server Error", False),
        (401, "the webhook answered 401 Unauthorized", False),
        (429, "the webhook answered 429 Too Many Requests", False),
        (422, "the webhook answered 422 Unprocessable", True),
        (302, "the webhook answered 302 Found; redirects are not followed", False),
    ],
)
def test_a_webhook_that_does_not_take_it_is_quoted(webhook: Webhook, status: int, why: str, is_final: bool) -> None:
    webhook.answers = [status]
    refused = refusal_of(sink_of(url=webhook.url))
    assert str(refused).startswith(why)
    assert refused.is_final == is_final
    assert webhook.received.qsize() == 1


def test_a_webhook_that_is_not_there_is_said_in_the_system_s_words(webhook: Webhook) -> None:
    webhook.close()
    assert str(refusal_of(sink_of(url=webhook.url))) == "the webhook cannot be reached: connection refused"


def test_a_webhook_that_hangs_is_hung_up(webhook: Webhook) -> None:
    goes_on = threading.Event()
    webhook.answers = [goes_on.wait]
    assert (
        str(refusal_of(sink_of(url=webhook.url, timeout_s=0.3))) == "the webhook cannot be reached: no answer in time"
    )
    goes_on.set()


def test_a_webhook_s_certificate_is_verified(certificate: Certificate, tmp_path: Path) -> None:
    receiver = Webhook(certificate)
    assert "its certificate is not accepted" in str(refusal_of(sink_of(url=receiver.url)))
    deliver(sink_of(url=receiver.url, ca_file=str(certificate.file)), NOTICE, TEMPLATES)
    assert receiver.received.qsize() == 1
    receiver.close()


@pytest.mark.parametrize(
    ("text", "mode", "why"),
    [
        ("s3cret", 0o644, "may be read by everybody on this VM: make it mode 0600 and the daemon's own"),
        ("s3cret\nX-Evil: 1", 0o600, "does not hold one line of plain letters"),
        ("", 0o600, "does not hold one line of plain letters"),
    ],
)
def test_a_secret_that_cannot_be_used_is_not_repeated(tmp_path: Path, text: str, mode: int, why: str) -> None:
    path = secret(tmp_path, text, mode)
    said = str(refusal_of(sink_of(url="https://127.0.0.1:9/", token_file=path)))
    assert said == f"{path} {why}"


# -- e-mail --------------------------------------------------------------------------------------------------------


def test_mail_is_encrypted_verified_and_sent_with_the_account(
    mail: MailServer, certificate: Certificate, tmp_path: Path
) -> None:
    sink = mail_sink(mail, ca_file=str(certificate.file), user="orch", password_file=secret(tmp_path, "right"))
    assert deliver(sink, NOTICE, TEMPLATES) == "the mail server took it for 2 of 2"
    message = mail.received.get(timeout=WITHIN_S)
    assert mail.logins == [["orch", "right"]]
    assert (message["Subject"], message["To"]) == ("[orch] failover of backend", "a@example.org, b@example.org")
    assert message.get_content().startswith("It fell.")


def test_a_mail_server_that_nobody_vouches_for_gets_neither_password_nor_message(
    mail: MailServer, tmp_path: Path
) -> None:
    said = str(refusal_of(mail_sink(mail, user="orch", password_file=secret(tmp_path, "right"))))
    assert said.startswith("the mail server cannot be reached: its certificate is not accepted")
    assert (mail.logins, mail.received.qsize()) == ([], 0)


def test_a_mail_server_without_starttls_gets_nothing_unless_the_policy_says_none() -> None:
    plain = MailServer()
    assert str(refusal_of(mail_sink(plain))).startswith("the mail server does not offer what is asked of it (STARTTLS")
    assert plain.received.qsize() == 0
    deliver(mail_sink(plain, security="none"), NOTICE, TEMPLATES)
    assert plain.received.qsize() == 1
    plain.close()


def test_a_password_that_the_mail_server_repeats_stays_out_of_what_we_say(
    mail: MailServer, certificate: Certificate, tmp_path: Path
) -> None:
    mail.password = "another"
    sink = mail_sink(mail, ca_file=str(certificate.file), user="orch", password_file=secret(tmp_path, "wr0ng"))
    said = str(refusal_of(sink))
    assert said == "the mail server refuses the account (535)"


def test_of_several_recipients_those_that_were_refused_are_named(mail: MailServer, certificate: Certificate) -> None:
    sink = mail_sink(mail, ca_file=str(certificate.file))
    mail.refuses = {"b@example.org"}
    assert deliver(sink, NOTICE, TEMPLATES) == (
        "the mail server took it for 1 of 2 and refused b@example.org (550 nobody here)"
    )
    mail.refuses = {"a@example.org", "b@example.org"}
    assert "a@example.org (550 nobody here)" in str(refusal_of(sink))


@pytest.mark.parametrize(("answer", "is_final"), [("554 no such thing", True), ("451 later", False)])
def test_a_mail_server_that_does_not_like_the_message_is_not_asked_again(
    mail: MailServer, certificate: Certificate, answer: str, is_final: bool
) -> None:
    mail.answers = [answer]
    refused = refusal_of(mail_sink(mail, ca_file=str(certificate.file)))
    assert (str(refused), refused.is_final) == (f"the mail server refuses: {answer}", is_final)


def test_a_mail_server_that_always_has_a_little_more_to_say_is_hung_up(mail: MailServer) -> None:
    mail.talks_until = threading.Event()
    said = str(refusal_of(mail_sink(mail, timeout_s=0.3)))
    assert said == "the mail server cannot be reached: no answer in time"
    mail.talks_until.set()


# -- command -------------------------------------------------------------------------------------------------------


def command_sink(*command: str, **fields: Any) -> SinkPolicy:
    return sink_of(name="pager", kind="command", command=command, **fields)


def test_a_command_gets_the_text_on_stdin_and_the_fields_in_its_environment(tmp_path: Path) -> None:
    script = 'cat > "$1"; printf "%s|%s" "$ORCH_KIND" "$ORCH_REASON" >> "$1"'
    told = tmp_path / "told; rm -rf x"
    assert deliver(command_sink("/bin/sh", "-c", script, "sh", str(told)), NOTICE, TEMPLATES) == (
        "the command ended with exit status 0"
    )
    assert told.read_text() == TEMPLATES.text("entry.txt.j2", NOTICE) + "failover|It fell."


def test_a_command_that_fails_is_quoted() -> None:
    said = str(refusal_of(command_sink("/bin/sh", "-c", "cat > /dev/null; echo no modem >&2; exit 3")))
    assert said == "the command ended with exit status 3: no modem"
    assert str(refusal_of(command_sink("/nowhere/page"))).startswith("the command cannot be run: ")


def test_a_command_that_hangs_is_killed_with_what_it_started(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    line = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    script = f"exec 3> {fifo}; echo started >&3; sleep 1000 & wait"
    said = str(refusal_of(command_sink("/bin/sh", "-c", script, timeout_s=2)))
    assert said == "the command was killed after 2 s"
    # Its end comes when nobody is left who could write to it.
    os.set_blocking(line, True)
    with os.fdopen(line) as told:
        assert told.read() == "started\n"


# -- from one leader to the next -----------------------------------------------------------------------------------


class Fleet:
    """A journal in a real Consul, and whoever leads."""

    def __init__(self, agent: ConsulAgent) -> None:
        self.agent = agent
        self.port = ConsulPort(port=agent.http_port)
        self.session = self.lead()

    def lead(self) -> str:
        """Let a new leader lead; the session of the one before has ended."""
        session = self.port.session_create("orch-controller@vm-1", ())
        assert self.port.lock_acquire(keys.LEADER, b"{}", session)
        return session

    def journal(self, number: int) -> None:
        """Write an entry as the leader does."""
        entry = entry_of(number, at=time.time())
        decision = Decision("failover", None, entry.reason, (Put(keys.history(entry.id), entry, 0),))
        assert apply_decision(self.port, decision, self.session) is TxnOutcome.WON

    def notifier(self, told: Callable[[Notice], None] = lambda notice: None) -> Notifier:
        """Return the notifier of a controller; `told` hears of each delivery that has succeeded."""

        def noted(sink: SinkPolicy, notice: Notice) -> str:
            said = deliver(sink, notice, TEMPLATES)
            told(notice)
            return said

        return Notifier(lambda: ConsulPort(port=self.agent.http_port), noted)

    def wait_until_told(self, sink: str, number: int) -> None:
        """Return when the sink's cursor stands at the entry, or later."""
        index, deadline = 0, time.monotonic() + WITHIN_S
        while time.monotonic() < deadline:
            index, _ = self.port.kv_list(keys.NOTIFIED, index=index, wait_s=1.0)
            cursor = read_record(self.port, keys.notified(sink), Told)
            if isinstance(cursor, Kept) and cursor.value.entry >= entry_of(number).id:
                return
        pytest.fail(f"{sink} was not told of entry {number}")


@pytest.fixture
def fleet(own_consul_agent: ConsulAgent) -> Iterator[Fleet]:
    fleet = Fleet(own_consul_agent)
    yield fleet
    fleet.port.close()


def numbers(webhook: Webhook) -> list[int]:
    """Return the entries that the webhook was sent, by their numbers."""
    found = []
    while True:
        try:
            found.append(int(json.loads(webhook.received.get_nowait()[2])["id"].split("-")[0]))
        except queue.Empty:
            return found


def begun(fleet: Fleet, sink: SinkPolicy) -> None:
    """Let the sink be one that has been told of nothing, rather than a new one."""
    assert create_record(fleet.port, keys.notified(sink.name), Told(sink=sink.name, upto=0, at=0)) is TxnOutcome.WON


def test_a_new_sink_is_told_of_what_happens_from_then_on(fleet: Fleet, webhook: Webhook) -> None:
    sink, notifier = sink_of(url=webhook.url), fleet.notifier()
    fleet.journal(1)
    notifier.heed(fleet.session, [sink])
    fleet.wait_until_told("ops", 1)
    fleet.journal(2)
    fleet.wait_until_told("ops", 2)
    notifier.heed(None, ())
    assert numbers(webhook) == [2]


def test_what_failed_is_delivered_as_soon_as_the_sink_takes_it(fleet: Fleet, webhook: Webhook) -> None:
    sink, notifier = sink_of(url=webhook.url), fleet.notifier()
    begun(fleet, sink)
    webhook.answers = [500, 503]
    fleet.journal(1)
    notifier.heed(fleet.session, [sink])
    fleet.wait_until_told("ops", 1)
    notifier.heed(None, ())
    assert numbers(webhook) == [1, 1, 1]


def test_a_sink_that_hangs_holds_up_no_other(fleet: Fleet, webhook: Webhook) -> None:
    other, goes_on = Webhook(), threading.Event()
    other.answers = [goes_on.wait]
    hanging, well = sink_of(name="hanging", url=other.url, timeout_s=60), sink_of(url=webhook.url)
    for sink in (hanging, well):
        begun(fleet, sink)
    notifier = fleet.notifier()
    notifier.heed(fleet.session, [hanging, well])
    fleet.journal(1)
    other.received.get(timeout=WITHIN_S)
    fleet.journal(2)
    fleet.wait_until_told("ops", 2)
    assert numbers(webhook) == [1, 2]
    notifier.heed(None, ())
    goes_on.set()
    other.close()


def test_a_new_leader_goes_on_and_repeats_no_more_than_what_was_in_flight(fleet: Fleet, webhook: Webhook) -> None:
    sink = sink_of(url=webhook.url)
    begun(fleet, sink)
    in_flight, dead = threading.Event(), threading.Event()

    def die_at_the_second(notice: Notice) -> None:
        if notice.entry.id == entry_of(2).id:
            in_flight.set()
            dead.wait()

    first = fleet.notifier(die_at_the_second)
    for number in (1, 2, 3):
        fleet.journal(number)
    first.heed(fleet.session, [sink])
    assert in_flight.wait(WITHIN_S)
    # The second is delivered and not written down when the first leader's session ends.
    fleet.port.session_destroy(fleet.session)
    fleet.session = fleet.lead()
    second = fleet.notifier()
    second.heed(fleet.session, [sink])
    fleet.wait_until_told("ops", 3)
    dead.set()
    fleet.journal(4)
    fleet.wait_until_told("ops", 4)
    first.heed(None, ())
    second.heed(None, ())
    assert numbers(webhook) == [1, 2, 2, 3, 4]
