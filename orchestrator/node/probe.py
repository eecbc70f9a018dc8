"""The guard's own quick probe of an instance, for the moments in which the agent's 1 s interval is too slow.

In: the service's check and the VM's address. Out: a `ProbeResult`. Asks what the agent's probe asks (an HTTP status
of 2xx, or a TCP connection), so that what passes here passes there.
"""

from __future__ import annotations

import http.client
import socket
import time

from orchestrator.domain.policy import ServicePolicy
from orchestrator.node.instance import probe_port
from orchestrator.node.situation import ProbeResult, ProbeState


def probe_instance(policy: ServicePolicy, address: str) -> ProbeResult:
    """Probe once, at most `timeout_s` long. Never raises."""
    port, check = probe_port(policy), policy.check
    try:
        if check.kind == "tcp":
            with socket.create_connection((address, port), timeout=check.timeout_s):
                return ProbeResult(ProbeState.OK, f"port {port} accepts connections", time.monotonic())
        status = _http_status(address, port, check.path, check.timeout_s)
    except (OSError, http.client.HTTPException) as error:
        return ProbeResult(ProbeState.FAILED, f"port {port}: {error}", time.monotonic())
    state = ProbeState.OK if 200 <= status < 300 else ProbeState.FAILED
    return ProbeResult(state, f"HTTP {status} from {check.path} on port {port}", time.monotonic())


def _http_status(address: str, port: int, path: str, timeout_s: float) -> int:
    connection = http.client.HTTPConnection(address, port, timeout=timeout_s)
    try:
        connection.request("GET", path, headers={"User-Agent": "orch-guard", "Connection": "close"})
        return connection.getresponse().status
    finally:
        connection.close()
