"""Stages the scenarios in the simulation and records them: `python -m tests.scenarios.staged [NAME]`.

Needed only for a new scenario, or when what is recorded has a new format; for new wording see `recorded`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator

from orchestrator.domain import keys
from orchestrator.domain.decision import Outcome
from orchestrator.domain.records import Paused, Request, RequestKind
from orchestrator.recorder import Inputs, line_of
from tests.scenarios.recorded import FOLDER, RECORDING, STORY, story_of
from tests.simulation.faults import mend_unit
from tests.simulation.world import BACKEND, FRONTEND, START, Parts, World, policy_document

Script = Callable[[World], Iterator[float]]
"""Does something, and yields how long to wait before the next thing."""

SETTLED_S = 6.0


def _home_loses_power(world: World) -> Iterator[float]:
    world.power_off(world.vms["backend-server"])
    yield 10.0
    world.power_on(world.vms["backend-server"])
    yield 20.0


def _active_hangs(world: World) -> Iterator[float]:
    unit = world.vms["frontend-server"].units[FRONTEND]
    unit.hang()
    yield 8.0
    unit.unhang()
    yield 15.0


def _rotation_by_key(world: World) -> Iterator[float]:
    _port(world).kv_put(keys.rotate(BACKEND), b"now")
    yield 12.0


def _assignment_overwritten(world: World) -> Iterator[float]:
    _port(world).kv_put(keys.assignment(BACKEND), b'{"active": "everywhere"}')
    yield 2.0
    _port(world).kv_delete(keys.assignment(FRONTEND))
    yield 4.0


def _keeps_failing(world: World) -> Iterator[float]:
    units = [vm.units[BACKEND] for vm in world.vms.values()]
    for unit in units:
        unit.broken = True
    world.vms["backend-server"].units[BACKEND].crash()
    yield 40.0
    for unit in units:
        mend_unit(unit)
    request = Request(
        id=f"{int((START + world.engine.now) * 1000):013d}-backend-op",
        kind=RequestKind.ACKNOWLEDGE,
        service=BACKEND,
        origin="cli:op@host",
        created=START + world.engine.now,
        updated=START + world.engine.now,
    )
    _port(world).kv_put(keys.request(request.id), request.to_json().encode())
    yield 25.0


def _paused(world: World) -> Iterator[float]:
    _port(world).kv_put(keys.PAUSED, Paused(by="op", at=START).to_json().encode())
    yield 1.0
    world.vms["backend-server"].units[BACKEND].stop()
    yield 4.0
    request = Request(
        id=f"{int((START + world.engine.now) * 1000):013d}-backend-op",
        kind=RequestKind.FAILOVER,
        service=BACKEND,
        redesignate=True,
        origin="cli:op@host",
        created=START + world.engine.now,
        updated=START + world.engine.now,
    )
    _port(world).kv_put(keys.request(request.id), request.to_json().encode())
    yield 8.0
    _port(world).kv_delete(keys.PAUSED)
    yield 4.0


def _leader_dies(world: World) -> Iterator[float]:
    leader = world.leader
    assert leader is not None
    leader.crashes_after = 2
    world.vms["backend-server"].units[BACKEND].stop()
    yield 15.0


def _standby_is_started(world: World) -> Iterator[float]:
    document = policy_document("hot", 5.0, 86400.0)
    _port(world).kv_put(keys.CONFIG, json.dumps(document).encode())
    yield 10.0
    unit = world.vms["backend-server"].units[FRONTEND]
    unit.broken = True
    unit.crash()
    yield 20.0
    unit.broken = False
    yield 20.0
    _port(world).kv_put(keys.CONFIG, json.dumps(world.document).encode())
    yield 8.0


SCRIPTS: dict[str, tuple[str, Script]] = {
    "a-service-whose-vm-loses-power-fails-over-and-comes-home-after-the-grace": ("cold", _home_loses_power),
    "a-hot-service-has-its-traffic-moved-before-any-play": ("hot", _active_hangs),
    "a-hot-standby-that-does-not-run-is-started-beside-the-active": ("cold", _standby_is_started),
    "a-rotation-asked-for-by-key-is-made-before-it-is-broken": ("cold", _rotation_by_key),
    "an-overwritten-and-a-deleted-assignment-are-restored": ("cold", _assignment_overwritten),
    "a-service-that-keeps-failing-is-held-until-an-operator-acknowledges": ("cold", _keeps_failing),
    "while-paused-only-an-operator-moves-a-service": ("cold", _paused),
    "a-leader-that-dies-right-after-a-failover-began-is-replaced-and-the-move-goes-on": ("cold", _leader_dies),
}


def _port(world: World):  # type: ignore[no-untyped-def]
    return world.consul.port("database-server")


def record(name: str) -> None:
    """Stage the scenario and write its folder."""
    standby, script = SCRIPTS[name]
    lines: list[str] = []
    stage = {"on": False}

    def on_cycle(inputs: Inputs, outcome: Outcome) -> None:
        if stage["on"] and outcome.decisions:
            lines.append(line_of(inputs, outcome))

    world = World(1, Parts(), document=policy_document(standby, 5.0, 86400.0), on_cycle=on_cycle)
    world.run_until(SETTLED_S)
    stage["on"] = True
    for wait_s in script(world):
        world.run_until(world.engine.now + wait_s)
    folder = FOLDER / name
    folder.mkdir(exist_ok=True)
    (folder / RECORDING).write_text("".join(f"{line}\n" for line in lines))
    (folder / STORY).write_text(story_of(folder))


if __name__ == "__main__":
    for scenario in sys.argv[1:] or SCRIPTS:
        record(scenario)
