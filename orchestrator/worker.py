"""The worker: one loop that takes commands, has their plays run and records what they came to.

Here are the threads: watchers of Consul, the consumer of messages, one per play, warm SSH. All of them reach
the loop through one queue. The steps and rules are in `worker_steps.Worker`.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable

from orchestrator.dispatch.consumer import Consumer
from orchestrator.domain import keys
from orchestrator.domain.wire import Senders
from orchestrator.execute.environment import Places
from orchestrator.execute.play import AnsiblePlays
from orchestrator.execute.releases import Releases
from orchestrator.execute.room import no_room_in
from orchestrator.execute.warm import WarmServer
from orchestrator.execute.warm_ssh import WarmSsh
from orchestrator.liveness import Liveness
from orchestrator.metrics.worker import WorkerMetrics
from orchestrator.observe.watch import Snapshot, Source, prefix_source, pulse_source, start_watching
from orchestrator.settings import LocalSettings
from orchestrator.store.consul_port import ConsulPort
from orchestrator.store.port import Refused, Session, Unknown
from orchestrator.store.sessions import end_own_sessions, worker_session
from orchestrator.worker_steps import Seen, Worker

log = logging.getLogger(__name__)

IDLE_ROUND_S = 1.0
BUSY_ROUND_S = 0.5
STALE_AFTER_S = 5.0
# Together less than TimeoutStopSec of the systemd unit (10 s).
FINISH_WITHIN_S = 4.0
RELEASE_WITHIN_S = 2.0
# One call that hangs (the Raft leader's VM was cut off) must cost less than the lease of a running play.
CALL_TIMEOUT_S = 1.0
SESSIONS = "sessions"


class _Daemon:
    """The threads around one `Worker`, and the queue by which they reach it."""

    def __init__(self, settings: LocalSettings) -> None:
        self.settings = settings
        self.metrics = WorkerMetrics(lambda: self.worker.session is not None, lambda: self.worker.plays_in_hand)
        self.places = Places(settings.ansible_dir, settings.state_dir, settings.ssh_key_file)
        self.places.make()
        self.watch_stop = threading.Event()
        self.observed = start_watching(
            lambda stale: self.make_port(stale_reads=stale),
            worker_sources(settings.vm, self.watch_stop),
            self.watch_stop,
        )
        self.inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.warm = WarmServer(self.places)
        self.warm_ssh = WarmSsh(self.places)
        self.plays = AnsiblePlays(self.places, lambda event: self.post(lambda: self.worker.take_play_event(event)))
        self.consumer = Consumer(
            settings.amqp,
            on_message=lambda delivery: self.post(lambda: self.worker.take_message(delivery)),
            on_lost=lambda connection: self.post(lambda: self.worker.forget_connection(connection)),
        )
        senders = Senders(settings.amqp.controller.user, settings.amqp.requesters)
        self.worker = Worker(
            self.make_port(),
            self.plays,
            self.consumer,
            settings.vm,
            senders,
            time.time,
            self.metrics.note,
            Releases(settings.ansible_dir).look,
            lambda: no_room_in(self.places.artefacts),
        )
        self.liveness = Liveness(settings.health_ports.worker, STALE_AFTER_S, "worker", self.metrics)

    def make_port(self, *, stale_reads: bool = False) -> ConsulPort:
        """Return a port for one thread."""
        consul = self.settings.consul
        return ConsulPort(
            consul.host,
            consul.port,
            token_file=self.settings.consul_token_file("worker"),
            timeout_s=CALL_TIMEOUT_S,
            stale_reads=stale_reads,
            on_failure=self.metrics.note_consul_failure,
        )

    def post(self, call: Callable[[], None]) -> None:
        """Have the loop make the call. For any thread."""
        self.inbox.put(call)
        self.observed.poke()

    def start(self) -> None:
        """Start all threads, the warm server first: it takes longest."""
        self.warm.ensure_running()
        self.consumer.start()
        self.warm_ssh.start()

    def step(self, after: int, wake_at: float | None) -> tuple[int, float | None]:
        """Wait for something to happen, then go round once."""
        timeout_s = IDLE_ROUND_S if self.worker.is_idle else BUSY_ROUND_S
        if wake_at is not None:
            timeout_s = min(timeout_s, max(0.0, wake_at - time.monotonic()))
        snapshot = self.observed.wait(after, timeout_s)
        while not self.inbox.empty():
            self.inbox.get()()
        cycle = self.worker.cycle(seen_in(snapshot), time.monotonic())
        self.plays.keep_artefacts = self.worker.dispatch.keep_artefacts
        self.liveness.beat(cycle.sentence)
        self.warm.ensure_running(may_end=self.worker.is_idle)
        return snapshot.version, cycle.wake_at

    def retire(self, after: int) -> None:
        """Let what runs finish for a few seconds, then leave it to another worker."""
        self.worker.retire()
        self.consumer.stop()
        for within_s, at_last in ((FINISH_WITHIN_S, self.worker.release_plays), (RELEASE_WITHIN_S, None)):
            until = time.monotonic() + within_s
            while not self.worker.is_idle and time.monotonic() < until:
                after, _ = self.step(after, time.monotonic() + 0.1)
            if at_last is not None:
                at_last()

    def close(self) -> None:
        """End the threads and processes, and our session, so that nobody waits for it."""
        self.watch_stop.set()
        self.warm_ssh.stop()
        self.warm.stop()
        self.liveness.close()
        try:
            end_own_sessions(self.make_port(), worker_session(self.settings.vm))
        except (Unknown, Refused) as problem:
            log.warning("The session could not be ended: %s", problem)


def worker_sources(vm: str, stop: threading.Event) -> tuple[Source, ...]:
    """Return what a worker watches."""
    sessions = Source(
        SESSIONS, lambda port, index, wait_s: port.session_list(port.node_name(), index=index, wait_s=wait_s)
    )
    return (
        prefix_source(keys.COMMANDS),
        prefix_source(keys.SERVICES),
        prefix_source(keys.CONFIG, swift=False),
        prefix_source(keys.installed(vm), swift=False),
        sessions,
        pulse_source(stop),
    )


def seen_in(snapshot: Snapshot) -> Seen:
    """Return what the worker looks at."""
    found = snapshot.data.get(SESSIONS)
    sessions = None if found is None else tuple(each for each in found if isinstance(each, Session))
    return Seen(snapshot.pairs, sessions, known=snapshot.known)


def run(settings: LocalSettings, stop: threading.Event) -> None:
    """Run the worker until `stop` is set; then finish or hand over what runs."""
    daemon = _Daemon(settings)
    after, wake_at = 0, None
    try:
        daemon.start()
        while not stop.is_set():
            after, wake_at = daemon.step(after, wake_at)
        daemon.retire(after)
    finally:
        daemon.close()
