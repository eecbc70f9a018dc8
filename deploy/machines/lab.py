"""The lab as an object: what tests, demo, bench and the command line use.

lab = Lab.open()
lab.up()
lab.run("backend-server", ["systemctl", "is-active", "node-app"])
at = lab.fault("kill", "backend-server", "backend").at
lab.mend()
lab.down()
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from deploy.machines import deployment, faults, health, image, slow_link, ui_relay
from deploy.machines.access import make_operator_key, pin_host_keys, ssh_options
from deploy.machines.cache import held_lock, tidy
from deploy.machines.cgroups import VmCgroup, hierarchies
from deploy.machines.fleet import Fleet, Vm, read_fleet
from deploy.machines.network import Network, in_namespace, namespace_path
from deploy.machines.places import LabError, LabPlaces
from deploy.machines.state import Fault, LabState
from deploy.machines.tools import Tools, find_tools
from deploy.machines.vm import Machine

Say = Callable[[str], None]
# Processes of the lab that belong to no VM are in cgroups of these names, so that `down` finds them all.
CLIENT_GROUP, HELPERS_GROUP = "client.lab", "helpers.lab"


def _silent(_: str) -> None:
    """Say nothing."""


def _stop_controller(machine: Machine) -> None:
    machine.run(["systemctl", "stop", "orch-controller.service"], check=False)


def suffices(state: LabState, *, fresh: bool, bare: bool) -> bool:
    """Say whether a lab in this state is what `up` is asked for, so that it can be left as it is."""
    return state.phase == "up" and not fresh and (bare or state.mode == "deployed")


class Lab:
    """Four machines and an outside client. Every method raises LabError with a reason that can be acted on."""

    def __init__(self, places: LabPlaces, fleet: Fleet, say: Say = _silent) -> None:
        self.places = places
        self.fleet = fleet
        self.say = say
        self.network = Network(places)

    @classmethod
    def open(cls, name: str | None = None, say: Say = _silent) -> Lab:
        """Return the lab of this name (or of ORCH_LAB_NAME), up or not."""
        return cls(LabPlaces.from_environment(name), read_fleet(), say)

    # --- parts ------------------------------------------------------------------------------------------

    def machine(self, vm: str) -> Machine:
        return Machine(self.places, self.fleet.vm(vm))

    def machines(self) -> list[Machine]:
        return [Machine(self.places, vm) for vm in self.fleet.vms]

    def state(self) -> LabState | None:
        return LabState.load(self.places.state_file)

    def require_up(self) -> LabState:
        """Return the state of a lab whose machines are up; LabError where there is none."""
        state = self.state()
        if state is None or state.phase == "starting":
            raise LabError(f"the lab {self.places.name!r} is not up; `deploy/lab up` brings it up")
        return state

    def require_network(self) -> None:
        """Raise LabError where there is no lab to send traffic in; one that is still starting will do."""
        if not namespace_path(self.places.client_namespace).exists():
            self.require_up()

    @contextlib.contextmanager
    def changing(self) -> Iterator[LabState]:
        """Change the state of a lab that is up, alone; what was changed is saved even when it raises half-way."""
        self.require_up()
        with held_lock(self.places.lock):
            state = self.require_up()
            try:
                yield state
            finally:
                state.save(self.places.state_file)

    # --- up and down ------------------------------------------------------------------------------------

    def up(self, *, fresh: bool = False, bare: bool = False) -> None:
        """Bring the lab up: image, machines, deployment (or its saved state), until all is healthy.

        A lab that is up already is left as it is; one that an interruption left half-made, or whose machines died
        with the host, is removed first.
        On failure the lab stays as it is, to be looked at; `down` removes it.
        """
        image.require_root()
        with held_lock(self.places.lock, on_wait=lambda: self.say("waiting for another command on this lab")):
            state = self.state()
            if state is not None and suffices(state, fresh=fresh, bare=bare):
                lost = self._lost(state)
                if not lost:
                    self._say_that_it_is_up_already(state)
                    return
                self.say(f"{', '.join(lost)} died outside of the lab (a restart of this host?); the lab is made again")
            self._remove()
            self._build(fresh=fresh, bare=bare)

    def _lost(self, state: LabState) -> list[str]:
        """Return the machines that are off although nobody powered them off: nothing of the lab can be trusted."""
        off = {fault.vm for fault in state.faults if fault.kind == "poweroff"}
        return [machine.name for machine in self.machines() if machine.name not in off and machine.leader() is None]

    def _say_that_it_is_up_already(self, state: LabState) -> None:
        self.say("the lab is up already")
        if state.mode == "deployed":
            tools = find_tools(self.say)
            now = deployment.saved_state(self.fleet, tools, image.baked(self.fleet, tools, self.say))
            if now.key != state.deployed_from:
                self.say("but it was deployed from other sources than the checkout has now; `down` and `up` renew it")

    def _build(self, *, fresh: bool, bare: bool) -> None:
        tools = find_tools(self.say)
        layers = image.baked(self.fleet, tools, self.say)
        state = LabState(mode="bare" if bare else "deployed")
        state.save(self.places.state_file)
        saved = None if bare else deployment.saved_state(self.fleet, tools, layers)
        if saved is None or deployment.kept_to_start_from(saved, fresh=fresh):
            self._start(state, tools, layers, saved, fresh=fresh)
            return
        if not deployment.has_site():
            raise LabError(
                "there is no ansible/playbooks/site.yml to deploy with; `up --bare` boots the machines alone"
            )
        with contextlib.ExitStack() as alone:
            # Another lab that is deployed from the same sources at this moment leaves what this one can start from.
            told = "waiting for another lab that is deployed from the same sources"
            alone.enter_context(held_lock(saved.lock, on_wait=lambda: self.say(told)))
            self._start(state, tools, layers, saved, fresh=fresh, kept_now=alone.close)

    def _start(
        self,
        state: LabState,
        tools: Tools,
        layers: Sequence[Path],
        saved: deployment.SavedState | None,
        *,
        fresh: bool,
        kept_now: Callable[[], None] = lambda: None,
    ) -> None:
        """Boot the machines from the kept state, or else from the image and deploy them.

        `kept_now` is told when the state of that deployment is kept.
        """
        kept = deployment.kept_to_start_from(saved, fresh=fresh)
        for vm in self.fleet.vms:
            own = [kept.layer(vm.name)] if kept is not None else []
            state.lower[vm.name] = [str(layer) for layer in [*own, *layers]]
        state.save(self.places.state_file)
        self.say("booting four machines" + (" from the state kept after an earlier deployment" if kept else ""))
        self.network.make_switch()
        if kept is not None:
            kept.restore_secrets(self.places.secrets)
        self._boot_all(state)
        state.ui_port = self._start_ui_relay()
        # From here on the machines can be used, also when what follows fails and someone wants to see why.
        state.phase = "settling"
        state.save(self.places.state_file)
        if saved is not None and kept is None:
            deployment.deploy(self.places, tools, self.say)
            self._wait_for_fleet()
            if not saved.is_in_use():
                self._keep_and_boot_again(saved, state, kept_now)
        state.deployed_from = saved.key if saved is not None else None
        if state.mode == "deployed":
            self._wait_for_fleet()
        state.phase = "up"
        state.save(self.places.state_file)
        tidy()

    def _wait_for_fleet(self) -> None:
        health.wait_for_fleet(self.machines(), self.fleet.members("controllers"), self.say)

    def _keep_and_boot_again(self, saved: deployment.SavedState, state: LabState, kept_now: Callable[[], None]) -> None:
        """Keep what the deployment wrote as a layer for later labs; this one goes on from it too."""
        self.say("shutting the machines down to keep this state for the next `up`")
        # Else a controller that is still up moves what the machines that go down before it served.
        self._each(_stop_controller)
        self._each(Machine.shut_down)
        self._each(Machine.unmount)
        saved.keep({machine.name: machine.upper for machine in self.machines()}, self.places.secrets)
        for machine in self.machines():
            shutil.rmtree(machine.home)
            self.network.disconnect_vm(machine.name)
            state.lower[machine.name].insert(0, str(saved.layer(machine.name)))
        state.save(self.places.state_file)
        kept_now()
        self.say("booting four machines again, from the kept state")
        self._boot_all(state)

    def _boot_all(self, state: LabState) -> None:
        public_key = make_operator_key(self.places)

        def boot(machine: Machine) -> None:
            self.boot_one(machine, state, public_key)

        self._each(boot)
        health.wait_for_boot(self.machines(), self.say)
        pin_host_keys(self.places, self.machines())
        health.wait_for_ssh(self.places, self.fleet, self.say)

    def boot_one(self, machine: Machine, state: LabState, public_key: str) -> None:
        """Connect, mount and boot one VM."""
        self.network.connect_vm(machine.vm)
        machine.mount([Path(layer) for layer in state.lower[machine.name]])
        machine.personalise(public_key)
        machine.boot()

    def _each(self, action: Callable[[Machine], None]) -> None:
        """Do the same with all VMs at once; the first failure is raised after all have ended."""
        with ThreadPoolExecutor(max_workers=len(self.fleet.vms)) as pool:
            for outcome in [pool.submit(action, machine) for machine in self.machines()]:
                outcome.result()

    def replace(self, vm: str) -> None:
        """Put a new machine in a VM's place: its name and address, the image's empty disk, host keys of its own.

        The old one is gone without a word, as in a power cut. Nothing is deployed on the new one; it answers SSH.
        """
        machine = self.machine(vm)
        with self.changing() as state:
            self.network.link_down(vm)
            machine.remove()
            self.network.disconnect_vm(vm)
            slow_link.forget(self, vm)
            state.faults = [fault for fault in state.faults if fault.vm != vm]
            state.lower[vm] = [layer for layer in state.lower[vm] if not deployment.is_of_a_deployment(layer)]
            self.boot_one(machine, state, make_operator_key(self.places))
            health.wait_for_boot([machine], self.say)
            pin_host_keys(self.places, self.machines())
            health.wait_for_ssh(self.places, self.fleet, self.say)

    def down(self) -> None:
        """Remove the lab: processes, mounts, namespaces, cgroups, its directory. Also one that is half-made."""
        image.require_root()
        with held_lock(self.places.lock, on_wait=lambda: self.say("waiting for another command on this lab")):
            self._remove()

    def _remove(self) -> None:
        """Remove what there is, found by its names and not by what a state file may have missed."""
        for group in self._groups_present():
            VmCgroup(self.places.name, group).remove()
        machines = {machine.name: machine for machine in self.machines()}
        folder = self.places.home / "vms"
        for name in [child.name for child in folder.iterdir()] if folder.is_dir() else []:
            # A VM that has left the inventory since then.
            machines.setdefault(name, Machine(self.places, Vm(name, "")))
        for machine in machines.values():
            machine.remove()
        self.network.remove(sorted(machines))
        shutil.rmtree(self.places.home, ignore_errors=True)

    def _groups_present(self) -> list[str]:
        found: set[str] = set()
        for hierarchy in hierarchies():
            folder = hierarchy.mount_point / f"orch-lab-{self.places.name}"
            if folder.is_dir():
                found |= {child.name for child in folder.iterdir() if child.is_dir()}
        return sorted(found)

    # --- looking ------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """Return what is known of the lab as plain data; `up` tells whether it is."""
        state = self.state()
        if state is None:
            return {"lab": self.places.name, "up": False, "phase": "down", "vms": {}, "ui": None}
        vms: dict[str, Any] = {}
        for machine in self.machines():
            seen = health.health_of(machine)
            vms[machine.name] = {
                "address": machine.vm.address,
                "running": seen.running,
                "system": seen.system,
                "failed_units": list(seen.failed_units),
                "faults": [fault.describe() for fault in state.faults_of(machine.name)],
            }
        return {
            "lab": self.places.name,
            "up": state.phase == "up" and not self._lost(state),
            "phase": state.phase,
            "mode": state.mode,
            "vms": vms,
            "ui": f"http://127.0.0.1:{state.ui_port}/" if state.ui_port else None,
            "directory": str(self.places.home),
        }

    # --- commands -----------------------------------------------------------------------------------------

    def run(
        self,
        vm: str,
        argv: Sequence[str],
        *,
        check: bool = True,
        timeout_s: float | None = None,
        text_input: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as root inside a VM and return its output."""
        return self.machine(vm).run(argv, check=check, timeout_s=timeout_s, text_input=text_input)

    def ask_consul(
        self, vm: str, path: str, *options: str, timeout_s: float = 20.0
    ) -> subprocess.CompletedProcess[str]:
        """GET a path of the HTTP API of the VM's agent as an operator; without an answer nothing is on stdout."""
        argv = ["curl", "-s", *options, "-H", "@-", f"http://127.0.0.1:8500/v1/{path}"]
        header = f"X-Consul-Token: {self.machine(vm).consul_token()}\n"
        return self.machine(vm).run(argv, check=False, timeout_s=timeout_s, text_input=header)

    def command_in_vm(self, vm: str, argv: Sequence[str]) -> list[str]:
        """Return the host's command line for a command inside a VM, for a caller that starts it itself."""
        return self.machine(vm).command(argv)

    def client_command(self, argv: Sequence[str]) -> list[str]:
        """Return the host's command line that runs `argv` as the outside client: the host's files, its network."""
        group = VmCgroup(self.places.name, CLIENT_GROUP)
        group.make()
        return group.entering("exec", in_namespace(self.places.client_namespace, list(argv)))

    def client(
        self, argv: Sequence[str], *, check: bool = True, timeout_s: float | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as the outside client and return its output."""
        from deploy.machines.commands import run

        return run(self.client_command(argv), check=check, timeout_s=timeout_s)

    def ssh_command(self, vm: str, argv: Sequence[str] = ()) -> list[str]:
        """Return the host's command line that logs in to a VM as the operator, over the lab's network."""
        address = self.fleet.vm(vm).address
        return self.client_command(["ssh", *ssh_options(self.places), f"root@{address}", *argv])

    def secrets(self) -> dict[str, Any]:
        """Return the secrets of the lab's control node, as its operator reads them; LabError without any."""
        from deploy.machines.commands import run

        program = Path(sys.executable).with_name("ansible-vault")
        password, vault = self.places.vault_password, self.places.secrets / "secrets.vault"
        return dict(json.loads(run([program, "view", "--vault-password-file", password, vault]).stdout))

    def secret(self, name: str) -> str:
        """Return one of them."""
        return str(self.secrets()[name])

    # --- faults -------------------------------------------------------------------------------------------

    def fault(self, kind: str, vm: str, service: str | None = None, **options: float) -> Fault:
        """Do harm; returns the fault with the wall-clock time at which it took effect."""
        return faults.inject(self, kind, vm, service, options)

    def arm_kill(self, vm: str, service: str) -> Callable[[], float]:
        """Prepare the kill of a unit; what is returned does it within a millisecond and returns the time."""
        return faults.arm_kill(self, vm, service)

    def mend(self, vm: str | None = None) -> list[Fault]:
        """Undo all faults of one VM or of all; returns what was undone."""
        return faults.mend(self, vm)

    # --- helpers ------------------------------------------------------------------------------------------

    def helper_command(self, argv: Sequence[str]) -> list[str]:
        """Return a command line for a process of the lab's own, which `down` finds by its cgroup."""
        group = VmCgroup(self.places.name, HELPERS_GROUP)
        group.make()
        return group.entering("exec", list(argv))

    def _start_ui_relay(self) -> int:
        port = health.free_port()
        order = [*self.fleet.members("controllers"), *(vm.name for vm in self.fleet.vms)]
        namespaces = [self.places.vm_namespace(name) for name in dict.fromkeys(order)]
        ui_relay.start(self.helper_command, port, namespaces, self.places.home / "ui-relay.log")
        return port
