#!/usr/bin/python
"""Start, stop and enable several systemd units in one module call.

One task per unit costs half a second per VM; and units that are started together start in parallel. Asks systemd
once what is there, then says only what differs: a failover waits for nothing else. Starting and stopping comes
before enabling. Reloads systemd's own configuration where a unit needs it, and clears the count of failed starts of
a unit that had crashed too often.
"""

from __future__ import annotations

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: orch_units
short_description: Start, stop and enable several systemd units at once
options:
  units:
    type: list
    elements: dict
    required: true
    suboptions:
      name: {description: The unit., type: str, required: true}
      enabled: {description: Start at boot. Left as it is when absent., type: bool}
      state:
        description: >-
          C(restarted) and C(reloaded) start a unit that does not run; C(present) leaves it as it is.
        type: str
        choices: [present, started, stopped, restarted, reloaded]
        default: present
      only_if_running: {description: Leave a unit that does not run as it is., type: bool, default: false}
      wait: {description: Return only when the start is done., type: bool, default: true}
"""

PROPERTIES = ("Id", "ActiveState", "NeedDaemonReload", "LoadState")
OPTIONS = {
    "name": {"type": "str", "required": True},
    "enabled": {"type": "bool"},
    "state": {
        "type": "str",
        "choices": ["present", "started", "stopped", "restarted", "reloaded"],
        "default": "present",
    },
    "only_if_running": {"type": "bool", "default": False},
    "wait": {"type": "bool", "default": True},
}
RUNNING = {"active", "activating", "reloading"}


def full_name(unit):
    return unit if unit.rpartition(".")[2] in ("service", "socket", "timer", "target") else f"{unit}.service"


def parse(text):
    """Return what `systemctl show` printed: one block per unit, in the order asked for."""
    blocks = [block for block in text.split("\n\n") if block.strip()]
    return [dict(line.split("=", 1) for line in block.strip().splitlines()) for block in blocks]


def enabled_of(run_command, names):
    """Return which of the units are started at boot, as the disk says. By their own names: another one is an `alias`.

    `systemctl show` tells what systemd read when it was asked for the first time: it does not notice `--no-reload`, and
    a unit that had been disabled and was to be enabled again stayed disabled.
    """
    if not names:
        return set()
    states = run_command(["systemctl", "is-enabled", *names])[1].split()
    return {name for name, state in zip(names, states, strict=True) if state == "enabled"}


def verb_for(unit, is_running):
    """Return systemctl's verb for the unit, or None when it is as wanted."""
    if unit["state"] == "present" or (unit["only_if_running"] and not is_running):
        return None
    if unit["state"] == "stopped":
        return "stop" if is_running else None
    if not is_running:
        return "start"
    return {"started": None, "restarted": "restart", "reloaded": "reload"}[unit["state"]]


def main():
    module = AnsibleModule(
        argument_spec={"units": {"type": "list", "elements": "dict", "required": True, "options": OPTIONS}},
        supports_check_mode=True,
    )
    units = [{**unit, "name": full_name(unit["name"])} for unit in module.params["units"]]
    names = [unit["name"] for unit in units]
    show = ["systemctl", "show", f"--property={','.join(PROPERTIES)}", *names]

    present = parse(module.run_command(show, check_rc=True)[1])
    if any(found["LoadState"] == "not-found" or found["NeedDaemonReload"] == "yes" for found in present):
        module.run_command(["systemctl", "daemon-reload"], check_rc=True)
        present = parse(module.run_command(show, check_rc=True)[1])
    missing = [unit["name"] for unit, found in zip(units, present, strict=True) if found["LoadState"] == "not-found"]
    if missing and not module.check_mode:
        module.fail_json(msg=f"there is no unit {', '.join(missing)} on this VM")

    calls = {}
    started = []
    for unit, found in zip(units, present, strict=True):
        verb = verb_for(unit, found["ActiveState"] in RUNNING)
        if verb == "start" and found["ActiveState"] == "failed":
            calls.setdefault(("systemctl", "reset-failed"), []).append(unit["name"])
        if verb:
            call = ("systemctl", verb) if unit["wait"] else ("systemctl", "--no-block", verb)
            calls.setdefault(call, []).append(unit["name"])
            started.append(unit["name"].removesuffix(".service"))
    judged = [(unit, found["Id"]) for unit, found in zip(units, present, strict=True) if unit["enabled"] is not None]
    enabled = enabled_of(module.run_command, [own for unit, own in judged if unit["name"] not in missing])
    for unit, own in judged:
        if unit["enabled"] != (own in enabled):
            verb = "enable" if unit["enabled"] else "disable"
            # Links for the next boot: nothing to reload now.
            calls.setdefault(("systemctl", "--quiet", "--no-reload", verb), []).append(unit["name"])
    if not module.check_mode:
        for call, these in calls.items():
            module.run_command([*call, *these], check_rc=True)
    module.exit_json(
        changed=bool(calls), started=started, said=[" ".join([*call[1:], *these]) for call, these in calls.items()]
    )


if __name__ == "__main__":
    main()
