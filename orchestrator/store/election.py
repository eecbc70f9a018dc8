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

    def is_hopeless(self, pair: KvPair | None) -> bool:
        """Say whether to campaign is in vain while the lock's key is as observed: another VM's session holds it.

        Without a session of ours it is not: after a quick restart the holder is our own old session. Nor while our own
        VM holds it: after a loss of power that is an old session too. No check has noticed either; only we end them.
        """
        is_held = pair is not None and pair.session not in (None, self._session)
        return self._session is not None and is_held and leader_of(pair) != self._vm

    def campaign(self) -> bool:
        """Try once to take the lead; True: we lead. Call again whenever the lock's key changed, and every second,
        unless it `is_hopeless`. A former session of ours that holds the lock is ended, and the next campaign wins.

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
            return False
        if not self._leads:
            end_own_sessions(self._port, controller_session(self._vm), but=self._session)
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
