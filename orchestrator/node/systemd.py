"""systemd over D-Bus: what units do, the moment it changes, and stopping one.

In: names of units. Out: `UnitStatus` values, posted from a thread of its own; `UNKNOWN` while D-Bus is away.
Signals only wake the thread: the state is always read anew, so a missed or batched signal does no harm.
Source of the interface: org.freedesktop.systemd1(5).
"""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from jeepney import (
    DBusAddress,
    DBusErrorResponse,
    HeaderFields,
    MatchRule,
    Message,
    MessageType,
    Properties,
    message_bus,
    new_method_call,
)
from jeepney.io.blocking import DBusConnection, open_dbus_connection
from jeepney.wrappers import unwrap_msg
from tenacity import RetryCallState, wait_fixed

from orchestrator.backoff import error_of, retry_until_stopped
from orchestrator.node.situation import UnitState, UnitStatus

_BUS = "org.freedesktop.systemd1"
_MANAGER = DBusAddress("/org/freedesktop/systemd1", bus_name=_BUS, interface=f"{_BUS}.Manager")
_REPLY_TIMEOUT_S = 5.0
_STOP_TIMEOUT_S = 5.0
_RECONNECT = wait_fixed(0.5)
# A net under the signals: systemd could be re-executed while we were not looking.
_READ_ANYWAY_S = 30.0
_ASK_AGAIN_S = 0.5
_SUFFIXES = (".service", ".socket", ".target", ".timer", ".mount", ".path", ".slice", ".scope")

# It has no ExecReload, it is not running any more, or it is being stopped: nothing is left to be closed.
_NOT_TO_BE_RELOADED = frozenset(f"{_BUS}.{name}" for name in ("JobTypeNotApplicable", "TransactionIsDestructive"))

_UNIT_PROPERTIES = ("LoadState", "ActiveState", "SubState", "Job", "StateChangeTimestamp")
_SERVICE_PROPERTIES = ("MainPID", "Result")

Post = Callable[[str, UnitStatus], None]


class SystemdAway(Exception):
    """systemd could not be asked or did not do as told."""


def full_name(unit: str) -> str:
    """Return the unit's name with its type, `.service` where none is given."""
    return unit if unit.endswith(_SUFFIXES) else f"{unit}.service"


def unit_state(load: str, active: str, sub: str, job: str | None) -> UnitState:
    """Return what systemd's words mean to a guard. `job` is the type of the unit's pending job, if there is one.

    `*-before-auto-restart` (systemd 254 and newer) and a start job on a unit that is down are ways of coming back,
    as is a deactivation that nobody asked for: systemd then decides between a restart and `failed`.
    """
    if active in ("active", "reloading", "refreshing", "maintenance"):
        return UnitState.ACTIVE
    if active == "activating":
        return UnitState.RESTARTING if sub.startswith("auto-restart") else UnitState.STARTING
    if active == "deactivating":
        return UnitState.STOPPING if job == "stop" else UnitState.RESTARTING
    if job in ("start", "restart", "try-restart") or sub.endswith("-before-auto-restart"):
        return UnitState.RESTARTING
    if load == "not-found":
        return UnitState.ABSENT
    return UnitState.FAILED if active == "failed" else UnitState.STOPPED


def status_of(
    load: str | None, active: str | None, sub: str | None, job: str | None, since: float, pid: int, result: str
) -> UnitStatus:
    """Return the status that the answers make. None is a question that was not answered (systemd shuts down, or
    forgets the unit while it reloads): then nothing is known, which is not the same as stopped.
    """
    if load is None or active is None or sub is None:
        return UnitStatus(UnitState.UNKNOWN, "systemd did not say")
    return UnitStatus(unit_state(load, active, sub, job), f"{active} ({sub})", since, pid, result)


class _Conversation:
    """One connection: questions are sent together, signals that come between the answers are kept."""

    def __init__(self, connection: DBusConnection) -> None:
        self._connection = connection
        self._signals: deque[Message] = deque()

    def ask(self, messages: list[Message]) -> list[Message]:
        """Send all, then return their answers (errors too) in the same order."""
        serials = [next(self._connection.outgoing_serial) for _ in messages]
        for serial, message in zip(serials, messages, strict=True):
            self._connection.send(message, serial=serial)
        answers: dict[int, Message] = {}
        while len(answers) < len(serials):
            message = self._connection.receive(timeout=_REPLY_TIMEOUT_S)
            if message.header.message_type is MessageType.signal:
                self._signals.append(message)
            else:
                answers[message.header.fields.get(HeaderFields.reply_serial, -1)] = message
        return [answers[serial] for serial in serials]

    def call(self, message: Message) -> tuple[Any, ...]:
        """Return the body of the answer; raises DBusErrorResponse."""
        body: tuple[Any, ...] = unwrap_msg(self.ask([message])[0])
        return body

    def next_signal(self, timeout_s: float) -> Message | None:
        """Return the oldest signal; None when none came in time."""
        deadline = time.monotonic() + timeout_s
        while not self._signals:
            try:
                message = self._connection.receive(timeout=max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                return None
            if message.header.message_type is MessageType.signal:
                self._signals.append(message)
        return self._signals.popleft()

    def close_from_outside(self) -> None:
        """Make a thread that waits on this connection fail at once."""
        with suppress(OSError):
            self._connection.sock.shutdown(socket.SHUT_RDWR)


@contextmanager
def _bus() -> Iterator[_Conversation]:
    try:
        connection = open_dbus_connection(bus="SYSTEM")
    except Exception as error:  # the library raises its own, OSError and TimeoutError alike
        raise SystemdAway(f"no D-Bus: {error!r}") from error
    try:
        yield _Conversation(connection)
    except (OSError, TimeoutError, DBusErrorResponse) as error:
        raise SystemdAway(f"systemd over D-Bus: {error!r}") from error
    finally:
        connection.close()


def _load(bus: _Conversation, unit: str) -> str:
    """Return the object path of the unit; systemd makes one for a unit that does not exist, too."""
    return str(bus.call(new_method_call(_MANAGER, "LoadUnit", "s", (full_name(unit),)))[0])


def _read(bus: _Conversation, path: str) -> UnitStatus:
    """Read the unit; a property that it does not have is None (a socket has no MainPID)."""

    def questions(interface: str, names: tuple[str, ...], of: str = path) -> list[Message]:
        properties = Properties(DBusAddress(of, bus_name=_BUS, interface=f"{_BUS}.{interface}"))
        return [properties.get(name) for name in names]

    def value(answer: Message) -> Any:
        return answer.body[0][1] if answer.header.message_type is MessageType.method_return else None

    answers = bus.ask(questions("Unit", _UNIT_PROPERTIES) + questions("Service", _SERVICE_PROPERTIES))
    load, active, sub, job, changed, pid, result = (value(answer) for answer in answers)
    job_type = value(bus.ask(questions("Job", ("JobType",), job[1]))[0]) if job and job[0] else None
    return status_of(load, active, sub, job_type, (changed or 0) / 1e6, pid or 0, result or "")


def read_unit(unit: str) -> UnitStatus:
    """Read one unit now; raises `SystemdAway`."""
    with _bus() as bus:
        return _read(bus, _load(bus, unit))


def stop_and_disable(unit: str) -> None:
    """Ask systemd to stop the unit and not to start it at boot; raises `SystemdAway`. Does not wait for the stop."""
    name = full_name(unit)
    with _bus() as bus:
        bus.call(new_method_call(_MANAGER, "StopUnit", "ss", (name, "replace")))
        bus.call(new_method_call(_MANAGER, "DisableUnitFiles", "asb", ([name], False)))


def kill_processes(unit: str) -> None:
    """Have systemd kill all processes of the unit with SIGKILL, at once; raises `SystemdAway`."""
    with _bus() as bus:
        bus.call(new_method_call(_MANAGER, "KillUnit", "ssi", (full_name(unit), "all", signal.SIGKILL)))


def reload(unit: str) -> None:
    """Ask systemd to reload the unit, if it can be; raises `SystemdAway`. Does not wait for the reload."""
    with _bus() as bus:
        try:
            bus.call(new_method_call(_MANAGER, "ReloadUnit", "ss", (full_name(unit), "fail")))
        except DBusErrorResponse as error:
            if error.name not in _NOT_TO_BE_RELOADED:
                raise


class UnitWatch:
    """Follows some units from a thread and posts each `UnitStatus` that differs from the one before."""

    def __init__(self, units: frozenset[str], post: Post) -> None:
        """`post(unit, status)` is called from the thread; it must not block."""
        self._units = sorted(units)
        self._post = post
        self._last: dict[str, UnitStatus] = {}
        self._stopped = threading.Event()
        self._bus: _Conversation | None = None
        self._thread = threading.Thread(target=self._run, name="systemd", daemon=True)

    def start(self) -> None:
        """Begin; the first statuses are posted as soon as systemd has answered."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        bus = self._bus
        if bus is not None:
            bus.close_from_outside()
        self._thread.join(_STOP_TIMEOUT_S)

    def _run(self) -> None:
        retry_until_stopped(
            self._connect_and_follow, self._stopped, on=SystemdAway, wait=_RECONNECT, failed=self._tell_away
        )

    def _connect_and_follow(self) -> None:
        with _bus() as bus:
            self._bus = bus
            self._follow(bus)

    def _tell_away(self, state: RetryCallState) -> None:
        for unit in self._units:
            self._tell(unit, UnitStatus(UnitState.UNKNOWN, str(error_of(state))))

    def _follow(self, bus: _Conversation) -> None:
        paths = self._subscribe(bus)
        while not self._stopped.is_set():
            for path, unit in paths.items():
                self._tell(unit, _read(bus, path))
            while not self._stopped.is_set() and (signal := bus.next_signal(self._patience_s())):
                changed = str(signal.header.fields.get(HeaderFields.path))
                # systemd sends the change of the Service interface before that of the Unit interface.
                if changed in paths and signal.body and signal.body[0] == f"{_BUS}.Unit":
                    self._tell(paths[changed], _read(bus, changed))

    def _patience_s(self) -> float:
        """Return how long to wait for a signal: what systemd did not say is asked again soon."""
        unknown = any(status.state is UnitState.UNKNOWN for status in self._last.values())
        return _ASK_AGAIN_S if unknown else _READ_ANYWAY_S

    def _subscribe(self, bus: _Conversation) -> dict[str, str]:
        """Return object path -> unit, with signals switched on for each."""
        bus.call(new_method_call(_MANAGER, "Subscribe"))
        paths: dict[str, str] = {}
        for unit in self._units:
            path = _load(bus, unit)
            bus.call(
                message_bus.AddMatch(
                    MatchRule(
                        type="signal",
                        interface="org.freedesktop.DBus.Properties",
                        member="PropertiesChanged",
                        path=path,
                    )
                )
            )
            paths[path] = unit
        return paths

    def _tell(self, unit: str, status: UnitStatus) -> None:
        if self._last.get(unit) != status:
            self._last[unit] = status
            self._post(unit, status)
