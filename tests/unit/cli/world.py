"""A small fleet on `FakeConsul` for the CLI's tests: the reference VMs, everything well, time standing still."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from click.testing import CliRunner, Result

from orchestrator.cli.app import App
from orchestrator.cli.main import cli
from orchestrator.domain import keys
from orchestrator.domain.decision import Outcome
from orchestrator.domain.records import (
    Assignment,
    Command,
    Endpoint,
    Endpoints,
    Installed,
    LockValue,
    MoveKind,
    Record,
    Release,
    Request,
)
from orchestrator.store.port import AgentService, KvPair, PushedSpec
from tests.fakes.fake_consul import CRITICAL, PASSING, FakeConsul, FakePort

NOW = 1_700_000_000.0
VMS = {
    "frontend-server": {"address": "10.0.8.49", "roles": ["controller", "worker"]},
    "backend-server": {"address": "10.0.0.22", "roles": []},
    "messaging-server": {"address": "10.0.0.21", "roles": ["controller", "worker"]},
    "database-server": {"address": "10.0.10.169", "roles": []},
}
POLICY: dict[str, Any] = {
    "version": 1,
    "vms": VMS,
    "services": {
        "backend": {
            "order": ["backend-server", "messaging-server"],
            "unit": "node-app",
            "port": 3000,
            "check": {"kind": "http", "path": "/health"},
            "activate": "activate_backend.yml",
            "deactivate": "deactivate_backend.yml",
        },
        "frontend": {
            "order": ["frontend-server", "backend-server"],
            "unit": "nginx",
            "port": 80,
            "check": {"kind": "http", "path": "/orch-health"},
            "activate": "activate_frontend.yml",
            "deactivate": "deactivate_frontend.yml",
        },
    },
}


class World:
    """The cluster, and the clock that `orch` sees."""

    def __init__(self) -> None:
        """Nothing but four VMs that gossip; `founded()` makes the fleet."""
        self.consul = FakeConsul(VMS, now=NOW)
        self.clock = 0.0
        self.steps: list[Callable[[], None]] = []
        """What happens while `orch` waits: one step per blocking query that finds nothing new."""
        self.on_terminal = False
        self.outcome: Outcome | None = None
        """What decide() says, where a test is about how it is shown and not about what it is."""
        self._tokens = 0

    def _token(self) -> str:
        self._tokens += 1
        return f"{self._tokens:04d}"

    # -- what there is -------------------------------------------------------------------------------------------

    def put(self, key: str, record: Record | bytes) -> None:
        """Write a key as somebody else than `orch`."""
        self.port().kv_put(key, record if isinstance(record, bytes) else record.to_json().encode())

    def get(self, key: str) -> KvPair | None:
        """Read a key."""
        return self.consul.peek(key)

    def requests(self) -> list[Request]:
        """Return every request in KV."""
        return [Request.from_json(pair.value) for pair in self.consul.peek_list(keys.REQUESTS)]

    def port(self, node: str = "messaging-server") -> WorldPort:
        """Return a port to a node's agent."""
        return WorldPort(self, node)

    def founded(self) -> World:
        """Put every service where it is at home, healthy, locked and pointed at, with a leader."""
        self.put(keys.CONFIG, json.dumps(POLICY).encode())
        for vm, entry in VMS.items():
            self.consul.set_check(vm, keys.LOAD_CHECK, PASSING, "load 0.10 per core")
            for daemon in ("guard", *entry["roles"]):
                self.consul.set_check(vm, keys.daemon_check_id(daemon), PASSING, "HTTP 200")
        for service, entry in POLICY["services"].items():
            self.activate(service, entry["order"][0])
        leader = self.port().session_create("orch-controller@messaging-server", ())
        self.port().lock_acquire(keys.LEADER, LockValue(vm="messaging-server").to_json().encode(), leader)
        return self

    def activate(self, service: str, vm: str, **changes: Any) -> None:
        """Make the service active on the VM, with healthy instance, lock and endpoints."""
        self.register(service, vm)
        fields: dict[str, Any] = {
            "service": service,
            "active": vm,
            "designated": vm,
            "epoch": 1,
            "since": NOW - 3700,
            "kind": MoveKind.INITIAL,
            "reason": f"{service} is assigned to its home {vm}",
        }
        assignment = Assignment(**(fields | changes))
        self.put(keys.assignment(service), assignment)
        port = self.port(vm)
        before = self.get(keys.lock(service))
        if before is not None and before.session is not None:
            port.session_destroy(before.session)
        session_id = port.session_create(f"orch-guard:{service}@{vm}", (keys.unit_check_id(service),))
        lock = LockValue(vm=vm, epoch=assignment.epoch)
        assert port.lock_acquire(keys.lock(service), lock.to_json().encode(), session_id)
        policy = POLICY["services"][service]
        endpoint = Endpoint(vm=vm, address=VMS[vm]["address"], port=policy["port"])
        self.put(keys.endpoints(service), Endpoints(service=service, epoch=assignment.epoch, endpoints=(endpoint,)))

    def register(self, service: str, vm: str, status: str = PASSING, output: str = "HTTP GET: 200 OK") -> None:
        """Register the instance with the VM's agent."""
        port, service_id = self.port(vm), keys.instance_service_id(service)
        port.agent_register(AgentService(service_id, service, POLICY["services"][service]["port"]))
        for check_id in (keys.probe_check_id(service), keys.unit_check_id(service)):
            port.agent_register_pushed(service_id, PushedSpec(check_id, check_id, 60, status, output))

    def fail(self, service: str, vm: str, output: str = "HTTP GET: connection refused") -> None:
        """Let the instance's checks fail; its guard loses the role lock by that."""
        self.register(service, vm)
        for check_id in (keys.probe_check_id(service), keys.unit_check_id(service)):
            self.consul.set_check(vm, check_id, CRITICAL, output)

    def kill_vm(self, vm: str) -> None:
        """Let gossip declare the VM failed."""
        self.consul.set_reachable(vm, False)

    def with_a_diverged_copy(self) -> None:
        """Let the backend have data, and its copy on messaging-server follow no more."""
        replicated = POLICY["services"]["backend"] | {"standby": "hot", "replication": {"kind": "mariadb"}}
        policy = POLICY | {"services": POLICY["services"] | {"backend": replicated}}
        self.put(keys.CONFIG, json.dumps(policy).encode())
        self.fail("backend", "messaging-server", "the copy has diverged")

    def with_a_cluster(self, *brokers: str) -> None:
        """Let the backend be a cluster of the VMs but database-server, its spare; these have a broker that runs."""
        members = [vm for vm in VMS if vm != "database-server"]
        cluster = {"kind": "rabbitmq", "members": members, "spare": "database-server", "change": "change_member.yml"}
        clustered = POLICY["services"]["backend"] | {"cluster": cluster}
        policy = POLICY | {"services": POLICY["services"] | {"backend": clustered}}
        self.put(keys.CONFIG, json.dumps(policy).encode())
        for vm in brokers or members:
            port = self.port(vm)
            port.agent_register(AgentService(keys.BROKER_SERVICE, keys.BROKER_SERVICE, 5672))
            port.agent_register_pushed(keys.BROKER_SERVICE, PushedSpec("rabbitmq:listens", "listens", 60, PASSING, ""))

    def with_playbooks(self, released: str | None, **current: str) -> None:
        """Release playbooks, which every worker has, but for those who are said to have others (VM with _ for -)."""
        if released is not None:
            self.put(keys.RELEASE, Release(digest=released, at=NOW - 3700, by="ana@desk", orch="0.1.0"))
        for vm, entry in VMS.items():
            digest = current.get(vm.replace("-", "_"), released)
            if "worker" in entry["roles"] and digest is not None:
                self.put(keys.installed(vm), Installed(vm=vm, current=digest, kept=(digest,), at=NOW - 60))

    def with_a_sink(self, sink: dict[str, Any]) -> None:
        """Let the policy tell somebody of what happens."""
        self.put(keys.CONFIG, json.dumps(POLICY | {"notifications": [sink]}).encode())

    def change_request(self, **changes: Any) -> None:
        """Change the newest request as the leader would."""
        request = self.requests()[-1]
        self.put(keys.request(request.id), request.with_(**changes))

    def put_command(self, **changes: Any) -> Command:
        """Write a command of the newest request (or of request `r`)."""
        request_id = self.requests()[-1].id if self.requests() else "r"
        fields: dict[str, Any] = {
            "id": "1700000000100-backend-activate-e1",
            "request_id": request_id,
            "service": "backend",
            "kind": MoveKind.SWITCHOVER,
            "play": "activate",
            "playbook": "activate_backend.yml",
            "target": "messaging-server",
            "epoch": 1,
            "created": NOW + 0.1,
        }
        command = Command(**(fields | changes))
        self.put(keys.command(command.id), command)
        return command

    # -- what orch does ------------------------------------------------------------------------------------------

    def orch(self, *arguments: str, **changes: Any) -> Result:
        """Run `orch` with the arguments."""
        app = App(
            decide=lambda *given: self.outcome or App().decide(*given),
            open_port=lambda host, port, token: self.port(),
            now=lambda: NOW,
            monotonic=lambda: self.clock,
            sleep=self.sleep,
            who=lambda: "ana@desk",
            token=self._token,
            on_terminal=lambda: self.on_terminal,
        )
        for name, value in changes.items():
            setattr(app, name, value)
        return CliRunner().invoke(cli, list(arguments), obj=app)

    def answer(self, *arguments: str) -> Any:
        """Run `orch --json` and return its answer; it must have ended well."""
        result = self.orch("--json", *arguments)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def sleep(self, seconds: float) -> None:
        """Let the clock go on and the next step happen."""
        self.clock += seconds
        if self.steps:
            self.steps.pop(0)()


class WorldPort(FakePort):
    """A port whose blocking query lets the world go on by one step where there is nothing new yet."""

    def __init__(self, world: World, node: str) -> None:
        super().__init__(world.consul, node)
        self._world = world

    def kv_list(self, prefix: str, *, index: int = 0, wait_s: float = 0.0) -> tuple[int, tuple[KvPair, ...]]:
        """See `Port.kv_list`."""
        found = super().kv_list(prefix)
        if wait_s and found[0] <= index:
            self._world.sleep(wait_s)
            found = super().kv_list(prefix)
        return found
