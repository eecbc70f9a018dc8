"""`orch failover`, `failback`, `rotate`, `resume SERVICE`: refused at once, or a request in KV."""

from __future__ import annotations

import json

import pytest

from orchestrator.domain import keys
from orchestrator.domain.records import Maintenance, MoveKind, RequestKind, RequestState
from orchestrator.store.port import Unknown
from tests.fakes.fake_consul import CRITICAL, PASSING, WARNING
from tests.unit.cli.world import NOW, World


def maintain(world: World, vm: str) -> None:
    world.put(keys.maintenance(vm), Maintenance(by="bob@desk", at=NOW))


def away(world: World) -> None:
    """Let backend be active on messaging-server after a failover."""
    world.activate("backend", "messaging-server", epoch=2, designated="backend-server", kind=MoveKind.FAILOVER)


REFUSED = {
    "an unknown service": (
        lambda world: None,
        ("failover", "mail"),
        "mail is not a service of this fleet; its services are backend, frontend.",
    ),
    "an unknown VM": (
        lambda world: None,
        ("failover", "backend", "--to", "mars"),
        "mars is not a VM of this fleet; it can go from backend-server to messaging-server.",
    ),
    "a VM that is not in the order": (
        lambda world: None,
        ("failover", "backend", "--to", "database-server"),
        "backend may not run on database-server, its order is backend-server, messaging-server; "
        "it can go from backend-server to messaging-server.",
    ),
    "the VM it is already on": (
        lambda world: None,
        ("failover", "backend", "--to", "backend-server"),
        "backend is already active on backend-server; it can go from backend-server to messaging-server.",
    ),
    "a target that is down": (
        lambda world: world.kill_vm("messaging-server"),
        ("failover", "backend", "--to", "messaging-server"),
        "messaging-server is down, so backend cannot go there; "
        "it can go nowhere from backend-server: messaging-server is down.",
    ),
    "a target in maintenance": (
        lambda world: maintain(world, "messaging-server"),
        ("failover", "backend", "--to", "messaging-server"),
        "messaging-server is in maintenance, so backend cannot go there; "
        "it can go nowhere from backend-server: messaging-server is in maintenance.",
    ),
    "a target whose guard is dead": (
        lambda world: world.consul.set_check("messaging-server", keys.daemon_check_id("guard"), CRITICAL),
        ("failover", "backend"),
        "backend has no VM to go to: the guard on messaging-server does not run.",
    ),
    "a target whose instance fails": (
        lambda world: world.fail("backend", "messaging-server", "HTTP GET: 500"),
        ("failover", "backend", "--to", "messaging-server"),
        "backend is failing its check on messaging-server (orch-backend:probe is critical: HTTP GET: 500; "
        "orch-backend:unit is critical: HTTP GET: 500), so backend cannot go there; "
        "it can go nowhere from backend-server: backend is failing its check on messaging-server.",
    ),
    "a failback of a service at home": (
        lambda world: None,
        ("failback", "backend"),
        "backend is at home already: active and designated on backend-server.",
    ),
    "a failback to a home that is down": (
        lambda world: (away(world), world.kill_vm("backend-server")),
        ("failback", "backend"),
        "backend-server is down, so backend cannot go there; "
        "it can go nowhere from messaging-server: backend-server is down.",
    ),
    "a rotation to an overloaded VM": (
        lambda world: world.consul.set_check("messaging-server", keys.LOAD_CHECK, WARNING, "load 3 per core"),
        ("rotate", "backend"),
        "backend cannot be rotated away from backend-server: messaging-server is overloaded.",
    ),
    "a move from a healthy VM whose guard is dead": (
        lambda world: world.consul.set_check("backend-server", keys.daemon_check_id("guard"), CRITICAL),
        ("failover", "backend"),
        "the guard on backend-server does not run, so backend-server could not hand backend over.",
    ),
    "an acknowledgement of a service that is not held": (
        lambda world: None,
        ("resume", "backend"),
        "backend is not held, so there is nothing to acknowledge.",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_at_once_with_the_reason_and_nothing_is_written(world: World, case: str) -> None:
    prepare, arguments, sentence = REFUSED[case]
    prepare(world)
    index = world.consul.index
    result = world.orch(*arguments)
    assert (result.exit_code, result.stderr) == (3, f"orch: refused: {sentence}\n")
    assert world.consul.index == index


def test_a_second_move_is_refused_with_the_id_of_the_running_one(world: World) -> None:
    world.orch("failover", "backend", "--no-wait")
    world.change_request(state=RequestState.RUNNING)
    result = world.orch("rotate", "backend")
    assert result.exit_code == 3
    assert "backend is being moved already (failover, request 1700000000000-backend-cli0001)" in result.stderr


def test_without_a_policy_every_move_is_refused() -> None:
    result = World().orch("failover", "backend")
    assert (result.exit_code, result.stderr) == (
        3,
        "orch: refused: there is no policy yet; write one with `orch config apply FILE`.\n",
    )


def test_a_refusal_in_json_is_on_stdout_too(world: World) -> None:
    result = world.orch("failover", "mail", "--json")
    assert result.exit_code == 3
    assert json.loads(result.stdout) == {
        "exit": 3,
        "outcome": "refused",
        "reason": "mail is not a service of this fleet; its services are backend, frontend.",
    }


def test_an_accepted_failover_is_one_pending_request_of_the_operator(world: World) -> None:
    result = world.orch("failover", "backend", "--to", "messaging-server", "--reason", "kernel update")
    assert result.exit_code == 0
    (request,) = world.requests()
    assert request.to_json() == (
        '{"format":1,"id":"1700000000000-backend-cli0001","kind":"failover","service":"backend","target":"messaging-server",'
        '"redesignate":true,"accept_data_loss":false,"reason":"kernel update","origin":"cli:ana@desk",'
        '"state":"pending","outcome":"",'
        '"created":1700000000.0,"updated":1700000000.0,"times":{}}'
    )


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [(("failback", "backend"), RequestKind.FAILBACK), (("rotate", "backend"), RequestKind.ROTATION)],
)
def test_failback_and_rotate_are_requests_of_their_kind(
    world: World, arguments: tuple[str, ...], kind: RequestKind
) -> None:
    away(world)
    assert world.orch(*arguments).exit_code == 0
    assert [(r.kind, r.service, r.target) for r in world.requests()] == [(kind, "backend", None)]


def test_a_clone_is_an_operators_request_of_kind_standby(world: World) -> None:
    world.with_a_diverged_copy()
    assert world.orch("clone", "backend", "--reason", "diverged").exit_code == 0
    (request,) = world.requests()
    assert (request.kind, request.service, request.origin, request.redesignate) == (
        RequestKind.STANDBY,
        "backend",
        "cli:ana@desk",
        False,
    )


def test_a_clone_that_is_not_needed_is_refused_at_once(world: World) -> None:
    world.with_a_diverged_copy()
    for check_id in (keys.probe_check_id("backend"), keys.unit_check_id("backend")):
        world.consul.set_check("messaging-server", check_id, PASSING, "it replicates")
    result = world.orch("clone", "backend")
    assert (result.exit_code, world.requests()) == (3, [])
    assert "the copy of backend on messaging-server replicates; there is nothing to replace." in result.stderr


def test_an_acknowledgement_is_a_request_too(world: World) -> None:
    world.activate("backend", "backend-server", epoch=9, hold_until=NOW + 600)
    assert world.orch("resume", "backend").exit_code == 0
    assert [r.kind for r in world.requests()] == [RequestKind.ACKNOWLEDGE]


def test_rotate_all_asks_for_every_service_that_is_not_excluded(world: World) -> None:
    config = world.get(keys.CONFIG)
    assert config is not None
    policy = json.loads(config.value) | {"rotation": {"exclude_services": ["frontend"]}}
    world.put(keys.CONFIG, json.dumps(policy).encode())
    assert world.orch("rotate", "--all").exit_code == 0
    assert [r.service for r in world.requests()] == ["backend"]


def test_rotate_all_writes_nothing_when_one_of_the_services_cannot_be_rotated(world: World) -> None:
    maintain(world, "messaging-server")
    assert world.orch("rotate", "--all").exit_code == 3
    assert world.requests() == []


def test_rotate_wants_a_service_or_all(world: World) -> None:
    assert [world.orch("rotate").exit_code, world.orch("rotate", "backend", "--all").exit_code] == [2, 2]


def test_a_request_without_a_leader_is_written_with_a_warning(world: World) -> None:
    world.port().session_destroy(str(world.get(keys.LEADER).session))  # type: ignore[union-attr]
    result = world.orch("failover", "backend")
    assert result.exit_code == 0
    assert result.stderr == "orch: no controller leads now; the request waits in KV until one does.\n"


def test_a_dry_run_says_what_the_leader_would_do_and_writes_nothing(world: World) -> None:
    index = world.consul.index
    result = world.orch("failover", "backend", "--dry-run")
    assert result.exit_code == 0
    assert "          write orch/requests/1700000000000-backend-cli0001\n" in result.stdout
    assert world.consul.index == index


def test_a_write_that_consul_did_not_confirm_is_said_to_be_unknown_with_the_id_to_ask_for(world: World) -> None:
    def fail(node: str, operation: str, stage: str) -> None:
        if (operation, stage) == ("txn", "after"):
            raise Unknown("the connection broke")

    world.consul.on_write = fail
    result = world.orch("failover", "backend")
    assert result.exit_code == 7
    assert "`orch follow 1700000000000-backend-cli0001` tells" in result.stderr


def test_a_consul_that_does_not_answer_is_exit_7(world: World) -> None:
    world.consul.set_stopped("messaging-server", True)
    result = world.orch("failover", "backend")
    assert (result.exit_code, result.stderr) == (
        7,
        "orch: Consul at 127.0.0.1:8500 cannot be reached: the Consul agent on messaging-server does not answer.\n",
    )


def test_a_consul_without_quorum_is_exit_7_and_said_so(world: World) -> None:
    world.consul.quorum = False
    result = world.orch("--consul", "10.0.0.21:8500", "status")
    assert (result.exit_code, result.stderr) == (
        7,
        "orch: Consul at 10.0.0.21:8500 has no leader (no quorum): nothing can be read or moved until it has one.\n",
    )
