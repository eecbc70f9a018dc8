"""Sessions of our daemons: their names, and which of them a restarted daemon keeps or ends.

A restarted controller or worker ends the sessions of its name on its VM, since a quick restart is seen by no check
and would leave the lock with a dead process. A restarted guard finds its session again: its own death is no fault
of the service. Never touches a session of another name or VM.
"""

from __future__ import annotations

from orchestrator.domain.keys import SERF_HEALTH
from orchestrator.store.port import Port, Session


def controller_session(vm: str) -> str:
    """Return the name of the controller's session on the VM."""
    return f"orch-controller@{vm}"


def worker_session(vm: str) -> str:
    """Return the name of the worker's session on the VM."""
    return f"orch-worker@{vm}"


def guard_session(service: str, vm: str) -> str:
    """Return the name of the guard's session for its instance of the service on the VM."""
    return f"orch-guard:{service}@{vm}"


def own_sessions(port: Port, name: str) -> tuple[Session, ...]:
    """Read the sessions of this name on this VM. Raises `Unknown`."""
    _, sessions = port.session_list(port.node_name())
    return tuple(session for session in sessions if session.name == name)


def end_own_sessions(port: Port, name: str, *, but: str | None = None) -> int:
    """End every session of this name on this VM but one; returns how many there were. Raises `Unknown`.

    To be asked again later: a session that was made in the last moment before all servers lost power may be in none of
    their answers when the daemon begins, and lives on, with its locks, as soon as the VM's checks pass.
    """
    old = tuple(session for session in own_sessions(port, name) if session.id != but)
    for session in old:
        port.session_destroy(session.id)
    return len(old)


def own_session(port: Port, name: str, checks: tuple[str, ...], *, lock_delay_s: float = 0.0) -> str:
    """Create the daemon's session after ending its old ones. Raises `Unknown`, or `Refused` on a critical check."""
    end_own_sessions(port, name)
    return port.session_create(name, checks, lock_delay_s=lock_delay_s)


def found_session(port: Port, name: str, checks: tuple[str, ...]) -> str | None:
    """Return the session of this name that is bound to exactly these checks and serfHealth; None if there is none."""
    wanted = {SERF_HEALTH, *checks}
    return next((session.id for session in own_sessions(port, name) if set(session.checks) == wanted), None)


def kept_session(port: Port, name: str, checks: tuple[str, ...], *, lock_delay_s: float = 0.0) -> str:
    """Return the session found again, or a new one after ending those that do not fit.

    Raises `Unknown`, or `Refused` when a check is critical or has not reached the catalog yet (try again soon).
    """
    found = found_session(port, name, checks)
    if found is None:
        return own_session(port, name, checks, lock_delay_s=lock_delay_s)
    end_own_sessions(port, name, but=found)
    return found
