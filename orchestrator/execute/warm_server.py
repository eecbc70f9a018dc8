"""The warm server: a process that has imported Ansible already and forks one child per play.

Started and owned by `warm.WarmServer` as `python -m orchestrator.execute.warm_server SOCKET`; asked by
`playbook_client`. Importing Ansible and priming its plugin tables takes most of a second, which a failover would
otherwise pay each time. Imports nothing of orch beyond this folder, to stay small.

It must never run a play under another configuration than the one asked for: Ansible reads ansible.cfg and
ANSIBLE_* when it is imported, so a request that differs in these is declined, and the client runs the plain
program. It must never outlive its worker (standard input is the lifeline: at its end everything is killed) and
never leave a play running whose client is gone.
"""

from __future__ import annotations

import gc
import importlib
import os
import random
import selectors
import signal
import socket
import struct
import sys
import traceback
import warnings
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

from orchestrator.execute.processes import die_with_parent, kill_tree

RECEIVE_TIMEOUT_S = 1.0
MAX_FRAME = 4 * 1024 * 1024
CRASHED = 250
READY = b"ready\n"
# Given per play, and read by Ansible only when the play uses them.
PER_PLAY_VARIABLES = frozenset({"ANSIBLE_CACHE_PLUGIN_CONNECTION"})
# Loaded ahead, by kind; () is all of them. Whatever else a play uses it loads itself, some milliseconds each.
# Never "vars": Ansible takes a filled table of these for one that it has made ready itself, and would then read no
# group_vars and no host_vars (ansible.vars.plugins, get_vars_from_path).
_PLUGINS: dict[str, tuple[str, ...]] = {
    "connection": ("ssh", "local"),
    "shell": ("sh",),
    "become": ("sudo",),
    # Not ansible-runner's own: it reads the play's environment when it is imported.
    "callback": ("default",),
    "cache": ("memory",),
    "inventory": (),
    "action": ("normal", "raw", "command", "shell", "copy", "template", "debug", "fail", "assert", "set_fact"),
    "strategy": ("linear",),
    "filter": (),
    "test": (),
}
_NOT_CLASSES = frozenset({"filter", "test"})


@dataclass(frozen=True)
class Play:
    """What a client asked for."""

    cwd: str
    argv: tuple[str, ...]
    env: dict[str, str]
    descriptors: tuple[int, ...]


class BadFrame(Exception):
    """The request could not be read."""


def parse_frame(body: bytes, descriptors: tuple[int, ...]) -> Play:
    """Read the body of a request; see `playbook_client.encode_play`."""
    fields = [os.fsdecode(field) for field in body.split(b"\0")[:-1]]
    try:
        count = int(fields[1])
        argv, variables = fields[2 : 2 + count], fields[2 + count :]
        env = dict(variable.split("=", 1) for variable in variables)
        return Play(cwd=fields[0], argv=tuple(argv), env=env, descriptors=descriptors)
    except (IndexError, ValueError) as error:
        raise BadFrame(f"not a request for a play: {error}") from error


def receive_play(connection: socket.socket) -> Play:
    """Receive one request with its three descriptors; raises BadFrame or OSError."""
    data, descriptors, _, _ = socket.recv_fds(connection, 65536, 3)
    try:
        if len(data) < 4 or len(descriptors) != 3:
            raise BadFrame("the request came without its length or its descriptors")
        length = struct.unpack("!I", data[:4])[0]
        if length > MAX_FRAME:
            raise BadFrame(f"the request is {length} bytes long")
        body = bytearray(data[4:])
        while len(body) < length:
            chunk = connection.recv(65536)
            if not chunk:
                raise BadFrame("the request ended early")
            body += chunk
        return parse_frame(bytes(body), tuple(descriptors))
    except BaseException:
        for descriptor in descriptors:
            os.close(descriptor)
        raise


def ansible_settings(env: dict[str, str] | os._Environ[str]) -> dict[str, str]:
    """Return the variables that Ansible may have read when it was imported."""
    return {
        name: value for name, value in env.items() if name.startswith("ANSIBLE_") and name not in PER_PLAY_VARIABLES
    }


def file_stamp(path: str | None) -> tuple[int, int, int] | None:
    """Return what changes when the file is replaced or edited; None where there is none."""
    try:
        status = os.stat(path or "")
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def load_ansible() -> None:
    """Import what a play needs and fill the plugin tables, as far as this version of Ansible allows.

    Only the import of the command itself is required. The rest is speed: where it fails the plays do it themselves.
    """
    importlib.import_module("ansible.cli.playbook")
    warnings.filterwarnings("ignore", message="AnsibleCollectionFinder has already been configured")
    for name in ("ansible.executor.process.worker", "ansible.executor.module_common"):
        with suppress(Exception):
            importlib.import_module(name)
    loaders = importlib.import_module("ansible.plugins.loader")
    with suppress(Exception):
        loaders.init_plugin_loader()
        importlib.import_module("ansible_collections.ansible.builtin")
    for kind, names in _PLUGINS.items():
        with suppress(Exception):
            load_plugins(getattr(loaders, f"{kind}_loader"), kind, names)


def load_plugins(loader: Any, kind: str, names: tuple[str, ...]) -> None:
    """Have the loader read the plugins and their documentation, in which their options stand."""
    for name in names:
        loader.get(name, class_only=True)
    if not names:
        for _ in loader.all() if kind in _NOT_CLASSES else loader.all(class_only=True):
            pass


def renew_locks() -> None:
    """Give the play locks of its own: older Ansible makes them at import, and a killed play would keep them."""
    with suppress(Exception):
        module = importlib.import_module("ansible.executor.action_write_locks")
        lock_type = importlib.import_module("multiprocessing").Lock
        module.action_write_locks = {name: lock_type() for name in module.action_write_locks}  # type: ignore[attr-defined]


def become_play(play: Play) -> None:
    """Turn this fresh child into what `ansible-playbook` would be: session, descriptors, environment, folder."""
    os.setsid()
    for number, descriptor in enumerate(play.descriptors):
        os.dup2(descriptor, number)
    os.closerange(3, max(play.descriptors) + 1)
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(play.env)
    os.chdir(play.cwd)
    random.seed()
    sys.argv = ["ansible-playbook", *play.argv]
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", buffering=1, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, encoding="utf-8", closefd=False)  # noqa: SIM115
    renew_locks()


def run_play(play: Play) -> NoReturn:
    """Run the play in this child and exit with its status, without the server's exit handlers."""
    status = CRASHED
    try:
        become_play(play)
        from ansible.cli.playbook import main

        main(sys.argv)
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


class Server:
    """One thread, one selector: the listener, the lifeline, the clients, the ends of children."""

    def __init__(self, listener: socket.socket, lifeline: int, config_path: str | None) -> None:
        self.listener = listener
        self.lifeline = lifeline
        self.config_path = config_path
        self.config_stamp = file_stamp(config_path)
        self.settings = ansible_settings(os.environ)
        self.plays: dict[int, socket.socket] = {}
        self.selector = selectors.DefaultSelector()
        self.ended_r, self.ended_w = os.pipe()
        os.set_blocking(self.ended_r, False)
        os.set_blocking(self.ended_w, False)

    def serve(self) -> None:
        """Serve until the lifeline ends; then kill every play."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        # Only the lifeline ends the server: a worker that is told to stop lets its plays finish first.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(self.ended_w)
        self.selector.register(self.listener, selectors.EVENT_READ, self.accept_client)
        self.selector.register(self.lifeline, selectors.EVENT_READ, None)
        self.selector.register(self.ended_r, selectors.EVENT_READ, self.reap_children)
        try:
            while True:
                for key, _ in self.selector.select():
                    if key.fd == self.lifeline:
                        if not os.read(self.lifeline, 4096):
                            return
                    else:
                        key.data()
        finally:
            for pid in list(self.plays):
                kill_tree(pid)

    def accept_client(self) -> None:
        """Take one request and start its play, or decline it."""
        connection, _ = self.listener.accept()
        connection.settimeout(RECEIVE_TIMEOUT_S)
        try:
            play = receive_play(connection)
        except (BadFrame, OSError) as error:
            print(f"warm server: {error}", file=sys.stderr, flush=True)
            connection.close()
            return
        problem = self.why_not(play)
        if problem:
            print(f"warm server: declined a play: {problem}", file=sys.stderr, flush=True)
            with suppress(OSError):
                connection.send(b"n")
            connection.close()
        else:
            self.start_play(play, connection)
        for descriptor in play.descriptors:
            os.close(descriptor)

    def why_not(self, play: Play) -> str:
        """Say why this server must not run the play; empty when it may."""
        asked = ansible_settings(play.env)
        if asked != self.settings:
            names = {name for name, _ in asked.items() ^ self.settings.items()}
            return f"it was asked for with other values of {', '.join(sorted(names))}"
        if file_stamp(self.config_path) != self.config_stamp:
            return f"{self.config_path} has changed since this server was started"
        return ""

    def start_play(self, play: Play, connection: socket.socket) -> None:
        """Fork the child of the play and watch its client."""
        server_pid = os.getpid()
        pid = os.fork()
        if pid == 0:
            die_with_parent(server_pid)
            run_play(play)
        self.plays[pid] = connection
        try:
            connection.send(b"y")
        except OSError:
            self.lose_client(pid)
            return
        self.selector.register(connection, selectors.EVENT_READ, lambda: self.lose_client(pid))

    def lose_client(self, pid: int) -> None:
        """The client is gone (or talks, which it must not): kill the play and all that it started."""
        kill_tree(pid)
        self.forget(pid)

    def reap_children(self) -> None:
        """Report the exit status of every ended child to its client."""
        with suppress(BlockingIOError):
            os.read(self.ended_r, 4096)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            connection = self.plays.get(pid)
            if connection is not None:
                with suppress(OSError):
                    connection.send(struct.pack("!i", exit_status(status)))
                self.forget(pid)

    def forget(self, pid: int) -> None:
        """Stop watching the play's client."""
        connection = self.plays.pop(pid)
        with suppress(KeyError):
            self.selector.unregister(connection)
        connection.close()


def exit_status(wait_status: int) -> int:
    """Return the exit status as a shell would say it."""
    code = os.waitstatus_to_exitcode(wait_status)
    return code if code >= 0 else 128 - code


def listen(path: str) -> socket.socket:
    """Return the listening socket at the path, which only this user may reach."""
    with suppress(FileNotFoundError):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(path)
    finally:
        os.umask(before)
    listener.listen(16)
    return listener


def main() -> None:
    """Load Ansible, then serve the socket named by the first argument until standard input ends."""
    path = sys.argv[1]
    stamp_path = os.environ.get("ANSIBLE_CONFIG")
    load_ansible()
    gc.collect()
    gc.freeze()
    server = Server(listen(path), 0, stamp_path)
    try:
        with suppress(BrokenPipeError):
            os.write(1, READY)
        server.serve()
    finally:
        with suppress(OSError):
            os.unlink(path)


if __name__ == "__main__":
    main()
