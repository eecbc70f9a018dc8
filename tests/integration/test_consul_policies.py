"""What each token may do in Consul and, above all, what it may not: the policies that are deployed, on a real agent."""

from __future__ import annotations

import base64
import secrets
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader

from orchestrator.backup.kept import Kind, Shelf
from orchestrator.backup.make import Tools, make_backup
from orchestrator.backup.restore import let_in, restore_consul
from orchestrator.domain import keys
from orchestrator.settings import LocalSettings
from orchestrator.store.consul_port import ConsulPort
from orchestrator.store.election import Election
from orchestrator.store.port import (
    AgentService,
    CasPut,
    CheckSession,
    LockPut,
    PushedSpec,
    Refused,
    TxnOutcome,
    UnknownToken,
)
from orchestrator.store.sessions import kept_session, own_session
from orchestrator.store.shown_role import with_role
from tests.integration.consul_agent import ConsulAgent, find_consul
from tests.integration.waiting import wait_for
from tests.library import module

CHECKOUT = Path(__file__).resolve().parents[2]
# In the orders of messaging and backend, a controller's, a worker's and a broker's. The only VM that is up here.
VM = "messaging-server"
OTHER_VM = "database-server"
OF_VMS = {"agent": None, "guard": None, "controller": "controllers", "worker": "workers", "backup": "controllers"}
OF_FLEET = ("template", "operator", "ui", "dns")


acl = module("orch_consul_acl")
keyring = module("orch_consul_keyring")


def grants() -> list[dict[str, str]]:
    """Return what the deployment grants in the reference fleet, with secrets of the test's own."""
    hosts = CHECKOUT / "ansible" / "inventory"
    inventory = InventoryManager(loader=DataLoader(), sources=[str(hosts / "hosts")])
    groups = {name: [str(host) for host in inventory.get_hosts(name)] for name in inventory.groups}
    facts = yaml.safe_load((hosts / "group_vars" / "all" / "services.yml").read_text()) | {"groups": groups}
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(CHECKOUT / "consul" / "policies"),
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    wanted = [(whose, vm) for whose, group in OF_VMS.items() for vm in groups[group or "vms"]]
    wanted += [(whose, "") for whose in OF_FLEET]
    return [
        {
            "name": f"orch-{whose}-{vm}" if vm else f"orch-{whose}",
            "secret": str(uuid.uuid4()),
            "rules": templates.get_template(f"{whose}.hcl.j2").render(facts, orch_vm=vm),
        }
        for whose, vm in wanted
    ]


class Fleet:
    """The agent of `VM`, whose servers know the tokens of all."""

    def __init__(self, agent: ConsulAgent) -> None:
        self.grants = grants()
        self.address = f"http://127.0.0.1:{agent.http_port}"
        self.consul = acl.Consul(self.address, str(uuid.uuid4()))
        self.data = agent.data
        self._http_port = agent.http_port
        self._ports: list[ConsulPort] = []
        assert acl.waited(self.consul, 10.0), "there was a management token before"
        self.do(acl.changes(self.consul, self.grants, prune=True))

    def do(self, changes: list[tuple[str, tuple[Any, ...]]]) -> list[str]:
        """Make the changes; return what they are called."""
        for _, call in changes:
            self.consul.ask(*call)
        return [words for words, _ in changes]

    def port_of(self, whose: str) -> ConsulPort:
        """Return a port with the token (`guard-VM`, `ui`), or with none."""
        token = None if whose == "nobody" else self.secret_of(whose)
        self._ports.append(ConsulPort(port=self._http_port, token=token))
        return self._ports[-1]

    def secret_of(self, whose: str) -> str:
        return next(each["secret"] for each in self.grants if each["name"] == f"orch-{whose}")

    def everything(self) -> ConsulPort:
        """Return a port that may do everything."""
        self._ports.append(ConsulPort(port=self._http_port, token=self.consul.token))
        return self._ports[-1]

    def close(self) -> None:
        for port in self._ports:
            port.close()


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """One agent for all tests here."""
    agent = ConsulAgent(tmp_path_factory.mktemp("consul"), node=VM, acls="deny")
    agent.start()
    try:
        fleet = Fleet(agent)
        yield fleet
        fleet.close()
    finally:
        agent.stop()


def service(name: str) -> AgentService:
    return AgentService(id=name, name=name, port=1)


def take_lock(name: str) -> Callable[[ConsulPort], object]:
    """Return what takes a service's role lock with a session of the caller's own, as a guard does."""

    def take(port: ConsulPort) -> object:
        session = own_session(port, f"orch-guard:{name}@{VM}", ())
        return port.txn((LockPut(keys.lock(name), b"{}", session),))

    return take


def put(key: str) -> Callable[[ConsulPort], object]:
    return lambda port: port.kv_put(key, b"{}")


def register(name: str) -> Callable[[ConsulPort], object]:
    return lambda port: port.agent_register(service(name))


def make_session(port: ConsulPort) -> object:
    return port.session_create("x", ())


FORBIDDEN: dict[str, dict[str, Callable[[ConsulPort], object]]] = {
    f"guard-{VM}": {
        "the lock of a service that it is not in the order of": take_lock("database"),
        "an assignment": put(keys.assignment("backend")),
        "endpoints": put(keys.endpoints("backend")),
        "what is whole of a service without data": put(keys.sync("backend")),
        "a request": put(keys.request("1")),
        "the lead": put(keys.LEADER),
        "a release of the playbooks": put(keys.RELEASE),
        "an instance of a service that it is not in the order of": register("orch-database"),
        "a daemon's registration": register("orch-controller"),
    },
    # Asking the agent of another VM, which is where its session would be.
    f"guard-{OTHER_VM}": {
        "a session on another VM": make_session,
        "the lock of a service that it is not in the order of": put(keys.lock("backend")),
        "what another VM's agent does": lambda port: port.agent_compare(""),
    },
    f"controller-{VM}": {
        "a release of the playbooks": put(keys.RELEASE),
        "what a worker has of playbooks": put(keys.installed(VM)),
        "a role lock": take_lock("backend"),
        "which copies are whole": put(keys.sync("database")),
        "the policy": put(keys.CONFIG),
        "a pause": put(keys.PAUSED),
        "a maintenance": put(keys.maintenance(VM)),
        "an assignment of a service that nobody has": put(keys.assignment("other")),
        "an instance's registration": register("orch-backend"),
    },
    "controller-frontend-server": {"a session on another VM": make_session},
    f"worker-{VM}": {
        "an assignment": put(keys.assignment("backend")),
        "endpoints": put(keys.endpoints("backend")),
        "a role lock": take_lock("backend"),
        "the lead": put(keys.LEADER),
        "the journal": put(keys.history("1")),
        "the policy": put(keys.CONFIG),
        "a registration": register("orch-worker"),
        "a release of the playbooks": put(keys.RELEASE),
        "what another worker has of playbooks": put(keys.installed("frontend-server")),
    },
    "worker-frontend-server": {"a session on another VM": make_session},
    f"agent-{VM}": {
        "a read of KV": lambda port: port.kv_get(keys.CONFIG),
        "a write of KV": put(keys.CONFIG),
        "an instance's registration": register("orch-backend"),
        "a session": make_session,
    },
    "template": {
        "an assignment, to read": lambda port: port.kv_get(keys.assignment("backend")),
        "all of KV": lambda port: port.kv_list(keys.ROOT),
        "endpoints": put(keys.endpoints("backend")),
        "the checks": lambda port: port.checks(),
    },
    "operator": {
        "an assignment": put(keys.assignment("backend")),
        "endpoints": put(keys.endpoints("backend")),
        "a role lock": put(keys.lock("backend")),
        "which copies are whole": put(keys.sync("database")),
        "the lead": put(keys.LEADER),
        "the journal": put(keys.history("1")),
        "what a worker has of playbooks": put(keys.installed(VM)),
        "a registration": register("orch-backend"),
        "a session": make_session,
    },
    "ui": {
        "a rotation": put(keys.rotate("backend")),
        "the policy": put(keys.CONFIG),
        "a key of its own": put("note"),
        "a registration": register("orch-backend"),
        "a session": make_session,
    },
    "dns": {
        "a read of KV": lambda port: port.kv_get(keys.CONFIG),
        "a write of KV": put(keys.rotate("backend")),
    },
    "nobody": {
        "a read of KV": lambda port: port.kv_get(keys.CONFIG),
        "all of KV": lambda port: port.kv_list(keys.ROOT),
        "the names of keys": lambda port: port.kv_keys(keys.ROOT),
        "a write of KV": put(keys.rotate("backend")),
        "a deletion": lambda port: port.kv_delete(keys.CONFIG),
        "a session": make_session,
        "a registration": register("orch-backend"),
        "what the agent does": lambda port: port.agent_compare(""),
    },
}


@pytest.mark.parametrize(
    ("whose", "what"), [(whose, what) for whose, each in FORBIDDEN.items() for what in each], ids=lambda word: word
)
def test_what_nobody_needs_is_forbidden(fleet: Fleet, whose: str, what: str) -> None:
    with pytest.raises(Refused, match="Permission denied"):
        FORBIDDEN[whose][what](fleet.port_of(whose))


def test_a_guard_registers_its_instances_and_holds_their_locks(fleet: Fleet) -> None:
    port = fleet.port_of(f"guard-{VM}")
    for name in ("backend", "messaging"):
        port.agent_register(service(keys.instance_service_id(name)))
        unit = keys.unit_check_id(name)
        port.agent_register_pushed(keys.instance_service_id(name), PushedSpec(unit, unit, 60.0, "passing"))
        port.agent_push(unit, "passing", "is well")
        port.agent_sync(keys.daemon_service_id("guard"))
        session = kept_session(port, f"orch-guard:{name}@{VM}", ())
        assert port.txn((LockPut(keys.lock(name), b"{}", session),)) is TxnOutcome.WON
        port.session_destroy(session)
        port.agent_deregister(keys.instance_service_id(name))
    port.agent_compare(next(grant["secret"] for grant in fleet.grants if grant["name"] == "orch-dns"))
    assert port.node_name() == VM
    assert port.kv_list(keys.ROOT)[1]
    assert port.checks()[1]


def test_only_the_guards_of_the_database_say_which_copies_are_whole(fleet: Fleet) -> None:
    fleet.port_of(f"guard-{OTHER_VM}").kv_put(keys.sync("database"), b"{}")
    with pytest.raises(Refused):
        fleet.port_of(f"guard-{VM}").kv_put(keys.sync("database"), b"{}")


def test_a_controller_leads_and_writes_what_the_leader_writes(fleet: Fleet) -> None:
    port = fleet.port_of(f"controller-{VM}")
    election = Election(port, VM, checks=())
    assert election.campaign()
    assert election.session is not None
    written = (
        *(make("backend") for make in (keys.assignment, keys.endpoints, keys.rotation, keys.members)),
        *(make("2") for make in (keys.request, keys.command, keys.history, keys.notified)),
    )
    fence = CheckSession(keys.LEADER, election.session)
    assert port.txn((fence, *(CasPut(key, b"{}", 0) for key in written))) is TxnOutcome.WON
    port.kv_delete(keys.rotate("backend"))
    port.kv_delete(keys.refused("1"))
    election.resign()
    fleet.port_of(f"agent-{VM}").agent_register(service("orch-controller"))
    port.agent_register(with_role(service("orch-controller"), "leader"))


def test_a_worker_claims_a_command(fleet: Fleet) -> None:
    port = fleet.port_of(f"worker-{VM}")
    port.kv_put(keys.refused("1"), b"{}")
    session = own_session(port, f"orch-worker@{VM}", ())
    assert port.txn((LockPut(keys.command("3"), b"{}", session),)) is TxnOutcome.WON
    port.kv_put(keys.request("3"), b"{}")
    port.kv_put(keys.installed(VM), b"{}")
    port.session_destroy(session)
    assert port.checks()[1]


def test_consul_template_sees_where_traffic_goes(fleet: Fleet) -> None:
    fleet.everything().kv_put(keys.endpoints("backend"), b"{}")
    for name in ("backend", "database", "messaging"):
        fleet.port_of("template").kv_get(keys.endpoints(name))


def test_an_operator_asks_and_says_what_automation_may_do(fleet: Fleet) -> None:
    port = fleet.port_of("operator")
    of_fleet = (keys.CONFIG, keys.PAUSED, keys.RELEASE)
    for key in (*of_fleet, keys.maintenance(VM), keys.rotate("backend"), keys.request("4")):
        port.kv_put(key, b"{}")
        port.kv_delete(key)
    assert port.kv_list(keys.ROOT)[1]
    assert port.checks()[1]
    assert port.session_list(VM)


def test_the_ui_shows_everything(fleet: Fleet) -> None:
    port = fleet.port_of("ui")
    fleet.everything().kv_put("orch/x", b"{}")
    assert port.kv_keys("")
    assert port.kv_list(keys.ROOT)[1]
    assert port.checks()[1]


def test_whoever_sees_a_part_only_is_refused_and_not_misled(fleet: Fleet) -> None:
    agent = fleet.port_of(f"agent-{VM}")
    agent.agent_register(service(keys.BROKER_SERVICE))
    agent.agent_register_pushed(keys.BROKER_SERVICE, PushedSpec("rabbitmq:listens", "listens", 60.0, "passing"))
    with pytest.raises(Refused, match="a part only"):
        fleet.port_of("dns").checks()


def test_a_second_time_nothing_is_changed_and_what_was_changed_by_hand_is_put_right(fleet: Fleet) -> None:
    assert acl.changes(fleet.consul, fleet.grants, prune=True) == []
    assert not acl.waited(fleet.consul, 1.0)
    policy = next(each for each in fleet.consul.ask("GET", "acl/policies") if each["Name"] == "orch-ui")
    fleet.consul.ask(
        "PUT", f"acl/policy/{policy['ID']}", {"Name": "orch-ui", "Rules": 'key_prefix "" {policy="write"}'}
    )
    stranger = {"Description": "orch-guard-of-a-vm-that-is-gone", "Policies": [{"Name": "orch-ui"}]}
    fleet.consul.ask("PUT", "acl/token", stranger)
    did = fleet.do(acl.changes(fleet.consul, fleet.grants, prune=True))
    assert did == ["policy orch-ui changed", "token orch-guard-of-a-vm-that-is-gone removed"]


def test_before_the_first_deployment_nothing_is_done_and_nothing_waited_for() -> None:
    with pytest.raises(acl.NotRunning, match="no agent listens"):
        acl.waited(acl.Consul("http://127.0.0.1:1", str(uuid.uuid4())), 60.0, only_if_running=True)


def test_another_management_token_than_consul_s_is_said(fleet: Fleet) -> None:
    with pytest.raises(acl.No, match="is not the one that Consul has"):
        acl.waited(acl.Consul(fleet.address, str(uuid.uuid4())), 1.0)


def test_a_management_token_that_is_lost_is_replaced_as_the_documents_say(fleet: Fleet) -> None:
    another = acl.Consul(fleet.address, str(uuid.uuid4()))
    with pytest.raises(acl.No, match=r"reset index: \d+") as refused:
        acl.waited(another, 1.0)
    index = str(refused.value).partition("reset index: ")[2].partition(")")[0]
    (fleet.data / "acl-bootstrap-reset").write_text(index)
    assert acl.waited(another, 1.0)
    assert acl.changes(another, fleet.grants, prune=True) == []


def test_a_token_that_is_replaced_costs_its_daemon_no_call(fleet: Fleet, tmp_path: Path) -> None:
    name = f"orch-worker-{VM}"
    old = next(each for each in fleet.grants if each["name"] == name)
    path = tmp_path / "worker"
    path.write_text(f"{old['secret']}\n")
    failures: list[Exception] = []
    port = ConsulPort(port=int(fleet.address.rpartition(":")[2]), token_file=path, on_failure=failures.append)
    port.kv_put(keys.request("5"), b"{}")
    # As playbooks/rotate_secrets.yml does: the new one beside the old one, then the file, then the old one is deleted.
    new = {**old, "secret": str(uuid.uuid4())}
    fleet.grants[fleet.grants.index(old)] = new
    assert fleet.do(acl.changes(fleet.consul, fleet.grants, prune=False)) == [f"token {name}"]
    port.kv_put(keys.request("5"), b"{}")
    path.write_text(f"{new['secret']}\n")
    assert fleet.do(acl.changes(fleet.consul, fleet.grants, prune=True)) == [f"token {name} removed"]
    port.kv_put(keys.request("5"), b"{}")
    assert failures == []
    # No refusal: a server that has just started knows no token either.
    path.write_text(str(uuid.uuid4()))
    fleet.do([("", ("DELETE", f"acl/token/{acl.accessor_of(new)}"))])
    with pytest.raises(UnknownToken, match="does not know the token"):
        port.kv_get(keys.request("5"))
    path.unlink()
    with pytest.raises(Exception, match="cannot be read: No such file"):
        port.kv_get(keys.request("5"))
    port.close()
    fleet.do(acl.changes(fleet.consul, fleet.grants, prune=True))


def test_what_a_former_token_registered_is_told_apart_and_reaches_the_catalog_when_it_is_registered_anew(
    fleet: Fleet, tmp_path: Path
) -> None:
    name, check = f"orch-guard-{VM}", keys.unit_check_id("backend")
    old = next(each for each in fleet.grants if each["name"] == name)
    path = tmp_path / "guard"
    path.write_text(old["secret"])
    port = ConsulPort(port=int(fleet.address.rpartition(":")[2]), token_file=path)
    kept = service("orch-backend")

    def register() -> None:
        port.agent_register(kept)
        port.agent_register_pushed(kept.id, PushedSpec(check, "backend unit", 3600.0, "passing"))

    def registered() -> AgentService:
        return next(each for each in port.agent_services() if each.id == kept.id)

    def in_the_catalog() -> list[str]:
        return [each.status for each in fleet.everything().checks()[1] if each.check_id == check]

    register()
    assert registered() == kept
    wait_for(lambda: in_the_catalog() == ["passing"], "the catalog has the check")
    new = {**old, "secret": str(uuid.uuid4())}
    fleet.grants[fleet.grants.index(old)] = new
    fleet.do(acl.changes(fleet.consul, fleet.grants, prune=False))
    path.write_text(new["secret"])
    assert registered().by_own_token, "the former one is in use still"
    fleet.do(acl.changes(fleet.consul, fleet.grants, prune=True))
    # In the call in which the former one turns out to be no more.
    assert not registered().by_own_token
    register()
    port.agent_push(check, "critical", "it has failed")
    wait_for(lambda: in_the_catalog() == ["critical"], "the catalog hears what became of it")
    assert registered() == kept
    port.agent_deregister(kept.id)
    port.close()


def test_the_key_of_gossip_is_replaced_where_all_agents_are_there_and_only_there(fleet: Fleet) -> None:
    ring = keyring.Keyring(fleet.address, fleet.consul.token)
    new = base64.b64encode(secrets.token_bytes(32)).decode()
    (old,) = ring.others(new)
    with pytest.raises(keyring.No, match="1 of 2 agents answer"):
        keyring.replaced(ring, new, 2)
    assert ring.others(new) == [old]
    assert keyring.replaced(ring, new, 1)
    assert ring.others(new) == []
    assert not keyring.replaced(ring, new, 1)


def test_a_consul_that_has_lost_its_tokens_too_goes_back_to_a_snapshot(tmp_path: Path) -> None:
    agent = ConsulAgent(tmp_path, node=VM, acls="deny")
    agent.start()
    fleet = Fleet(agent)
    try:
        tokens = tmp_path / "tokens"
        tokens.mkdir()
        (tokens / "backup").write_text(f"{fleet.secret_of(f'backup-{VM}')}\n")
        settings = LocalSettings.model_validate(
            {
                "vm": VM,
                "amqp": {"hosts": ["127.0.0.1"]},
                "consul": {"port": agent.http_port, "token_dir": str(tokens)},
                "backups": {"directory": str(tmp_path / "kept")},
            }
        )
        tools = Tools(consul=(str(find_consul()),))
        fleet.port_of("operator").kv_put(keys.CONFIG, b"before")
        made = make_backup(Kind.CONSUL, settings, 1_700_000_000.0, tools)
        agent.stop()
        shutil.rmtree(agent.data)
        agent.start()
        with pytest.raises(UnknownToken):
            fleet.port_of("operator").kv_get(keys.CONFIG)
        let_in(settings, tools)
        restore_consul(Shelf(settings.backups.directory).content(made), settings, tools)
        _, pair = fleet.port_of("operator").kv_get(keys.CONFIG)
        assert pair is not None
        assert pair.value == b"before"
        # What it was let in with may no more than before.
        with pytest.raises(Refused):
            fleet.port_of(f"backup-{VM}").kv_get(keys.CONFIG)
        let_in(settings, tools)
        with pytest.raises(Refused):
            fleet.port_of(f"backup-{VM}").kv_get(keys.CONFIG)
    finally:
        fleet.close()
        agent.stop()
