"""Planted bugs around the data of the replicated service; `planted` has the others."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from orchestrator.controller import Controller
from orchestrator.domain import keys
from orchestrator.domain.records import Sync
from orchestrator.node import duties as do
from orchestrator.node.instance import session_name
from orchestrator.node.replication.facts import ServerFacts
from orchestrator.node.situation import DataState, Situation
from orchestrator.store.port import KvPair
from tests.simulation.attendant import Asked, Attendant, Steps
from tests.simulation.daemons import DiskKnowledge, WatchedHand
from tests.simulation.data import DATABASE
from tests.simulation.database import Database
from tests.simulation.world import Parts

BOTH = ("database-server", "backend-server")


class CredulousController(Controller):
    """Takes every copy for whole."""

    def cycle(self, snapshot: Any, *rest: Any) -> Any:
        pairs = tuple(self._credulous(pair) for pair in snapshot.pairs)
        found = {pair.key: pair for pair in pairs}
        return super().cycle(SimpleNamespace(pairs=pairs, checks=snapshot.checks, pair=found.get), *rest)  # type: ignore[arg-type]

    @staticmethod
    def _credulous(pair: KvPair) -> KvPair:
        if pair.key != keys.sync(DATABASE):
            return pair
        try:
            record = Sync.from_json(pair.value)
        except ValueError:
            return pair
        return replace(pair, value=record.with_(complete=BOTH).to_json().encode())


class CredulousKnowledge(DiskKnowledge):
    """So does the guard."""

    def _data(self, service: str, pairs: Any) -> DataState:
        state = super()._data(service, pairs)
        if state.sync is None or state.facts is None or state.sync.primary == self.vm:
            return state
        facts = replace(state.facts, acknowledges=True)
        return replace(state, sync=state.sync.with_(complete=BOTH), facts=facts)


class ForgetfulAsked(Asked):
    """A copy that was restarted counts as before (rpl_semi_sync_slave_enabled is on from the start)."""

    def facts(self) -> ServerFacts:
        return replace(super().facts(), acknowledges=True)

    def _follow(self, source: Database) -> None:
        super()._follow(source)
        self._database.acknowledging = True


class UndrainedAsked(Asked):
    """Promotes without applying what was received."""

    def promote(self, upto: str | None, within_s: float) -> Steps:
        yield from self._tell(self._forget_source)


class ForgetfulAttendant(Attendant):
    """See `ForgetfulAsked`."""

    kind_of_asked = ForgetfulAsked


class UndrainedAttendant(Attendant):
    """See `UndrainedAsked`."""

    kind_of_asked = UndrainedAsked


class LeaselessAttendant(Attendant):
    """Nobody keeps the time of the lease."""

    def _watch(self, turn: int, *, again: bool = True) -> None:
        return


class BoldAttendant(Attendant):
    """Makes a server writable that comes up and follows nobody, because it was the primary before."""

    def _read(self) -> None:
        database = self._database
        if database.answers and database.source is None and database.log and not self._doing:
            database.open_writes(self._guard.world.data.newest_epoch)
        super()._read()


class HurriedHand(WatchedHand):
    """Lets commits go on alone before it records that the standby is lost."""

    def carry_out(self, duty: do.Duty, at: Situation | None, doors: Any) -> None:
        if isinstance(duty, do.WriteSync) and len(duty.record.complete) == 1:
            server = next(each for each in self._machine.world.data.servers if each.vm is self._machine)
            server.set_waits(False)
        super().carry_out(duty, at, doors)


class EagerHand(WatchedHand):
    """Says that it is ready for traffic when it takes the lock."""

    def _acquire(self, duty: do.AcquireLock) -> None:
        super()._acquire(replace(duty, ready=True))


class UndelayedHand(WatchedHand):
    """Its sessions have no lock delay."""

    def _carry_out_for(self, duty: do.Duty, at: Situation) -> None:
        if isinstance(duty, do.CreateSession):
            checks = (keys.probe_check_id(at.service), keys.unit_check_id(at.service))
            self._port.session_create(session_name(at.service, self._vm), checks)
        else:
            super()._carry_out_for(duty, at)


DATA_BUGS: dict[str, tuple[Parts, str, int]] = {
    "copies that are not whole are promoted": (
        Parts(controller=CredulousController, knowledge=CredulousKnowledge),
        "is promoted although only the copy of",
        1,
    ),
    "a copy that lost what it received is promoted": (Parts(attendant=ForgetfulAttendant), "lacks", 205),
    "what was received is not applied before the promotion": (Parts(attendant=UndrainedAttendant), "lacks", 75),
    "the standby's loss is recorded after it counts": (Parts(hand=HurriedHand), "which is recorded as whole", 13),
    "a session without a lock delay": (Parts(hand=UndelayedHand), "while mariadb@", 75),
    "a primary without a lease": (Parts(attendant=LeaselessAttendant), "while mariadb@", 58),
    "traffic before the data is ready": (Parts(hand=EagerHand), "ready for traffic and takes no writes", 1),
    "a former primary that opens itself": (Parts(attendant=BoldAttendant), "lacks", 1),
}
"""As `planted.BUGS`."""
