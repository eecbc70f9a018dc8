"""E-mail: one message per notice, handed to a mail server. Encrypted and verified unless the policy says none."""

from __future__ import annotations

import smtplib
import socket
from datetime import datetime, timezone
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Any
from urllib.parse import quote

from orchestrator.domain.sinks import SinkPolicy
from orchestrator.notify.line import called, verifying
from orchestrator.notify.notice import Notice, Templates, Undelivered
from orchestrator.notify.secret import secret_in


def send_notice(sink: SinkPolicy, notice: Notice, templates: Templates) -> str:
    """Hand the notice to the mail server; return what it said, or raise `Undelivered`."""
    message = message_of(sink, notice, templates)
    password = None if sink.password_file is None else secret_in(sink.password_file)
    dialled: list[smtplib.SMTP] = []
    with called("the mail server", sink.timeout_s, lambda: dialled[0].sock if dialled else None):
        refused = _handed_in(sink, message, password, dialled)
    taken = f"the mail server took it for {len(sink.recipients) - len(refused)} of {len(sink.recipients)}"
    return f"{taken} and refused {_refusals(refused)}" if refused else taken


def message_of(sink: SinkPolicy, notice: Notice, templates: Templates) -> EmailMessage:
    """Return the message. One that is sent again has the same Message-ID."""
    message = EmailMessage()
    message["Subject"] = templates.line(f"{sink.template}.subject.j2", notice)
    message["From"] = str(sink.sender)
    message["To"] = ", ".join(sink.recipients)
    message["Date"] = format_datetime(datetime.fromtimestamp(notice.entry.at, tz=timezone.utc))
    message["Message-ID"] = f"<{quote(notice.entry.id, safe='')}.{sink.name}@orch.invalid>"
    # Nobody's holiday notice is to answer.
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(templates.text(f"{sink.template}.txt.j2", notice))
    if templates.has(f"{sink.template}.html.j2"):
        message.add_alternative(templates.text(f"{sink.template}.html.j2", notice), subtype="html")
    return message


class _Dialling(smtplib.SMTP):
    """Shows itself before it dials, so that the line can be hung up while it is greeted."""

    def __init__(self, dialled: list[smtplib.SMTP], *where: Any, **how: Any) -> None:
        dialled.append(self)
        super().__init__(*where, **how)


class _DiallingOverTls(_Dialling, smtplib.SMTP_SSL):
    """The same over TLS from the first letter."""


def _handed_in(
    sink: SinkPolicy, message: EmailMessage, password: str | None, dialled: list[smtplib.SMTP]
) -> dict[str, tuple[int, bytes]]:
    """Hand the message in; return whom of several recipients the server refuses. What it says becomes `Undelivered`."""
    try:
        with _dial(sink, dialled) as client:
            if sink.security == "starttls":
                client.starttls(context=verifying(sink.ca_file))
            if sink.user is not None and password is not None:
                client.login(sink.user, password)
            return client.send_message(message)
    except smtplib.SMTPRecipientsRefused as error:
        raise Undelivered(f"the mail server refuses {_refusals(error.recipients)}") from None
    except smtplib.SMTPAuthenticationError as error:
        # A server that repeats what it was told must not put it into our logs.
        raise Undelivered(f"the mail server refuses the account ({error.smtp_code})") from None
    except smtplib.SMTPResponseException as error:
        dislikes = isinstance(error, smtplib.SMTPDataError) and error.smtp_code >= 500
        raise Undelivered(
            f"the mail server refuses: {error.smtp_code} {_plain(error.smtp_error)}", is_final=dislikes
        ) from None
    except smtplib.SMTPNotSupportedError:
        raise Undelivered("the mail server does not offer what is asked of it (STARTTLS, or a login)") from None


def _dial(sink: SinkPolicy, dialled: list[smtplib.SMTP]) -> smtplib.SMTP:
    how = {"local_hostname": socket.gethostname(), "timeout": sink.timeout_s}
    if sink.security == "tls":
        return _DiallingOverTls(dialled, sink.host, sink.smtp_port, context=verifying(sink.ca_file), **how)
    return _Dialling(dialled, sink.host, sink.smtp_port, **how)


def _refusals(refused: dict[str, tuple[int, bytes]]) -> str:
    return ", ".join(f"{address} ({code} {_plain(said)})" for address, (code, said) in refused.items())


def _plain(said: bytes | str) -> str:
    text = said.decode(errors="replace") if isinstance(said, bytes) else said
    return " ".join(text.split())[:200]
