"""One connection to any of the brokers, kept up by a thread of its own; base of `Publisher` and `Consumer`.

In: the brokers' addresses. Out: `opened(channel)` each time a channel is there, `lost()` each time it is gone. TLS
only: a broker whose certificate the fleet's authority has not signed for its address is none. pika's asynchronous
connection is used, not the blocking one: heartbeats need no help, and a confirm that never comes (a quorum queue
without majority) blocks nobody.

Never raises into the daemon; one sentence is logged when the broker is lost, one when it is back.
"""

from __future__ import annotations

import logging
import ssl
import threading
import time
from collections.abc import Callable
from itertools import cycle
from typing import Any

import pika
from pika.channel import Channel
from pika.exceptions import AMQPError
from tenacity import RetryCallState, wait_exponential, wait_random

from orchestrator.backoff import error_of, retry_until_stopped
from orchestrator.settings import AmqpAccount, AmqpSettings, SettingsError, read_secret

log = logging.getLogger(__name__)
logging.getLogger("pika").setLevel(logging.CRITICAL)

HEARTBEAT_S = 5
CONNECT_TIMEOUT_S = 1.0
HANDSHAKE_TIMEOUT_S = 2.0
PAUSES = wait_exponential(multiplier=0.1, max=2.0) + wait_random(0, 0.1)
STOP_TIMEOUT_S = 2.0
# A connection that did not live as long counts as one that was never made: a broker that is starting or without
# majority accepts connections and closes them at once.
SHORT_LIFE_S = 5.0
# Bytes that nobody acknowledges end the connection after this long; the heartbeat alone takes three times that.
UNACKNOWLEDGED_MS = 3000


class LinkLost(Exception):
    """The connection could not be made, or is gone; the message says why."""


class Link:
    """Owns the thread and the connection. Everything in `opened`, `lost` and callbacks runs in that thread."""

    def __init__(self, amqp: AmqpSettings, account: AmqpAccount, name: str) -> None:
        self._amqp = amqp
        self._account = account
        self._name = name
        self._hosts = cycle(amqp.hosts)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._connection: pika.SelectConnection | None = None
        self._why: str = ""
        self._is_up = False
        self._told_down = False

    # -- for subclasses ------------------------------------------------------------------------------------------

    def opened(self, channel: Channel) -> None:
        """A channel is open."""
        raise NotImplementedError

    def lost(self) -> None:
        """The channel of the last `opened` is gone."""
        raise NotImplementedError

    def call(self, callback: Callable[[], None]) -> bool:
        """Have the link's thread run the callback soon. False: there is no connection. For any thread."""
        connection = self._connection
        if connection is None:
            return False
        try:
            connection.ioloop.add_callback_threadsafe(callback)
        except (AMQPError, RuntimeError, AttributeError, TypeError):
            # The loop was closed in this moment.
            return False
        return True

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
        """Have the link's thread run the callback after the delay, if the connection lives that long."""
        if self._connection is not None:
            self._connection.ioloop.call_later(delay_s, callback)

    def drop(self, why: str) -> None:
        """Give this connection up; the next host is tried. For the link's thread."""
        self._why = self._why or why
        if self._connection is not None:
            self._connection.ioloop.stop()

    # -- for the daemon --------------------------------------------------------------------------------------------

    @property
    def is_up(self) -> bool:
        """Say whether a broker is connected now."""
        return self._is_up

    def start(self) -> None:
        """Start the thread; returns at once."""
        self._thread = threading.Thread(target=self._keep_connected, name=f"amqp {self._name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Close the connection and end the thread; waits at most `STOP_TIMEOUT_S`."""
        self._stop.set()
        self.call(lambda: self.drop("this daemon stops"))
        if self._thread is not None:
            self._thread.join(STOP_TIMEOUT_S)

    # -- the thread ------------------------------------------------------------------------------------------------

    def _keep_connected(self) -> None:
        while not self._stop.is_set():
            # A connection that was up begins the waits anew.
            retry_until_stopped(self._connect_once, self._stop, on=LinkLost, wait=PAUSES, failed=self._tell_down)

    def _connect_once(self) -> None:
        """Connect to the next host and serve until the connection is gone; LinkLost when it never was up."""
        host = next(self._hosts)
        self._why = ""
        try:
            connection = pika.SelectConnection(
                self._parameters(host),
                on_open_callback=self._open_channel,
                on_open_error_callback=lambda _, error: self.drop(_reason(error)),
                on_close_callback=lambda _, error: self.drop(_reason(error)),
            )
        except (SettingsError, AMQPError, OSError) as error:
            raise LinkLost(f"{host}: {error}") from error
        self._connection = connection
        was_up = False
        since = time.monotonic()
        try:
            connection.ioloop.start()
        except Exception as error:
            log.exception("The connection to the broker on %s failed.", host)
            self._why = str(error)
        finally:
            was_up, self._is_up = self._is_up, False
            self._connection = None
            _close(connection)
            if was_up:
                self.lost()
        if self._stop.is_set():
            return
        if was_up and not self._told_down:
            log.warning("The %s lost the broker on %s (%s); trying the next.", self._name, host, self._why)
            self._told_down = True
        if not was_up or time.monotonic() - since < SHORT_LIFE_S:
            raise LinkLost(f"{host}: {self._why}")

    def _parameters(self, host: str) -> pika.ConnectionParameters:
        return pika.ConnectionParameters(
            host=host,
            port=self._amqp.port,
            virtual_host=self._amqp.vhost,
            # Both are read each time: they may have been changed meanwhile.
            ssl_options=pika.SSLOptions(ssl.create_default_context(cafile=str(self._amqp.ca_file)), host),
            credentials=pika.PlainCredentials(self._account.user, read_secret(self._account.password_file)),
            heartbeat=HEARTBEAT_S,
            blocked_connection_timeout=HEARTBEAT_S,
            connection_attempts=1,
            socket_timeout=CONNECT_TIMEOUT_S,
            stack_timeout=HANDSHAKE_TIMEOUT_S,
            tcp_options={"TCP_USER_TIMEOUT": UNACKNOWLEDGED_MS},
            client_properties={"connection_name": f"orch {self._name}"},
        )

    def _open_channel(self, connection: pika.SelectConnection) -> None:
        connection.channel(on_open_callback=self._take_channel)

    def _take_channel(self, channel: Channel) -> None:
        channel.add_on_close_callback(lambda _, error: self.drop(_reason(error)))
        self._is_up = True
        self.call_later(SHORT_LIFE_S, self._note_steady)
        self.opened(channel)

    def _note_steady(self) -> None:
        if self._told_down:
            log.info("The %s has a broker again.", self._name)
            self._told_down = False

    def _tell_down(self, state: RetryCallState) -> None:
        if not self._told_down and state.attempt_number >= len(self._amqp.hosts):
            self._told_down = True
            log.warning("The %s reaches no broker (%s); commands go by KV meanwhile.", self._name, error_of(state))


def _reason(error: Any) -> str:
    """Say what went wrong; pika wraps what hindered a connection twice."""
    for _ in range(3):
        inner = [*getattr(error, "exceptions", ()), getattr(error, "exception", None)]
        error = next((each for each in inner if isinstance(each, BaseException)), error)
    if isinstance(error, BaseException):
        return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return str(error)


def _close(connection: pika.SelectConnection) -> None:
    """Close the connection as politely as fits into a moment, and free its loop."""
    try:
        if connection.is_open:
            connection.ioloop.call_later(0.3, connection.ioloop.stop)
            connection.add_on_close_callback(lambda *_: connection.ioloop.stop())
            connection.close()
            connection.ioloop.start()
    except Exception as error:
        log.debug("closing a connection failed: %s", error)
    finally:
        try:
            connection.ioloop.close()
        except Exception as error:
            log.debug("closing a connection's loop failed: %s", error)
