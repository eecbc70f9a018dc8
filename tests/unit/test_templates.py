"""Every rendered file, rendered for every VM by Ansible's own templating with the reference inventory."""

from __future__ import annotations

import base64
import configparser
import hashlib
import ipaddress
import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.domain.policy import Policy
from orchestrator.settings import DatabaseSettings, LocalSettings
from tests import rendering
from tests.rendering import ANSIBLE, CHECKOUT, PASSWORD, TEMPLATES, as_json

VMS = ("frontend-server", "backend-server", "messaging-server", "database-server")

Render = Callable[..., str]


@pytest.fixture
def render() -> Render:
    """Return the function that renders one file for one VM."""
    return rendering.render


def sources() -> list[Path]:
    """Return what the plays render. Notices are rendered by the leader (tests/unit/notify)."""
    found = (*TEMPLATES.rglob("*.j2"), *(CHECKOUT / "consul").rglob("*.j2"))
    return sorted(path for path in found if path.parent.name != "notify")


@pytest.mark.parametrize("vm", VMS)
@pytest.mark.parametrize("source", sources(), ids=lambda path: path.name)
def test_every_template_renders_on_every_vm_and_leaves_no_jinja_behind(render: Render, source: Path, vm: str) -> None:
    extra = {
        "orch_upstream": "backend",
        "orch_stream": False,
        "orch_candidate": "",
        "orch_daemon": "guard",
        "orch_proxy": "database",
        "orch_vm": vm,
    }
    text = render(source, vm, **extra)
    assert text.strip()
    if ".ctmpl" not in source.name:
        assert "{{" not in text
        assert "{%" not in text
    if source.name.endswith(".json.j2"):
        assert as_json(text)


@pytest.mark.parametrize("vm", VMS)
def test_the_rendered_policy_is_valid_and_names_the_fleet(render: Render, vm: str) -> None:
    policy = Policy.model_validate(yaml.safe_load(render(TEMPLATES / "orch-config.yml.j2", vm)))
    assert set(VMS) == set(policy.vms)
    assert policy.vms["messaging-server"].roles == ("controller", "worker")
    assert policy.vms["database-server"].roles == ()
    assert policy.services["backend"].order == ("backend-server", "messaging-server")
    assert (policy.services["backend"].unit, policy.services["frontend"].unit) == ("node-app", "nginx")
    for service in policy.services.values():
        assert (ANSIBLE / "playbooks" / service.activate).is_file()
        assert (ANSIBLE / "playbooks" / service.deactivate).is_file()


def test_who_is_told_of_what_happens_is_whom_the_inventory_names_and_nobody_by_default(render: Render) -> None:
    def policy(**extra: object) -> Policy:
        return Policy.model_validate(yaml.safe_load(render(TEMPLATES / "orch-config.yml.j2", VMS[0], **extra)))

    assert policy().notifications == ()
    pager = {"name": "pager", "kind": "command", "command": ["/usr/local/bin/page"]}
    assert [sink.name for sink in policy(orch_notifications=[pager]).notifications] == ["pager"]


@pytest.mark.parametrize("vm", VMS)
def test_the_rendered_local_settings_are_what_the_daemons_read(render: Render, vm: str) -> None:
    text = render(TEMPLATES / "orch.json.j2", vm)
    settings = LocalSettings.model_validate(as_json(text))
    assert vm == settings.vm
    assert settings.amqp.hosts == ("10.0.0.21", "10.0.8.49", "10.0.10.169")
    assert PASSWORD not in text


def test_only_a_vm_of_the_database_s_order_has_settings_of_a_database(render: Render) -> None:
    settings = {vm: LocalSettings.model_validate(as_json(render(TEMPLATES / "orch.json.j2", vm))) for vm in VMS}
    assert [vm for vm in VMS if settings[vm].database is not None] == ["backend-server", "database-server"]
    assert settings["database-server"].database == DatabaseSettings()


def my_cnf(render: Render, vm: str) -> dict[str, str]:
    parsed = configparser.ConfigParser(interpolation=None)
    parsed.read_string(render(TEMPLATES / "my.cnf.j2", vm))
    return dict(parsed["mariadbd"])


def test_a_database_starts_read_only_and_alone_and_loses_nothing_that_it_acknowledged(render: Render) -> None:
    for vm, address in (("database-server", "10.0.10.169"), ("backend-server", "10.0.0.22")):
        settings = my_cnf(render, vm)
        expected = {
            "bind_address": address,
            "port": "3306",
            "read_only": "ON",
            "skip_slave_start": "ON",
            "gtid_strict_mode": "ON",
            "log_slave_updates": "ON",
            "sync_binlog": "1",
            "innodb_flush_log_at_trx_commit": "1",
            "rpl_semi_sync_master_enabled": "OFF",
            "rpl_semi_sync_slave_enabled": "OFF",
            "rpl_semi_sync_master_wait_point": "AFTER_SYNC",
            "rpl_semi_sync_master_wait_no_slave": "ON",
            "require_secure_transport": "ON",
        }
        assert {name: settings[name] for name in expected} == expected


def test_no_two_databases_have_the_same_server_id(render: Render) -> None:
    ids = [int(my_cnf(render, vm)["server_id"]) for vm in VMS]
    assert len(set(ids)) == len(VMS)
    assert min(ids) > 0


def test_the_statements_that_found_the_database_hold_hashes_and_no_password(render: Render) -> None:
    text = render(TEMPLATES / "database-founding.sql.j2", "database-server")
    stored = "*" + hashlib.sha1(hashlib.sha1(PASSWORD.encode()).digest()).hexdigest().upper()
    assert text.count(f"IDENTIFIED BY PASSWORD '{stored}' REQUIRE SSL") == text.count("IDENTIFIED") == 4
    assert PASSWORD not in text
    assert text.rstrip().splitlines()[-1].startswith("CREATE TABLE IF NOT EXISTS orch.heartbeat ")


def test_the_definitions_hold_the_hash_and_not_the_password(render: Render) -> None:
    text = render(TEMPLATES / "rabbitmq-definitions.json.j2", "messaging-server")
    users = as_json(text)["users"]
    assert [user["name"] for user in users] == ["orch_controller", "orch_worker", "orch_operator", "orch_app"]
    for user in users:
        stored = base64.b64decode(user["password_hash"])
        assert hashlib.sha256(stored[:4] + PASSWORD.encode()).digest() == stored[4:]
    assert PASSWORD not in text


def test_the_application_may_use_its_own_queue_and_nothing_else(render: Render) -> None:
    definitions = as_json(render(TEMPLATES / "rabbitmq-definitions.json.j2", "messaging-server"))
    (own,) = [permission for permission in definitions["permissions"] if permission["user"] == "orch_app"]
    assert own["vhost"] == "app"
    for right in ("configure", "write", "read"):
        assert re.search(own[right], "listings")
        assert not re.search(own[right], "failover_commands")
    # Where a message for a queue is published.
    assert re.search(own["write"], "amq.default")


@pytest.mark.parametrize("vm", VMS)
def test_the_application_finds_database_and_broker_on_the_loopback_of_every_vm(render: Render, vm: str) -> None:
    services = {"database": {"port": 3306}, "messaging": {"port": 5671}}
    text = render(TEMPLATES / "env.j2", vm, orch_services=services)
    settings = dict(line.split("=", 1) for line in text.splitlines() if not line.startswith("#"))
    assert settings["APP_VM"] == vm
    assert settings["APP_DATABASE_HOST"] == settings["APP_AMQP_HOST"] == "127.0.0.1"
    assert (settings["APP_DATABASE_PORT"], settings["APP_AMQP_PORT"]) == ("3306", "5671")
    assert settings["APP_CA_FILE"] == "/etc/orch/tls/ca.pem"
    assert PASSWORD not in text


def test_an_application_without_a_database_is_told_of_none(render: Render) -> None:
    text = render(TEMPLATES / "env.j2", "backend-server", orch_services={"messaging": {"port": 5671}})
    assert "APP_DATABASE" not in text
    assert "APP_AMQP" not in text


def test_the_deployment_looks_for_the_archive_that_pack_modules_makes(tmp_path: Path) -> None:
    wanted = Path(rendering.value_of("app_modules", "backend-server"))
    # Already there: nothing is fetched.
    (tmp_path / wanted.name).touch()
    pack = CHECKOUT / "deploy" / "sample-app" / "pack-modules"
    told = subprocess.run([pack, tmp_path], env={"PATH": "/usr/bin:/bin"}, check=True, capture_output=True, text=True)
    assert str(tmp_path / wanted.name) == told.stdout.strip()
    assert wanted.parent.resolve() == CHECKOUT / "dist"


def test_the_lock_file_names_no_registry() -> None:
    lock = json.loads((CHECKOUT / "deploy" / "sample-app" / "app" / "package-lock.json").read_text())
    packages = [package for name, package in lock["packages"].items() if name]
    assert packages
    for package in packages:
        assert "resolved" not in package
        assert package["integrity"]


def test_all_vms_are_servers_that_find_each_other_on_the_inventory_s_addresses(render: Render) -> None:
    for vm in VMS:
        agent = as_json(render(CHECKOUT / "consul" / "agent.json.j2", vm))
        others = as_json(render(CHECKOUT / "consul" / "join.json.j2", vm))["retry_join"]
        assert agent["server"] is True
        assert {"10.0.8.49", "10.0.0.22", "10.0.0.21", "10.0.10.169"} == set(others)
        assert agent["bind_addr"] in others
        assert agent["client_addr"] == "127.0.0.1"
        assert agent["autopilot"] == {"cleanup_dead_servers": True, "min_quorum": 3, "server_stabilization_time": "10s"}


def open_ports(render: Render, vm: str, asking: str, **extra: object) -> set[str]:
    """Return the ports that the VM's rules open to a VM of the fleet, or to any other address."""
    found = set()
    for line in render(TEMPLATES / "firewall.nft.j2", vm, **extra).splitlines():
        rule = re.fullmatch(r"\s+(?:ip6? saddr \{ (.+) \} )?(tcp|udp) dport \{ (.+) \} accept comment .*", line)
        if rule is None:
            continue
        sources = [ipaddress.ip_network(source) for source in (rule[1] or "0.0.0.0/0").split(", ")]
        if any(ipaddress.ip_address(asking) in source for source in sources):
            found |= {f"{rule[2]} {port}" for port in rule[3].split(", ")}
    return found


SSH, WEB = {"tcp 22"}, {"tcp 80"}
FLEET = SSH | {"tcp 8300", "tcp 8301", "udp 8301", "tcp 5671"}
CLUSTER = {"tcp 4369", "tcp 25672", "tcp 35672-35682"}
DATABASE, BACKEND = {"tcp 3306"}, {"tcp 3000"}
OPEN_TO = {
    # From frontend-server and backend-server, whose nginx leads to the backend; and from the other two.
    "frontend-server": (FLEET | CLUSTER | WEB, FLEET | CLUSTER | WEB),
    "backend-server": (FLEET | CLUSTER | WEB | DATABASE | BACKEND, FLEET | CLUSTER | WEB | DATABASE),
    "messaging-server": (FLEET | CLUSTER | BACKEND, FLEET | CLUSTER),
    "database-server": (FLEET | CLUSTER | DATABASE, FLEET | CLUSTER | DATABASE),
}


@pytest.mark.parametrize("vm", VMS)
def test_a_vm_takes_from_the_fleet_what_its_roles_need_and_from_elsewhere_the_site_and_ssh(
    render: Render, vm: str
) -> None:
    with_a_site, others = OPEN_TO[vm]
    assert open_ports(render, vm, "10.0.8.49") == open_ports(render, vm, "10.0.0.22") == with_a_site
    assert open_ports(render, vm, "10.0.0.21") == open_ports(render, vm, "10.0.10.169") == others
    has_a_site = vm in ("frontend-server", "backend-server")
    assert open_ports(render, vm, "203.0.113.7") == (SSH | WEB if has_a_site else SSH)


def test_the_workers_keep_ssh_where_it_is_open_to_few_and_what_is_yours_is_open_too(render: Render) -> None:
    extra = {
        "firewall_ssh_from": ["192.0.2.0/28", "192.0.2.1"],
        "firewall_extra": [{"what": "metrics", "tcp": ["9100-9110"], "from": ["192.0.2.9"], "to": ["database-server"]}],
    }
    assert open_ports(render, "database-server", "192.0.2.9", **extra) == {"tcp 22", "tcp 9100-9110"}
    assert open_ports(render, "backend-server", "192.0.2.9", **extra) == SSH | WEB
    assert open_ports(render, "database-server", "203.0.113.7", **extra) == set()
    assert open_ports(render, "database-server", "10.0.0.22", **extra) & SSH == set()
    assert open_ports(render, "database-server", "10.0.0.21", **extra) & SSH == SSH


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"what": "it", "tcp": ["htpp"]}, "firewall, it: 'htpp' is no port"),
        ({"what": "it", "tcp": ["90-80"]}, "firewall, it: '90-80' is no port"),
        ({"what": "it", "udp": [70000]}, "firewall, it: 70000 is no port"),
        (
            {"what": "it", "tcp": [1], "from": ["mail-server"]},
            "'mail-server' is neither a VM of the fleet nor an address",
        ),
        ({"what": "it", "tcp": [1], "to": ["mail-server"]}, "'mail-server' is no VM of the fleet"),
        ({"what": "it", "tpc": [1]}, "'tpc' is none of from, tcp, to, udp, what"),
        ({"what": 'it" drop', "tcp": [1]}, "no quotes"),
    ],
)
def test_a_firewall_rule_that_cannot_be_meant_is_refused_with_a_sentence(
    render: Render, rule: dict[str, Any], said: str
) -> None:
    with pytest.raises(Exception, match=re.escape(said)):
        render(TEMPLATES / "firewall.nft.j2", "backend-server", firewall_extra=[rule])


@pytest.mark.parametrize(
    ("door", "answers_on"),
    [
        (None, "127.0.0.1"),
        ({"kind": "vip", "address": "10.0.0.100"}, "127.0.0.1"),
        ({"kind": "dns"}, "127.0.0.1 10.0.0.22"),
    ],
)
def test_dns_is_answered_to_others_only_where_a_front_door_is_found_by_it(
    render: Render, door: dict[str, str] | None, answers_on: str
) -> None:
    services = {"frontend": {"front_door": door}, "backend": {"front_door": None}}
    agent = as_json(render(CHECKOUT / "consul" / "agent.json.j2", "backend-server", orch_services=services))
    assert agent["addresses"]["dns"] == answers_on


def test_consul_denies_by_default_encrypts_everything_and_believes_certificates_only(render: Render) -> None:
    for vm in VMS:
        agent = as_json(render(CHECKOUT / "consul" / "agent.json.j2", vm))
        assert agent["acl"]["enabled"] is True
        assert agent["acl"]["default_policy"] == "deny"
        assert {"verify_incoming": True, "verify_outgoing": True}.items() <= agent["tls"]["defaults"].items()
        assert agent["tls"]["internal_rpc"] == {"verify_server_hostname": True}
        # What is plain stays on the loopback.
        assert agent["client_addr"] == "127.0.0.1"
        assert agent["ports"] == {"https": 8501, "serf_wan": -1, "grpc": -1, "grpc_tls": -1}
        secrets = as_json(render(CHECKOUT / "consul" / "secrets.json.j2", vm))
        assert secrets["encrypt"]
        # Whoever asks without a token may see what DNS tells, and nothing in KV.
        assert secrets["acl"]["tokens"]["default"] == "a-token-for-dns"


def test_a_daemon_is_registered_as_passing_so_that_a_session_survives_the_agent_s_restart(render: Render) -> None:
    for daemon, port in (("guard", 9703), ("controller", 9701), ("worker", 9702)):
        text = render(CHECKOUT / "consul" / "services" / "daemon.json.j2", "frontend-server", orch_daemon=daemon)
        check = as_json(text)["service"]["checks"][0]
        assert f"orch-{daemon}:alive" == check["id"]
        assert f"http://127.0.0.1:{port}/health" == check["http"]
        assert check["status"] == "passing"


def test_what_nginx_is_tested_with_differs_in_three_lines_and_a_comment(render: Render) -> None:
    live, candidate = (
        render(TEMPLATES / "nginx.conf.j2", "backend-server", orch_candidate=name).splitlines()
        for name in ("", "backend")
    )
    only_live = [line.strip() for line in live if line not in candidate]
    only_candidate = [line.strip() for line in candidate if line not in live and not line.startswith("#")]
    assert only_live == [
        "pid /run/nginx.pid;",
        "include /etc/nginx/orch/backend-upstream.conf;",
        "listen 80 default_server;",
    ]
    assert only_candidate == [
        "pid /run/consul-template/test.pid;",
        "include /run/consul-template/backend-upstream.conf;",
        "listen unix:/run/consul-template/test.sock default_server;",
    ]


def test_a_local_proxy_is_tested_with_what_differs_in_three_lines_and_a_comment(render: Render) -> None:
    live, candidate = (
        render(TEMPLATES / "proxy.conf.j2", "frontend-server", orch_proxy="database", orch_candidate=name).splitlines()
        for name in ("", "database")
    )
    assert [line.strip() for line in live if line not in candidate] == [
        "pid /run/orch-proxy-database/nginx.pid;",
        "include /etc/nginx/orch/stream.d/database-upstream.conf;",
        "listen 127.0.0.1:3306 so_keepalive=10s:5s:3;",
    ]
    assert [line.strip() for line in candidate if line not in live and not line.startswith("#")] == [
        "pid /run/consul-template/test.pid;",
        "include /run/consul-template/database-stream.conf;",
        "listen unix:/run/consul-template/test.sock;",
    ]


def test_consul_template_renders_every_upstream_and_every_proxy_and_has_each_applied(render: Render) -> None:
    text = render(TEMPLATES / "consul-template.hcl.j2", "backend-server")
    assert re.findall(r'command = \["/usr/local/lib/orch/apply-upstream", (.*)\]', text) == [
        '"backend"',
        '"database", "proxy"',
        '"messaging", "proxy"',
    ]
    assert re.findall(r'destination = "(.*)"', text) == [
        "/run/consul-template/backend-upstream.conf",
        "/run/consul-template/database-stream.conf",
        "/run/consul-template/messaging-stream.conf",
    ]


def test_a_broker_without_a_majority_pauses(render: Render) -> None:
    settings = render(TEMPLATES / "rabbitmq.conf.j2", "database-server").splitlines()
    assert "cluster_partition_handling = pause_minority" in settings


def test_a_broker_and_a_database_leave_the_loopback_to_the_local_proxies(render: Render) -> None:
    broker = render(TEMPLATES / "rabbitmq.conf.j2", "database-server")
    assert re.findall(r"^listeners.*", broker, re.MULTILINE) == [
        "listeners.tcp = none",
        "listeners.ssl.default = 10.0.10.169:5671",
    ]
    assert my_cnf(render, "database-server")["bind_address"] == "10.0.10.169"


def peers(render: Render, vm: str) -> list[str]:
    """Return the nodes that a broker's settings name."""
    return re.findall(
        r"^cluster_formation\.classic_config\.nodes\.\d+ = (.*)$", render(TEMPLATES / "rabbitmq.conf.j2", vm), re.M
    )


def test_the_members_know_each_other_and_the_spare_knows_them(render: Render) -> None:
    members = [f"rabbit@{vm}" for vm in ("messaging-server", "frontend-server", "database-server")]
    assert peers(render, "database-server") == members
    assert peers(render, "backend-server") == [*members, "rabbit@backend-server"]


def test_the_policy_has_the_brokers_of_the_inventory_as_members_and_the_spare(render: Render) -> None:
    policy = Policy.model_validate(yaml.safe_load(render(TEMPLATES / "orch-config.yml.j2", "messaging-server")))
    cluster = policy.services["messaging"].cluster
    assert cluster is not None
    assert cluster.members == ("messaging-server", "frontend-server", "database-server")
    assert (cluster.spare, cluster.replace_after_s) == ("backend-server", 300.0)


@pytest.mark.parametrize(
    "path",
    [
        "nginx.conf.j2",
        "proxy.conf.j2",
        "upstream.conf.j2",
        "stream-upstream.conf.j2",
        "upstream.conf.ctmpl.j2",
        "consul-template.hcl.j2",
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_braces_are_balanced(render: Render, path: str, stream: bool) -> None:
    extra = {"orch_upstream": "backend", "orch_stream": stream, "orch_proxy": "database", "orch_candidate": ""}
    text = render(TEMPLATES / path, "frontend-server", **extra)
    bare = re.sub(r"#.*|\"[^\"]*\"", "", text)
    assert bare.count("{") == bare.count("}")


def test_the_upstream_before_the_first_assignment_points_home(render: Render) -> None:
    text = render(TEMPLATES / "upstream.conf.j2", "frontend-server", orch_upstream="backend")
    assert "server 10.0.0.22:3000;" in text
    text = render(TEMPLATES / "stream-upstream.conf.j2", "frontend-server", orch_upstream="database")
    assert "server 10.0.10.169:3306;" in text


class ApplyUpstream:
    """The script `apply-upstream` in a directory of its own, with stand-ins for nginx and systemctl."""

    def __init__(self, folder: Path, proxy: bool) -> None:
        self.folder = folder
        for name in ("run/consul-template", "etc/nginx/orch/test", "etc/nginx/orch/stream.d", "bin"):
            (folder / name).mkdir(parents=True)
        rendered, live, self.tested, self.words = (
            ("backend-stream.conf", "stream.d/backend-upstream.conf", "test/backend-proxy.conf", ["backend", "proxy"])
            if proxy
            else ("backend-upstream.conf", "backend-upstream.conf", "test/backend.conf", ["backend"])
        )
        self.unit = "orch-proxy@backend" if proxy else "nginx"
        self.rendered = folder / "run" / "consul-template" / rendered
        self.live = folder / "etc" / "nginx" / "orch" / live
        text = (TEMPLATES / "apply-upstream").read_text()
        for place in ("/run/consul-template", "/run/nginx.pid", "/run/orch-proxy-", "/etc/nginx"):
            text = text.replace(place, f"{folder}{place}")
        self.script = folder / "apply-upstream"
        self.script.write_text(text)
        self.accepts(True)
        (folder / "bin" / "systemctl").write_text("#!/bin/sh\necho inactive\n")
        (folder / "bin" / "systemctl").chmod(0o755)

    def accepts(self, does: bool) -> None:
        nginx = self.folder / "bin" / "nginx"
        nginx.write_text(
            f"#!/bin/sh\necho \"$@\" >{self.folder}/asked; echo '[emerg] nonsense' >&2; exit {0 if does else 1}\n"
        )
        nginx.chmod(0o755)

    def run(self) -> str:
        done = subprocess.run(
            ["sh", str(self.script), *self.words],
            env={**os.environ, "PATH": f"{self.folder}/bin:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=20,
        )
        assert done.returncode == 0
        return done.stderr


GOOD = "# epoch 2\nupstream backend {\n    server 10.0.0.21:3000;\n}\n"
LAST = "# epoch 1\nupstream backend {\n    server 10.0.0.22:3000;\n}\n"


@pytest.fixture(params=["upstream", "proxy"])
def upstream(tmp_path: Path, request: pytest.FixtureRequest) -> ApplyUpstream:
    script = ApplyUpstream(tmp_path, proxy=request.param == "proxy")
    script.live.write_text(LAST)
    return script


def test_a_good_upstream_replaces_the_live_one(upstream: ApplyUpstream) -> None:
    upstream.rendered.write_text(GOOD)
    assert f"endpoints replaced, {upstream.unit} does not run here" in upstream.run()
    assert upstream.live.read_text() == GOOD
    asked = (upstream.folder / "asked").read_text().split()
    assert asked == ["-q", "-t", "-c", f"{upstream.folder}/etc/nginx/orch/{upstream.tested}"]


@pytest.mark.parametrize("text", ["", "# unusable: the key is absent or empty\n"])
def test_with_nothing_to_render_the_last_good_upstream_stays(upstream: ApplyUpstream, text: str) -> None:
    upstream.rendered.write_text(text)
    assert "the last good endpoints stay" in upstream.run()
    assert upstream.live.read_text() == LAST


def test_what_nginx_refuses_is_reported_and_not_taken(upstream: ApplyUpstream) -> None:
    upstream.accepts(False)
    upstream.rendered.write_text(GOOD)
    assert "nginx refuses the new endpoints: [emerg] nonsense" in upstream.run()
    assert upstream.live.read_text() == LAST


def test_an_equal_upstream_is_no_event(upstream: ApplyUpstream) -> None:
    upstream.accepts(False)
    upstream.rendered.write_text(LAST)
    assert upstream.run() == ""


@pytest.mark.parametrize(("threshold", "status"), [("1000000", 0), ("-1", 1)])
def test_the_check_of_load_says_a_sentence_and_warns_above_the_threshold(threshold: str, status: int) -> None:
    script = CHECKOUT / "consul" / "checks" / "check-load"
    done = subprocess.run([str(script), threshold], capture_output=True, text=True, timeout=10)
    assert (status, "") == (done.returncode, done.stderr)
    assert re.fullmatch(
        r"[\d.]+ per core in the last minute \([\d.]+ on \d+ cores\); warning above [-\d.e+]+\n", done.stdout
    )
