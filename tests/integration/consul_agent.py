"""A real Consul agent for tests: one server on loopback, ports of its own, a data directory that goes with it."""

from __future__ import annotations

import base64
import ctypes
import json
import os
import secrets
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

from tests.integration.ports import free_port

NODE = "vm-1"
START_TIMEOUT_S = 40.0
PR_SET_PDEATHSIG = 1


class NoConsul(Exception):
    """There is no consul program to test with."""


def find_consul() -> Path:
    """Return the consul program: from PATH, else the one that the lab built into the cache."""
    on_path = shutil.which("consul")
    if on_path:
        return Path(on_path)
    cache = Path(
        os.environ.get("ORCH_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "orch"
    )
    # A hidden folder is a build that has not ended.
    built = sorted(cache.glob("tools/[!.]*/consul"), key=lambda path: path.stat().st_mtime)
    if not built:
        raise NoConsul(
            f"these tests need the program consul: it is neither in PATH nor built in {cache}/tools; "
            "install it, or let `./deploy/lab` or `make test` build it"
        )
    return built[-1]


class ConsulAgent:
    """One running agent. `stop()` ends it and leaves its data directory, so that `start()` goes on with it."""

    def __init__(self, directory: Path, *, program: Path | None = None, node: str = NODE, acls: str = "") -> None:
        """`acls`: "deny", as the deployment's agents have them, nobody having any right yet; then gossip is encrypted,
        too. "allow": whoever has no token may do what needs no more. Without, there are none."""
        self.node = node
        self._acls = acls
        self.http_port = 0
        self.gossip_port = 0
        self._directory = directory
        self.data = directory / "data"
        self._program = program or find_consul()
        self._process: subprocess.Popen[bytes] | None = None
        self._ports: tuple[int, ...] = ()

    def start(self) -> None:
        """Start the agent and return when it has a leader and knows its own node."""
        if not self._ports:
            self._ports = (free_port(), free_port(), free_port())
        self.http_port, self.gossip_port, server_port = self._ports
        config = {
            "server": True,
            "bootstrap_expect": 1,
            "node_name": self.node,
            "data_dir": str(self.data),
            "bind_addr": "127.0.0.1",
            "client_addr": "127.0.0.1",
            "log_level": "warn",
            "performance": {"raft_multiplier": 1},
            "check_update_interval": "1s",
            "disable_update_check": True,
            "ports": {
                "http": self.http_port,
                "serf_lan": self.gossip_port,
                "server": server_port,
                "serf_wan": -1,
                "dns": -1,
                "grpc": -1,
                "grpc_tls": -1,
            },
        }
        if self._acls:
            config["acl"] = {
                "enabled": True,
                "default_policy": self._acls,
                "enable_key_list_policy": self._acls == "deny",
            }
        if self._acls == "deny":
            config["encrypt"] = base64.b64encode(secrets.token_bytes(32)).decode()
        path = self._directory / "agent.json"
        path.write_text(json.dumps(config))
        log = (self._directory / "agent.log").open("ab")
        self._process = subprocess.Popen(
            [str(self._program), "agent", f"-config-file={path}"],
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=_die_with_parent,
        )
        self._wait_until_ready()

    def stop(self) -> None:
        """End the agent at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Let the agent accept connections and answer nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        # The signal is on its way: a thread may answer once more.
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)

    def thaw(self) -> None:
        """Let a frozen agent go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            assert self._process is not None
            if self._process.poll() is not None:
                break
            if self._acls and self._get("/v1/status/leader"):
                return
            if any(check["CheckID"] == "serfHealth" for check in self._get(f"/v1/health/node/{self.node}") or ()):
                return
            time.sleep(0.05)
        self.stop()
        log = (self._directory / "agent.log").read_text(errors="replace")
        raise RuntimeError(f"the Consul agent did not become ready; the end of its log:\n{log[-2000:]}")

    def _get(self, path: str) -> list[dict[str, str]] | None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}", timeout=2) as answer:
                found: list[dict[str, str]] = json.load(answer)
                return found
        except (urllib.error.URLError, OSError, ValueError):
            return None


def _die_with_parent() -> None:
    """Leave no agent behind when the test process is killed."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
