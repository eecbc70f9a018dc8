"""Lines to receivers: encrypted with verification, and hung up when their time is over.

A socket's own timeout is that of one read: a receiver that sends a letter now and then would hold the line for ever.
"""

from __future__ import annotations

import contextlib
import http.client
import smtplib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator

from orchestrator.notify.notice import Undelivered

_AGAIN_S = 0.1


@contextlib.contextmanager
def called(whom: str, timeout_s: float, line: Callable[[], socket.socket | None]) -> Iterator[None]:
    """Shut the line to the receiver down once the time is over, and raise `Undelivered` for what becomes of it.

    `line` is asked when it is to be shut down; None: it is not connected yet.
    """
    done, over = threading.Event(), threading.Event()

    def watch() -> None:
        pause_s = timeout_s
        while not done.wait(pause_s):
            pause_s = _AGAIN_S
            over.set()
            connected = line()
            if connected is not None:
                with contextlib.suppress(OSError):
                    # Past what `ssl` makes of it, which is not meant to be called beside a read.
                    socket.socket.shutdown(connected, socket.SHUT_RDWR)

    threading.Thread(target=watch, name="notify: time limit", daemon=True).start()
    try:
        yield
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        # UnicodeError: a host's name that DNS cannot have.
        said = "no answer in time" if over.is_set() else _said_by(error)
        raise Undelivered(f"{whom} cannot be reached: {said}") from None
    finally:
        done.set()


def verifying(ca_file: str | None) -> ssl.SSLContext:
    """Return a TLS context that verifies certificate and name, against the file's certificates or the system's."""
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise Undelivered(f"{ca_file} cannot be used: {(error.strerror or str(error)).lower()}") from None


def _said_by(error: BaseException) -> str:
    """Return the system's own words for what became of a line."""
    if isinstance(error, TimeoutError) or isinstance(error.__context__, TimeoutError):
        return "no answer in time"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message}"
    if isinstance(error, http.client.RemoteDisconnected | smtplib.SMTPServerDisconnected):
        return "it hung up"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return type(error).__name__
