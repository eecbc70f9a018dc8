"""How the fleet of a lab is, asked again and again until it is as wanted."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

from deploy.machines.lab import Lab
from deploy.machines.network import enter_network
from deploy.machines.places import LabError
from orchestrator.cli import report
from orchestrator.cli.fleet import Fleet, NoPolicy, look
from orchestrator.cli.report import Report
from orchestrator.decide.cycle import decide
from orchestrator.decide.standbys import STABLE_S
from orchestrator.domain.records import RequestState
from orchestrator.store.consul_port import ConsulPort
from orchestrator.store.port import Unknown

# Asked about the fleet: no controller, whose agent is busier than others.
WITNESS = "database-server"
# A VM that one of these was done to is not asked.
SILENT = frozenset({"poweroff", "cut", "freeze"})
# A VM that returns brings its copy of the database up to date, or has it made anew, before all is as it was.
SETTLED_WITHIN_S = 180.0
ANSWER_WITHIN_S = 3.0


def wait_until(what: str, is_true: Callable[[], bool], within_s: float, every_s: float = 0.1) -> None:
    """Ask until it is true; raises LabError that says what did not happen.

    What cannot be asked for a moment (Consul elects, a VM boots) is not so yet; the error tells the last time of that.
    """
    deadline = time.monotonic() + within_s
    trouble = ""
    while True:
        try:
            if is_true():
                return
        except (LabError, subprocess.TimeoutExpired) as error:
            trouble = f" (asking failed: {error})"
        if time.monotonic() > deadline:
            raise LabError(f"after {within_s:g} s it is still not so that {what}{trouble}")
        time.sleep(every_s)


def witness_of(lab: Lab) -> str:
    """Return a VM that can be asked about the fleet whatever faults are in force: WITNESS while it can."""
    state = lab.state()
    silent = {fault.vm for fault in state.faults if fault.kind in SILENT} if state is not None else set()
    names = [WITNESS, *(vm.name for vm in lab.fleet.vms if vm.name != WITNESS)]
    return next((name for name in names if name not in silent), WITNESS)


def fleet_status(lab: Lab, vm: str | None = None) -> Report:
    """Return the answer of `orch status --json`, from the Consul agent of the VM (or of whichever can be asked); an
    empty mapping while it cannot be had."""
    fleet = _look(lab, vm)
    return report.status(fleet, decide(fleet.view, fleet.memory, fleet.policy, fleet.at)) if fleet else {}


def _look(lab: Lab, vm: str | None = None) -> Fleet | None:
    """Return what the VM's agent (or whichever can be asked) knows of the fleet; None while it cannot be had.

    Put together in this process: it is asked again and again, and starting `orch` each time would keep the machine
    busy that the fleet recovers on.
    """
    machine = lab.machine(vm or witness_of(lab))
    namespace, token = lab.places.vm_namespace(machine.name), machine.consul_token()

    def ask() -> Fleet | NoPolicy:
        enter_network(namespace)
        with closing(ConsulPort(token=token, timeout_s=ANSWER_WITHIN_S)) as port:
            return look(port, time.time())

    # The network belongs to a thread.
    with ThreadPoolExecutor(1) as asking:
        try:
            fleet = asking.submit(ask).result()
        except (Unknown, OSError):
            return None
    return None if isinstance(fleet, NoPolicy) else fleet


def unsettled(status: Mapping[str, Any]) -> list[str]:
    """Return what is not as it should be, a phrase each: every service is to be served where it is designated, beside
    the standbys that its policy wants and no others, and nothing under way.

    Reads what `orch status --json` tells; an empty mapping is a fleet that could not be asked.
    """
    if not status:
        return ["the fleet cannot be asked"]
    found = [f"{name} is under way: {what['state']}" for name, what in _under_way(status)]
    for name, service in status["services"].items():
        if not service["healthy"] or service["active"] != service["designated"] or service["hold_until"]:
            kept = ("active", "designated", "lock_holder", "instances", "hold_until", "problem")
            told = {key: service[key] for key in kept}
            found.append(f"{name} is not served as it should be: {told}")
        found += [f"{name} has no healthy standby on {vm}" for vm in service["standbys_missing"]]
        cluster = service.get("cluster")
        if cluster and not cluster["healthy"]:
            found.append(f"the cluster of {name} is not as it should be: {cluster}")
        if _has_leftovers(service):
            found.append(f"{name} still runs beside its active: {service['instances']}")
    for name, vm in status["vms"].items():
        silent = [daemon for daemon, lives in vm["daemons"].items() if not lives]
        if vm["reach"] != "up" or silent:
            found.append(f"{name} is {vm['reach']}, without {', '.join(silent) or 'nothing'}")
    if not found and not status["healthy"]:
        found.append(f"leader {status['leader']}, unreadable {status['unreadable']}")
    return found


def _under_way(status: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for what in (*status["moves"], *status["commands"]):
        yield f"{what.get('play') or what.get('kind')} of {what['service']}", what


def _has_leftovers(service: Mapping[str, Any]) -> bool:
    """Say whether a cold service still runs beside its active, as it does for seconds after it was hot."""
    beside = (state for vm, state in service["instances"].items() if vm != service["active"])
    return service["standby"] == "cold" and "healthy" in beside


def settle(lab: Lab) -> None:
    """Wait until the fleet is as it should be; raises LabError that says what is not."""
    last: list[str] = []

    def is_settled() -> bool:
        last[:] = unsettled(fleet_status(lab))
        return not last

    try:
        wait_until("the fleet is as it should be", is_settled, SETTLED_WITHIN_S, 0.2)
    except LabError as error:
        raise LabError(f"{error}: {'; '.join(last)}") from error


def let_standbys_stand(lab: Lab) -> None:
    """Wait until every standby that was started has stood long enough to count as well; raises LabError.

    One that is missed sooner is started later each time. A fleet's grace before it fails back is longer than that, a
    trial's is not, so that faults in a row would look to it like starts in vain.
    """

    def all_stand() -> bool:
        fleet = _look(lab)
        return fleet is not None and all(
            fleet.at - start.updated >= STABLE_S
            for start in fleet.view.ended_starts
            if start.state is RequestState.SUCCEEDED
        )

    wait_until("every standby has stood for a while", all_stand, STABLE_S + SETTLED_WITHIN_S, 1.0)
