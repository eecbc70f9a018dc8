"""A small policy and the raw answers of Consul to build views from."""

from __future__ import annotations

from orchestrator.domain import keys
from orchestrator.domain.policy import Policy
from orchestrator.domain.records import Record
from orchestrator.store.port import Check, KvPair

VMS = ("backend-server", "messaging-server")
POLICY = Policy.model_validate(
    {
        "vms": {
            "backend-server": {"address": "10.0.0.22"},
            "messaging-server": {"address": "10.0.0.21", "roles": ["controller", "worker"]},
        },
        "services": {
            "backend": {
                "order": ["backend-server", "messaging-server"],
                "unit": "node-app",
                "port": 3000,
                "check": {"kind": "http"},
                "activate": "activate_backend.yml",
                "deactivate": "deactivate_backend.yml",
            }
        },
    }
)


def pair(key: str, value: Record | bytes, index: int = 7, session: str | None = None) -> KvPair:
    """Return a key as Consul would."""
    return KvPair(key, value if isinstance(value, bytes) else value.to_json().encode(), index, session)


def node_check(vm: str, check_id: str, status: str = "passing", output: str = "") -> Check:
    """Return a check of the VM itself."""
    return Check(vm, check_id, status, output)


def instance_check(vm: str, kind: str, status: str, output: str = "", service: str = "backend") -> Check:
    """Return one of the two checks of an instance."""
    check_id = keys.probe_check_id(service) if kind == "probe" else keys.unit_check_id(service)
    return Check(vm, check_id, status, output, keys.instance_service_id(service))
