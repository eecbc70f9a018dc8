"""Which controller leads: a lock on `orch/leader` by a session bound to the controller's own alive check.

In: a `Port` and what was observed of the lock's key. Out: whether we lead, and the session that fences our writes.
The lock is only the hint; what keeps a former leader from writing is the check-session in each transaction.
"""

from __future__ import annotations

from orchestrator.domain import keys
from orchestrator.domain.records import LockValue
from orchestrator.store.port import KvPair, Port, Refused
from orchestrator.store.sessions import controller_session, end_own_sessions, own_session

ALIVE_CHECK = keys.daemon_check_id("controller")


class Election:
    """One controller's part in the election. Not thread-safe; uses the port of its caller's thread."""

    def __init__(self, port: Port, vm: str, *, checks: tuple[str, ...] = (ALIVE_CHECK,)) -> None:
        self._port = port
        self._vm = vm
        self._checks = checks
        self._session: str | None = None
        self._leads = False

    @property
    def session(self) -> str | None:
        """The session to fence writes with while we lead; None otherwise."""
        return self._session if self._leads else None

    @property
    def leads(self) -> bool:
        """Say whether we hold the lock as far as we know."""
        return self._leads

    @property
    def campaigns_with(self) -> str | None:
        """The session that we campaign with, whether or not it holds the lock."""
        return self._session

    def campaign(self) -> bool:
        """Try once to take the lead; True: we lead. Call again whenever the lock's key changed, and every second.

        Raises `Unknown`; or `Refused` while our own alive check is critical or not registered (not yet fit to lead).
        """
        if self._session is None:
            self._session = own_session(self._port, controller_session(self._vm), self._checks)
        value = LockValue(vm=self._vm).to_json().encode()
        try:
            self._leads = self._port.lock_acquire(keys.LEADER, value, self._session)
        except Refused:
            # The session ended meanwhile; the next campaign begins with a new one.
            self._session, self._leads = None, False
        return self._leads

    def notice(self, pair: KvPair | None) -> bool:
        """Take note of the lock's key as observed (None: absent) and say whether we still lead.

        An observation from before our own acquisition makes us think that we lost: campaign again, which is
        harmless, since acquiring one's own lock succeeds.
        """
        self._leads = self._leads and pair is not None and pair.session == self._session
        return self._leads

    def resign(self) -> None:
        """End our session, which frees the lock at once for another controller. Raises `Unknown`."""
        self._session, self._leads = None, False
        end_own_sessions(self._port, controller_session(self._vm))


def leader_of(pair: KvPair | None) -> str | None:
    """Return the VM whose controller leads, from the lock's key; None when nobody does or it cannot be read."""
    if pair is None or pair.session is None:
        return None
    try:
        return LockValue.from_json(pair.value).vm
    except ValueError:
        return None
