"""Nobody without a token reads or changes what orch decides on, on a VM or from the network."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor

from deploy.machines.lab import Lab
from deploy.machines.network import enter_network
from deploy.trials.status import WITNESS, fleet_status
from tests.lab.fleet import HOME, epochs, orch

CA = "/etc/orch/tls/ca.pem"
# The byte by which a server's caller says that it speaks RPC without TLS (agent/pool, RPCConsul).
PLAIN_RPC = b"\x00"


def test_without_a_token_nothing_is_read_or_written(fleet: Lab) -> None:
    before = epochs(fleet)
    nobody = ["runuser", "-u", "node-app", "--", "env", "-u", "CONSUL_HTTP_TOKEN_FILE"]
    for vm in HOME.values():
        for words in (("put", "orch/rotate/backend", "now"), ("get", "orch/config"), ("get", "-recurse", "orch/")):
            told = fleet.run(vm, [*nobody, "consul", "kv", *words], check=False)
            assert told.returncode != 0
            assert "Permission denied" in told.stderr
        told = fleet.run(vm, [*nobody, "orch", "status"], check=False)
        assert (told.returncode, "CONSUL_HTTP_TOKEN_FILE" in told.stderr) == (3, True), told.stderr
        secrets = fleet.run(vm, [*nobody, "sh", "-c", "cat /etc/orch/consul/*"], check=False)
        assert (secrets.stdout, secrets.returncode) == ("", 1)
    assert orch(fleet, "status").returncode == 0
    assert fleet_status(fleet)["healthy"]
    assert epochs(fleet) == before


def test_what_consul_says_to_the_network_is_encrypted_and_said_to_who_has_a_certificate(fleet: Lab) -> None:
    address = fleet.fleet.vm(WITNESS).address

    def get(url: str, *options: str) -> tuple[int, str]:
        done = fleet.run(WITNESS, ["curl", "-s", "-m", "5", *options, url], check=False)
        return done.returncode, done.stdout

    refused, unknown_authority = 7, 60
    # The firewall lets nobody else ask.
    assert get(f"http://{address}:8500/v1/status/leader")[0] == refused
    assert get(f"https://{address}:8501/v1/status/leader")[0] == unknown_authority
    assert ":8300" in get(f"https://{address}:8501/v1/status/leader", "--cacert", CA)[1]
    assert "Permission denied" in get(f"https://{address}:8501/v1/kv/orch/config", "--cacert", CA)[1]
    assert "encrypted = true" in fleet.run(WITNESS, ["consul", "info"]).stdout

    def answer_to_plain_rpc() -> bytes:
        enter_network(fleet.places.vm_namespace(HOME["backend"]))
        with socket.create_connection((address, 8300), timeout=5) as server:
            server.sendall(PLAIN_RPC)
            return server.recv(1)

    # The network belongs to a thread.
    with ThreadPoolExecutor(1) as caller:
        assert caller.submit(answer_to_plain_rpc).result() == b"", "the server waits for what comes next"
