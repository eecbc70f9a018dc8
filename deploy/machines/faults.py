"""Harm on purpose, and its undoing. Each fault is one write or one command at the moment it takes effect.

Whatever takes time (drop-ins, reloads, finding processes) is done before, and the wall-clock time is taken as
the last thing before that moment, so that a bench can subtract it from what the client saw.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.machines import slow_link
from deploy.machines.access import make_operator_key, pin_host_keys
from deploy.machines.cgroups import kill_below, pids_below
from deploy.machines.places import LabError
from deploy.machines.state import Fault, LabState

if TYPE_CHECKING:
    from deploy.machines.lab import Lab
    from deploy.machines.vm import Machine

DROP_IN = "zz-lab-fault.conf"
# Restart=no keeps systemd from restarting it, the failing step keeps anyone else from starting it.
KEPT_DOWN = "[Service]\nRestart=no\nExecStartPre=/bin/sh -c 'echo kept down by a fault of the lab >&2; exit 1'\n"
OF_A_UNIT = ("kill", "crash", "stop")
OF_A_VM = ("poweroff", "poweron", "cut", "freeze", "thaw", "slow")
DEFAULT_LATENCY_MS, DEFAULT_LOSS_PERCENT = 200.0, 0.0


def inject(lab: Lab, kind: str, vm: str, service: str | None, options: Mapping[str, float]) -> Fault:
    """Check what is asked, do it, and note what mending it needs."""
    if kind not in OF_A_UNIT + OF_A_VM:
        raise LabError(f"there is no fault {kind!r}: {', '.join(OF_A_UNIT)} (of a service), {', '.join(OF_A_VM)}")
    if kind in OF_A_UNIT and service is None:
        known = ", ".join(lab.fleet.units)
        raise LabError(f"{kind} of what? `fault {kind} {vm} SERVICE`, one of {known} or any systemd unit")
    if kind in OF_A_VM and service is not None:
        raise LabError(f"{kind} is a fault of a whole VM and takes no service")
    if options and kind != "slow":
        raise LabError(f"--latency-ms and --loss-percent belong to slow, not to {kind}")
    machine = lab.machine(vm)
    with lab.changing() as state:
        _refuse_what_cannot_be(machine, kind, state)
        if kind in OF_A_UNIT:
            unit = lab.fleet.unit(service or "")
            fault = _UNIT_FAULTS[kind](machine, unit)
        elif kind in ("poweron", "thaw"):
            fault = Fault(kind, vm, time.time())
            undo_kind = "poweroff" if kind == "poweron" else "freeze"
            for present in [one for one in state.faults_of(vm) if one.kind == undo_kind]:
                fault.at = _undo(lab, machine, present, state)
                state.faults.remove(present)
            return fault
        else:
            fault = _VM_FAULTS[kind](lab, machine, options)
        if kind == "poweroff":
            # Nothing of what was done to the running machine is left in it, but a cut cable stays cut.
            state.faults = [one for one in state.faults if one.vm != vm or one.kind in ("cut", "slow")]
        # A crash is over the moment it has happened.
        if kind != "crash":
            state.faults.append(fault)
        return fault


def arm_kill(lab: Lab, vm: str, service: str) -> Callable[[], float]:
    """Prepare the kill of a unit for a moment that does not wait; what is returned does it and returns the time.

    It counts as a fault in force from now on, whether or not it is ever done: `mend` undoes the preparation too.
    """
    machine = lab.machine(vm)
    unit = lab.fleet.unit(service)
    with lab.changing() as state:
        _refuse_what_cannot_be(machine, "kill", state)
        strike = _prepared_kill(machine, unit)
        state.faults.append(Fault("kill", vm, time.time(), unit))
        return strike


def _refuse_what_cannot_be(machine: Machine, kind: str, state: LabState) -> None:
    in_force = {fault.kind for fault in state.faults_of(machine.name)}
    name = machine.name
    if kind == "poweron":
        if machine.is_running():
            raise LabError(f"{name} is on already")
        return
    if not machine.is_running():
        raise LabError(f"{name} is off; `poweron {name}` is what is possible")
    if kind == "thaw" and "freeze" not in in_force:
        raise LabError(f"{name} is not frozen")
    if kind in in_force and kind in ("cut", "freeze", "slow"):
        raise LabError(f"{name}: {kind} is in force already; `mend {name}` undoes it")
    if "freeze" in in_force and kind in OF_A_UNIT:
        raise LabError(f"{name} is frozen: nothing in it can be stopped one by one; `thaw {name}` first")


# --- faults of a unit ---------------------------------------------------------------------------------------


def _prepared_kill(machine: Machine, unit: str) -> Callable[[], float]:
    """Have the unit stay down once it dies; what is returned kills it at once and returns the time."""
    folders = _cgroup_of_active(machine, unit)
    folder = f"/run/systemd/system/{unit}.d"
    machine.run(["mkdir", "-p", folder])
    machine.run(["tee", f"{folder}/{DROP_IN}"], text_input=KEPT_DOWN)
    machine.run(["systemctl", "daemon-reload"])

    def strike() -> float:
        at = time.time()
        kill_below(folders[0])
        return at

    return strike


def _kill(machine: Machine, unit: str) -> Fault:
    return Fault("kill", machine.name, _prepared_kill(machine, unit)(), unit)


def _crash(machine: Machine, unit: str) -> Fault:
    folders = _cgroup_of_active(machine, unit)
    answer = machine.run(["systemctl", "show", "--property=MainPID", "--value", unit]).stdout.strip()
    main = machine.host_pid(int(answer or 0), pids_below(folders[0]))
    if main is None:
        raise LabError(f"{unit} on {machine.name} has no main process to kill")
    at = time.time()
    os.kill(main, signal.SIGKILL)
    return Fault("crash", machine.name, at, unit)


def _stop(machine: Machine, unit: str) -> Fault:
    _cgroup_of_active(machine, unit)
    at = time.time()
    machine.run(["systemctl", "stop", unit])
    return Fault("stop", machine.name, at, unit, {"stopped_at": time.time()})


def _cgroup_of_active(machine: Machine, unit: str) -> list[Path]:
    """Return the unit's cgroups with the v2 one first, where one write kills all; LabError if it does not run."""
    folders = machine.unit_cgroup(unit)
    if not folders:
        listed = machine.run(["systemctl", "list-units", "--type=service", "--state=running", "--plain", "--no-legend"])
        running = ", ".join(line.split()[0].removesuffix(".service") for line in listed.stdout.splitlines() if line)
        raise LabError(f"{unit} does not run on {machine.name}; these do: {running}")
    return sorted(folders, key=lambda folder: not (folder / "cgroup.kill").exists())


# --- faults of a VM -------------------------------------------------------------------------------------------


def _poweroff(lab: Lab, machine: Machine, options: Mapping[str, float]) -> Fault:
    # The link goes first: a named namespace answers for a machine that is dead.
    at = lab.network.link_down(machine.name)
    machine.kill()
    return Fault("poweroff", machine.name, at)


def _cut(lab: Lab, machine: Machine, options: Mapping[str, float]) -> Fault:
    return Fault("cut", machine.name, lab.network.link_down(machine.name))


def _freeze(lab: Lab, machine: Machine, options: Mapping[str, float]) -> Fault:
    # A machine that hangs does not answer pings either, and here the kernel is the host's: block its port too.
    at = time.time()
    lab.network.block_port(machine.name)
    machine.cgroup.freeze()
    return Fault("freeze", machine.name, at)


def _slow(lab: Lab, machine: Machine, options: Mapping[str, float]) -> Fault:
    latency_ms = options.get("latency_ms", DEFAULT_LATENCY_MS)
    loss_percent = options.get("loss_percent", DEFAULT_LOSS_PERCENT)
    at, means = slow_link.start(lab, machine.name, latency_ms, loss_percent)
    detail = {"latency_ms": latency_ms, "loss_percent": loss_percent, "means": means}
    return Fault("slow", machine.name, at, None, detail)


_UNIT_FAULTS: dict[str, Callable[[Machine, str], Fault]] = {"kill": _kill, "crash": _crash, "stop": _stop}
_VM_FAULTS: dict[str, Callable[[Lab, Machine, Mapping[str, float]], Fault]] = {
    "poweroff": _poweroff,
    "cut": _cut,
    "freeze": _freeze,
    "slow": _slow,
}


# --- mending ------------------------------------------------------------------------------------------------


def mend(lab: Lab, vm: str | None) -> list[Fault]:
    """Undo the faults of one VM or of all, the last one first."""
    if vm is not None:
        lab.fleet.vm(vm)
    undone = []
    with lab.changing() as state:
        # Power first: what else was done to the machine can be undone only in one that runs.
        newest_first = state.faults[::-1]
        pending = sorted(newest_first, key=lambda fault: fault.kind not in ("poweroff", "freeze"))
        for fault in [one for one in pending if vm in (None, one.vm)]:
            _undo(lab, lab.machine(fault.vm), fault, state)
            state.faults.remove(fault)
            undone.append(fault)
    return undone


def _undo(lab: Lab, machine: Machine, fault: Fault, state: LabState) -> float:
    """Undo one fault; returns the wall-clock time at which that took effect."""
    name = machine.name
    if fault.kind in ("kill", "stop") and fault.unit is not None:
        return _start_again(machine, fault.unit, was_kept_down=fault.kind == "kill")
    if fault.kind == "poweroff":
        machine.clear_after_death()
        # A machine that was switched off has forgotten its addresses, rules and sysctls.
        lab.network.disconnect_vm(name)
        slow_link.forget(lab, name)
        at = time.time()
        lab.boot_one(machine, state, make_operator_key(lab.places))
        pin_host_keys(lab.places, lab.machines())
        for other in state.faults_of(name):
            if other.kind == "cut":
                lab.network.link_down(name)
            elif other.kind == "slow":
                slow_link.start(lab, name, other.detail["latency_ms"], other.detail["loss_percent"])
        return at
    at = time.time()
    if fault.kind == "cut":
        at = lab.network.link_up(name)
    elif fault.kind == "freeze":
        machine.cgroup.thaw()
        lab.network.unblock_port(name)
    elif fault.kind == "slow":
        slow_link.stop(lab, name)
    return at


def _start_again(machine: Machine, unit: str, *, was_kept_down: bool) -> float:
    if was_kept_down:
        machine.run(["rm", "-f", f"/run/systemd/system/{unit}.d/{DROP_IN}"])
        machine.run(["systemctl", "daemon-reload"])
        machine.run(["systemctl", "reset-failed", unit], check=False)
    at = time.time()
    machine.run(["systemctl", "start", "--no-block", unit])
    return at
