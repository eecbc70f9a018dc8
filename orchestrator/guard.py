"""`orch guard`: the VM's own hand. One loop, fed by threads through one queue.

In: KV and sessions (blocking queries), systemd's events, probe answers. Out: what `node.rounds` does with them.
Stopping it leaves everything in place: sessions have no TTL, and the next guard finds sessions, registration and
address again. Must never hold back a failure: events are taken in between any two duties.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from orchestrator.domain import keys
from orchestrator.domain.policy import FrontDoorPolicy
from orchestrator.liveness import Liveness
from orchestrator.metrics.guard import GuardMetrics
from orchestrator.node.address import AddressTrouble, Door, door_for
from orchestrator.node.catalog import CatalogComparison
from orchestrator.node.duty import FAREWELL_S
from orchestrator.node.feed import Feed, Reading
from orchestrator.node.hand import Hand
from orchestrator.node.knowledge import FEEDS_OF_FRESHNESS, Knowledge
from orchestrator.node.probe import probe_instance
from orchestrator.node.rejoin import Rejoin
from orchestrator.node.replication.attendant import DataReading
from orchestrator.node.replication.attended import LeaseEnded, Servers
from orchestrator.node.rounds import Rounds
from orchestrator.node.situation import AddressState, ProbeResult, Situation, UnitStatus
from orchestrator.node.systemd import UnitWatch
from orchestrator.settings import LocalSettings, read_secret
from orchestrator.store.consul_port import ConsulPort
from orchestrator.store.port import Port, Unknown

log = logging.getLogger(__name__)

STALE_AFTER_S = 15.0
"""The loop counts as stuck after this; its own calls time out far earlier."""
LONGEST_WAIT_S = 2.0
FROZEN_S = 1.0
"""A wait that is longer by this means that the VM was frozen: what we knew may be long over."""
PULSE_S = 1.0
"""A blocking query on an agent that was cut off would not tell; its own question whether there is a leader does."""
_STALE_WAIT_S = 5.0
_LEADER_WAIT_S = 60.0
_CALL_TIMEOUT_S = 2.0
_PROBE_THREADS = 2


class Watching(Protocol):
    """Follows units from a thread of its own."""

    def start(self) -> None:
        """Begin."""

    def stop(self) -> None:
        """End."""


WatchUnits = Callable[[frozenset[str], Callable[[str, UnitStatus], None]], Watching]


@dataclass(frozen=True, slots=True)
class _Stop:
    """The guard is to end."""


@dataclass(frozen=True, slots=True)
class _UnitEvent:
    unit: str
    status: UnitStatus


@dataclass(frozen=True, slots=True)
class _ProbeEvent:
    service: str
    result: ProbeResult


class Guard:
    """The loop and its threads."""

    def __init__(self, settings: LocalSettings, watch_units: WatchUnits = UnitWatch) -> None:
        """`watch_units` is another than systemd's in tests only."""
        self._watch_units = watch_units
        self._settings = settings
        self._events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._stopping = False
        self._metrics = GuardMetrics(lambda: self._rounds.view)
        self._port = self._open_port(stale=False)
        self._probes = ThreadPoolExecutor(_PROBE_THREADS, thread_name_prefix="probe")
        self._knowledge = Knowledge(settings.vm, settings.state_dir)
        self._hand = Hand(settings.vm, self._port, self._probe)
        self._rounds = Rounds(self._knowledge, self._port, self._hand, time.monotonic, self._metrics.note_duty)
        self._feeds = self._make_feeds()
        self._rejoin = Rejoin(lambda: self._open_port(stale=True), self._other_addresses)
        self._units: Watching | None = None
        self._front_doors: dict[str, FrontDoorPolicy | None] = {}
        noted = self._metrics.note_confirmation
        self._servers = Servers(settings, self._knowledge, self._connect, self._events.put, noted)
        self._catalog = CatalogComparison(settings.vm, self._port, time.monotonic, self._default_token)
        self._said = ""

    def run(self, stop_event: threading.Event) -> None:
        """Guard until the event is set."""
        liveness = Liveness(self._settings.health_ports.guard, STALE_AFTER_S, "guard", self._metrics)
        threading.Thread(target=self._await_stop, args=(stop_event,), name="stop", daemon=True).start()
        for feed in self._feeds:
            feed.start()
        self._rejoin.start()
        self._follow_policy()
        # It may have been started by a boot, with an agent that knows nobody yet.
        self._catalog.trouble_ended()
        log.info("the guard of %s begins", self._settings.vm)
        try:
            wake_at = time.monotonic()
            while not self._stopping:
                began = time.monotonic()
                self._take_events(wake_at)
                if time.monotonic() > began + LONGEST_WAIT_S + FROZEN_S:
                    log.warning("this VM or process stood still for %.1f s", time.monotonic() - began)
                    self._rounds.doubt("this VM stood still")
                if not self._stopping:
                    wake_at = self._rounds.run(self._take_waiting_events)
                    liveness.beat(self._rounds.sentence)
                    self._catalog.run()
                    self._say(self._rounds.sentence)
        finally:
            liveness.close()
            self._end()

    def _make_feeds(self) -> tuple[Feed[Any], ...]:
        """Return the blocking queries. The services are asked for twice: the Raft leader answers first, but hangs
        when its VM is cut off; the local agent's copy is some ms later and never hangs.
        """

        def services(port: Port, index: int, wait_s: float) -> tuple[int, Any]:
            return port.kv_list(keys.SERVICES, index=index, wait_s=wait_s)

        def config(port: Port, index: int, wait_s: float) -> tuple[int, Any]:
            return port.kv_get(keys.CONFIG, index=index, wait_s=wait_s)

        def sessions(port: Port, index: int, wait_s: float) -> tuple[int, Any]:
            return port.session_list(self._settings.vm, index=index, wait_s=wait_s)

        def pulse(port: Port, index: int, _: float) -> tuple[int, Any]:
            if index:
                time.sleep(PULSE_S)
            leader_known = port.leader_known()
            self._rejoin.heard(leader_known=leader_known)
            if not leader_known:
                raise Unknown("the local Consul agent knows no leader")
            return 1, True

        def copy() -> Port:
            return self._open_port(stale=True)

        def leader() -> Port:
            return self._open_port(stale=False)

        return (
            Feed("services", copy, services, self._events.put, wait_s=_STALE_WAIT_S, open_leader=leader),
            Feed("sessions", copy, sessions, self._events.put, wait_s=_STALE_WAIT_S, open_leader=leader),
            Feed("pulse", copy, pulse, self._events.put, wait_s=0.0, open_leader=leader),
            Feed("config", copy, config, self._events.put, wait_s=_LEADER_WAIT_S, open_leader=leader),
            Feed("services-from-leader", leader, services, self._events.put, wait_s=_LEADER_WAIT_S, open_leader=leader),
        )

    def _open_port(self, *, stale: bool) -> ConsulPort:
        return self._connect(_CALL_TIMEOUT_S, stale_reads=stale)

    def _connect(self, timeout_s: float, *, stale_reads: bool = False) -> ConsulPort:
        consul = self._settings.consul
        return ConsulPort(
            consul.host,
            consul.port,
            token_file=self._settings.consul_token_file("guard"),
            timeout_s=timeout_s,
            stale_reads=stale_reads,
            on_failure=self._metrics.note_consul_failure,
        )

    def _default_token(self) -> str:
        """Return what the agent takes for the token of whoever gives none; raises SettingsError."""
        path = self._settings.consul_token_file("dns")
        return read_secret(path) if path else ""

    def _await_stop(self, stop_event: threading.Event) -> None:
        stop_event.wait()
        self._events.put(_Stop())

    def _take_events(self, wake_at: float) -> None:
        """Wait for an event until `wake_at`, then take all that are there."""
        wait_s = min(max(0.0, wake_at - time.monotonic()), LONGEST_WAIT_S)
        try:
            self._take(self._events.get(timeout=wait_s) if wait_s else self._events.get_nowait())
        except queue.Empty:
            return
        self._take_waiting_events()

    def _take_waiting_events(self) -> None:
        while True:
            try:
                self._take(self._events.get_nowait())
            except queue.Empty:
                return

    def _take(self, event: Any) -> None:
        if isinstance(event, _UnitEvent):
            self._knowledge.take_unit(event.unit, event.status)
        elif isinstance(event, _ProbeEvent):
            self._rounds.take_probe(event.service, event.result)
        elif isinstance(event, Reading):
            self._take_reading(event)
        elif isinstance(event, DataReading | LeaseEnded):
            self._servers.take(event)
            if isinstance(event, LeaseEnded):
                self._metrics.note_lease_end(event.service)
        elif isinstance(event, _Stop):
            self._stopping = True

    def _take_reading(self, reading: Reading[Any]) -> None:
        known = self._knowledge
        if reading.problem:
            if reading.name in FEEDS_OF_FRESHNESS:
                known.lose(reading.name, reading.problem)
            return
        value: Any = reading.value
        if known.troubled.pop(reading.name, None) is not None:
            self._rounds.read_agent_soon()
            self._catalog.trouble_ended()
        if reading.name == "config":
            if known.take_policy(value):
                self._follow_policy()
        elif reading.name == "sessions":
            known.sessions.offer(reading.index, value, restarted=reading.restarted)
        elif reading.name != "pulse":
            known.kv.offer(reading.index, value, restarted=reading.restarted)

    def _follow_policy(self) -> None:
        """Watch the units and build the doors that the policy names for this VM."""
        policy = self._knowledge.policy
        if policy is None:
            log.warning("waiting: there is no valid policy in orch/config yet, and none was kept from before")
            return
        if self._settings.vm not in policy.vms:
            log.error("the policy does not name this VM, %s; it names %s", self._settings.vm, ", ".join(policy.vms))
        doors: dict[str, Door] = {}
        for name, service in policy.services.items():
            same = self._front_doors.get(name) == service.front_door
            door = self._rounds.doors.get(name) if same else door_for(name, self._settings.vm, service.front_door)
            if door is not None:
                doors[name] = door
                if not same:
                    door.tidy(policy.drain_s + FAREWELL_S)
        former, self._rounds.doors = self._rounds.doors, doors
        for name, door in former.items():
            if doors.get(name) is not door:
                _close(name, door)
        self._front_doors = {name: each.front_door for name, each in policy.services.items()}
        self._rounds.read_addresses_soon()
        self._hand.servers = self._servers.follow(policy)
        if self._units is not None:
            self._units.stop()
        self._units = self._watch_units(frozenset(each.unit for each in policy.services.values()), self._post_unit)
        self._units.start()

    def _other_addresses(self) -> tuple[str, ...]:
        policy = self._knowledge.policy
        vms = policy.vms.items() if policy is not None else ()
        return tuple(vm.address for name, vm in vms if name != self._settings.vm)

    def _post_unit(self, unit: str, status: UnitStatus) -> None:
        self._events.put(_UnitEvent(unit, status))

    def _probe(self, at: Situation) -> None:
        def probe() -> None:
            self._events.put(_ProbeEvent(at.service, probe_instance(at.policy, at.vm_address)))

        self._probes.submit(probe)

    def _say(self, sentence: str) -> None:
        """Log what the VM has come to, once per change."""
        if sentence != self._said:
            self._said = sentence
            log.info("now: %s", sentence)

    def _end(self) -> None:
        """Stop the threads; sessions, registrations and addresses stay as they are."""
        for feed in self._feeds:
            feed.stop()
        self._rejoin.stop()
        if self._units is not None:
            self._units.stop()
        self._servers.stop()
        self._probes.shutdown(wait=False, cancel_futures=True)
        self._port.close()
        log.info("the guard of %s ends and leaves everything in place", self._settings.vm)


def _close(service: str, door: Door) -> None:
    """Give up a front door that the policy does not have any more."""
    if door.state() is AddressState.NONE:
        return
    try:
        door.drop()
        log.info("the former front door of %s is dropped: the policy has another", service, extra={"service": service})
    except AddressTrouble as trouble:
        log.error("the former front door of %s stays: %s", service, trouble, extra={"service": service})


def run(settings: LocalSettings, stop_event: threading.Event) -> None:
    """Guard this VM until `stop_event` is set."""
    Guard(settings).run(stop_event)
