"""Every secret is made anew while the fleet serves, and the deployment after it finds nothing left to do."""

from __future__ import annotations

import re
import time
from pathlib import Path

from deploy.machines import deployment
from deploy.machines.lab import Lab
from deploy.machines.tools import find_tools
from deploy.trials.accidents import leader_of
from deploy.trials.books import unlike_each_other, unlike_the_ledger
from deploy.trials.status import fleet_status, settle, wait_until
from tests.lab.fleet import (
    BROKERS,
    HOME,
    SECOND,
    URL,
    epochs,
    ledger,
    orch,
    traffic,
    wait_client,
    wait_served_by,
    wait_written,
)

# The certificates' authority would have to be trusted everywhere first; by the management token deployments come in.
STAYS = ("tls_", "consul_management")
FORMER_IN = """
import sys, pymysql
try:
    pymysql.connect(host="127.0.0.1", user="orch_app", password=sys.stdin.read(), ssl_ca="/etc/orch/tls/ca.pem")
except pymysql.err.OperationalError as refused:
    print(refused.args[0])
"""


def deploy(lab: Lab, playbook: str) -> None:
    """Run it as an operator would, but for the policy: the tests' own is in force."""
    deployment.deploy(lab.places, find_tools(lab.say), lab.say, playbook, orch_skip_config=True)


def changed(lab: Lab) -> dict[str, int]:
    """Return how many tasks of the last play changed something on each VM."""
    recap = lab.places.deploy_log.read_text().rpartition("PLAY RECAP")[2]
    return {vm: int(count) for vm, count in re.findall(r"^(\S+)\s*: ok=\d+\s+changed=(\d+)", recap, re.M)}


def takes(lab: Lab, user: str, password: str) -> bool:
    """Say whether the brokers let the user in by this password."""
    words = ["rabbitmqctl", "--quiet", "authenticate_user", user]
    return lab.run(BROKERS[0], words, text_input=f"{password}\n", check=False, timeout_s=30).returncode == 0


def test_every_secret_is_made_anew_while_the_fleet_serves(fleet: Lab, tmp_path: Path) -> None:
    former, before = fleet.secrets(), epochs(fleet)
    with ledger(fleet, tmp_path) as writers, traffic(fleet, URL["frontend"], tmp_path) as client:
        deploy(fleet, "rotate_secrets.yml")
        wait_written(writers, time.time())
        wait_client(client, time.time())
        failed = [sample for sample in [*client.samples(), *writers.samples()] if not sample.ok]
        assert failed == []
        assert epochs(fleet) == before, "nothing moved"
        new = fleet.secrets()
        kept = {name for name in former if new[name] == former[name]}
        assert kept == {name for name in former if name.startswith(STAYS)}

        # The former ones let nobody in, the new ones do.
        assert takes(fleet, "orch_worker", new["amqp_worker_password"])
        assert not takes(fleet, "orch_worker", former["amqp_worker_password"])
        python = ["/opt/orch/venv/bin/python", "-c", FORMER_IN]
        told = fleet.run(HOME["backend"], python, text_input=former["app_database_password"], timeout_s=20).stdout
        assert told == "1045\n"
        words = ["consul", "kv", "get", "-token-file=/dev/stdin", "orch/config"]
        refused = fleet.run(BROKERS[0], words, text_input=former["consul_operator"], check=False, timeout_s=20)
        assert refused.returncode != 0
        assert "403" in refused.stderr

        # Everything that connects anew does so with the new ones: the application, both databases, a broker.
        orch(fleet, "failover", "database", "--wait")
        wait_served_by(fleet, "database", SECOND["database"])
        fleet.run(HOME["database"], ["systemctl", "restart", "rabbitmq-server"], timeout_s=120)
        wait_until("the fleet is whole", lambda: bool(fleet_status(fleet).get("healthy")), 60, 0.5)
        orch(fleet, "failover", "database", "--to", HOME["database"], "--wait")
        wait_written(writers, time.time())
        failed = [sample for sample in [*client.samples(), *writers.samples()] if not sample.ok]
    settle(fleet)
    assert failed == []
    assert unlike_the_ledger(fleet, writers) == []
    assert unlike_each_other(fleet, (HOME["database"], SECOND["database"]), writers) == []

    # What the former tokens registered with Consul's agents is heard of as before.
    fleet.fault("kill", HOME["backend"], "backend")
    wait_served_by(fleet, "backend", SECOND["backend"])
    fleet.mend()
    killed = leader_of(fleet)
    fleet.fault("kill", killed, "orch-controller")
    wait_until("the other controller leads", lambda: fleet_status(fleet).get("leader") not in (None, killed), 60, 0.5)
    fleet.mend()
    settle(fleet)

    deploy(fleet, deployment.SITE)
    assert changed(fleet) == dict.fromkeys(sorted(set(HOME.values())), 0)
