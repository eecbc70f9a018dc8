"""Receivers of notices on the loopback: a webhook and a mail server, each with what it was sent and what it answers."""

from __future__ import annotations

import base64
import datetime
import ipaddress
import queue
import socketserver
import ssl
import threading
from collections.abc import Callable
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

HOST = "127.0.0.1"


class Certificate:
    """A certificate for the loopback that nobody but this test trusts, and its key."""

    def __init__(self, folder: Path, address: str = HOST) -> None:
        self.file, self.key_file = folder / f"{address}.crt", folder / f"{address}.key"
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "receiver")])
        now = datetime.datetime.now(datetime.timezone.utc)
        made = (
            x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        self.file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        self.key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )

    def for_servers(self) -> ssl.SSLContext:
        """Return the context of a server that shows it."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.file, self.key_file)
        return context


class Webhook:
    """Takes POSTs; `answers` says what the next ones are answered with: a status, or what is waited for."""

    def __init__(self, certificate: Certificate | None = None) -> None:
        self.received: queue.Queue[tuple[str, dict[str, str], bytes]] = queue.Queue()
        self.answers: list[int | Callable[[], object]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                answer = receiver.answers.pop(0) if receiver.answers else 204
                receiver.received.put((self.path, dict(self.headers), body))
                self.send_response(answer if isinstance(answer, int) else 204 if answer() else 500)
                self.send_header("Location", "/elsewhere")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer((HOST, 0), Handler)
        self._server.daemon_threads = True
        if certificate is not None:
            self._server.socket = certificate.for_servers().wrap_socket(self._server.socket, server_side=True)
        scheme = "http" if certificate is None else "https"
        self.url = f"{scheme}://{HOST}:{self._server.server_address[1]}/hook"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


class _Conversation(socketserver.StreamRequestHandler):
    """One client's conversation with the mail server."""

    def handle(self) -> None:
        server = cast("_Listener", self.server).mail
        if server.talks_until is not None:
            while not server.talks_until.wait(0.02):
                self._say("220-a moment")
            return
        self._say("220 test")
        while words := self.rfile.readline().decode().split():
            verb = words[0].upper()
            if verb == "EHLO":
                may_encrypt = server.certificate is not None and not self._is_encrypted
                self._say("250-test", "250 STARTTLS" if may_encrypt else "250 AUTH PLAIN")
            elif verb == "STARTTLS" and server.certificate is not None:
                self._say("220 go on")
                self._encrypt(server.certificate)
            elif verb == "AUTH":
                server.logins.append(base64.b64decode(words[2]).decode().split("\0")[1:])
                self._say("235 welcome" if server.logins[-1][1] == server.password else f"535 {server.logins[-1]}")
            elif verb == "RCPT":
                refused = any(address in words[1] for address in server.refuses)
                self._say("550 nobody here" if refused else "250 ok")
            elif verb == "DATA":
                self._say("354 go on")
                server.received.put(message_from_bytes(self._letter(), policy=policy.default))
                self._say(server.answers.pop(0) if server.answers else "250 queued")
            elif verb == "QUIT":
                self._say("221 bye")
                return
            else:
                self._say("250 ok")

    @property
    def _is_encrypted(self) -> bool:
        return isinstance(self.connection, ssl.SSLSocket)

    def _say(self, *lines: str) -> None:
        self.wfile.write("".join(f"{line}\r\n" for line in lines).encode())

    def _encrypt(self, certificate: Certificate) -> None:
        self.connection = certificate.for_servers().wrap_socket(self.connection, server_side=True)
        self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", buffering=0)

    def _letter(self) -> bytes:
        lines: list[bytes] = []
        while (line := self.rfile.readline()) not in (b".\r\n", b""):
            lines.append(line)
        return b"".join(lines)


class _Listener(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    mail: MailServer

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up, as one does that does not trust the certificate, is nothing to print."""


class MailServer:
    """Takes mail by SMTP; with a certificate it offers STARTTLS."""

    def __init__(self, certificate: Certificate | None = None) -> None:
        self.certificate = certificate
        self.received: queue.Queue[EmailMessage] = queue.Queue()
        self.logins: list[list[str]] = []
        self.password = "right"
        self.refuses: set[str] = set()
        self.answers: list[str] = []
        """What is said to the next letters instead of 250."""
        self.talks_until: threading.Event | None = None
        """Where it is there, the greeting goes on and on until it is set."""
        self._server = _Listener((HOST, 0), _Conversation)
        self._server.mail = self
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
