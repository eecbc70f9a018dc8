"""What the daemons cost while nothing happens: resident memory and share of one core."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deploy.machines.lab import Lab
from deploy.trials.trial import settle

PROBE = Path(__file__).with_name("idle_probe.py")
DAEMONS = ("orch-guard", "orch-controller", "orch-worker")
PYTHON = "/opt/orch/venv/bin/python"
WATCHED_S = 60.0
# The warm Ansible is a process of its own beside the worker, and is named apart.
WARM_SERVER, WARM_NAME = "orchestrator.execute.warm_server", "worker's warm Ansible"

Look = Mapping[str, Sequence[Mapping[str, Any]]]
"""Unit -> its processes, as `idle_probe` prints them."""


def look(lab: Lab, vm: str) -> Look:
    """Ask one VM."""
    told = lab.run(vm, [PYTHON, "-I", "-", *DAEMONS], text_input=PROBE.read_text(), timeout_s=30)
    return dict(json.loads(told.stdout))


def use_between(before: Look, after: Look, seconds: float, ticks_per_s: int) -> dict[str, tuple[float, float, float]]:
    """PURE: return daemon -> (resident MB, proportional MB, % of one core) between two looks at one VM.

    Children count with their daemon, but for the warm Ansible. Memory is that of the later look.
    """
    used: dict[str, list[float]] = {}
    for unit, processes in after.items():
        earlier = {each["pid"]: each["ticks"] for each in before.get(unit, ())}
        for each in processes:
            name = WARM_NAME if each["name"] == WARM_SERVER else unit
            total = used.setdefault(name, [0.0, 0.0, 0.0])
            total[0] += each["rss_kb"] / 1024
            total[1] += each["pss_kb"] / 1024
            total[2] += (each["ticks"] - earlier.get(each["pid"], each["ticks"])) / ticks_per_s / seconds * 100
    return {name: (rss, pss, cpu) for name, (rss, pss, cpu) in used.items()}


def measure_idle(lab: Lab, seconds: float = WATCHED_S) -> list[dict[str, Any]]:
    """Watch a settled fleet for a while; one row per daemon, the highest of all VMs."""
    settle(lab)
    vms = [machine.name for machine in lab.machines()]
    before = {vm: look(lab, vm) for vm in vms}
    began = time.monotonic()
    time.sleep(seconds)
    found: dict[str, list[tuple[float, float, float]]] = {}
    for vm in vms:
        took = time.monotonic() - began
        for name, use in use_between(before[vm], look(lab, vm), took, os.sysconf("SC_CLK_TCK")).items():
            found.setdefault(name, []).append(use)
    return [
        {
            "daemon": name,
            "resident_mb": round(max(use[0] for use in uses), 1),
            "proportional_mb": round(max(use[1] for use in uses), 1),
            "cpu_percent": round(max(use[2] for use in uses), 2),
            "cpu_percent_median": round(statistics.median(use[2] for use in uses), 2),
        }
        for name, uses in sorted(found.items())
    ]
