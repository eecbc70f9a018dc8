"""What a verb needs of the world: Consul, the clock, who asks, how to print. Tests hand in another one.

One `App` per invocation, kept in click's context. Verbs get it by `@click.pass_obj`.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import secrets
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from orchestrator.cli.exits import Exit, Stop

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from orchestrator.doctor.facts import Asked, Question, QueueFacts
    from orchestrator.domain.decision import Memory, Outcome
    from orchestrator.domain.policy import Policy
    from orchestrator.domain.view import View
    from orchestrator.settings import AmqpSettings, LocalSettings
    from orchestrator.store.port import Port

    Decide = Callable[[View, Memory, Policy, float], Outcome]

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_SETTINGS_FILE = Path("/etc/orch/orch.json")
DEFAULT_CONSUL = "127.0.0.1:8500"
# In token_dir: the operator's, which root may read; a daemon's account looks around with the daemon's own.
TOKENS_ON_A_VM = ("operator", "controller", "worker")
OWN_TOKEN = Path("orch/consul-token")
# Two tries at a read and the question for a leader must fit into the 4 s after which the CLI has to have said its
# sentence.
READ_TIMEOUT_S = 1.2


def _open_consul(host: str, port: int, token: str | None) -> Port:
    from orchestrator.store.consul_port import ConsulPort

    return ConsulPort(host, port, token=token, timeout_s=READ_TIMEOUT_S)


def _real_decide(view: View, memory: Memory, policy: Policy, now: float) -> Outcome:
    from orchestrator.decide import decide

    return decide(view, memory, policy, now)


def _ask_vms(settings: LocalSettings, questions: Mapping[str, Question]) -> Iterator[tuple[str, Asked]]:
    from orchestrator.doctor.ask import ask_vms

    return ask_vms(settings, questions)


def _ask_queues(amqp: AmqpSettings) -> QueueFacts:
    from orchestrator.doctor.queues import ask_queues

    return ask_queues(amqp)


def _who() -> str:
    user = os.environ.get("SUDO_USER") or getpass.getuser()
    return f"{user}@{socket.gethostname()}"


@dataclass
class App:
    """The world of one invocation. `consul` is `HOST:PORT`; empty means: as in the local settings."""

    open_port: Callable[[str, int, str | None], Port] = _open_consul
    decide: Decide = _real_decide
    ask_vms: Callable[[LocalSettings, Mapping[str, Question]], Iterator[tuple[str, Asked]]] = _ask_vms
    ask_queues: Callable[[AmqpSettings], QueueFacts] = _ask_queues
    now: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    who: Callable[[], str] = _who
    token: Callable[[], str] = field(default=lambda: secrets.token_hex(2))
    on_terminal: Callable[[], bool] = field(default=lambda: sys.stdout.isatty())
    settings_file: Path = DEFAULT_SETTINGS_FILE
    consul: str = ""
    as_json: bool = False
    _port: Port | None = None

    @property
    def consul_address(self) -> tuple[str, int]:
        """Host and port of the Consul agent to ask."""
        given = self.consul or self._consul_of_settings()
        host, _, port = given.rpartition(":")
        try:
            return (host.strip("[]") or "127.0.0.1", int(port))
        except ValueError:
            raise click.BadParameter(f"{given!r} is not HOST:PORT", param_hint="--consul") from None

    @property
    def port(self) -> Port:
        """Consul, opened at the first use."""
        if self._port is None:
            self._port = self.open_port(*self.consul_address, self._token())
        return self._port

    @property
    def console(self) -> Console:
        """Where text goes: coloured on a terminal, plain when piped."""
        from orchestrator.cli.render import console_for

        return console_for(on_terminal=self.on_terminal())

    def show(self, rendered: RenderableType) -> None:
        """Print what `render` made; piped, without the blanks that pad a table's last column."""
        if self.on_terminal():
            self.console.print(rendered)
            return
        from orchestrator.cli.render import as_plain_text

        click.echo(as_plain_text(rendered), nl=False)

    def local_settings(self) -> dict[str, Any]:
        """Read the local settings file as it is; empty where there is none (an operator's own machine)."""
        try:
            document = json.loads(self.settings_file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except PermissionError:
            return {}
        except OSError as error:
            said = (error.strerror or str(error)).lower()
            raise Stop(Exit.BROKEN_INPUT, f"{self.settings_file} cannot be read: {said}.") from None
        except ValueError as error:
            raise Stop(Exit.BROKEN_INPUT, f"{self.settings_file} is not JSON: {error}") from None
        return document if isinstance(document, dict) else {}

    def settings_of_a_vm(self, verb: str) -> LocalSettings:
        """Return the checked settings of this VM, for a verb that works on one; `Stop` where they cannot be used."""
        from orchestrator.settings import SettingsError, load_settings

        try:
            return load_settings(self.settings_file)
        except SettingsError as problem:
            raise Stop(Exit.BROKEN_INPUT, f"{problem}; `orch {verb}` is for the VMs of the fleet.") from None

    def _token(self) -> str | None:
        """Return the ACL token: the user's own, else the first on this VM that the user may read.

        None where there is none; where ACLs forbid what is asked then, Consul says so itself.
        """
        # As Consul's own tool: the file before the token itself.
        named = os.environ.get("CONSUL_HTTP_TOKEN_FILE")
        if named:
            try:
                return Path(named).read_text(encoding="ascii").strip()
            except (OSError, UnicodeDecodeError) as error:
                said = (isinstance(error, OSError) and error.strerror) or "it holds no token"
                raise Stop(
                    Exit.BROKEN_INPUT, f"{named}, which CONSUL_HTTP_TOKEN_FILE names, cannot be read: {said.lower()}."
                ) from None
        if "CONSUL_HTTP_TOKEN" in os.environ:
            return os.environ["CONSUL_HTTP_TOKEN"]
        folder = (self.local_settings().get("consul") or {}).get("token_dir")
        on_this_vm = [Path(folder, name) for name in TOKENS_ON_A_VM] if folder else []
        for path in (Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config", OWN_TOKEN), *on_this_vm):
            with contextlib.suppress(OSError, UnicodeDecodeError):
                return path.read_text(encoding="ascii").strip()
        return None

    def _consul_of_settings(self) -> str:
        consul = self.local_settings().get("consul") or {}
        host, _, port = DEFAULT_CONSUL.rpartition(":")
        return f"{consul.get('host', host)}:{consul.get('port', port)}"

    def say(self, text: str) -> None:
        """Print a line for people; nothing when the answer is JSON."""
        if not self.as_json:
            click.echo(text)

    def warn(self, text: str) -> None:
        """Print a line to stderr, whatever the answer's form."""
        click.echo(f"orch: {text}", err=True)

    def answer(self, document: Any) -> None:
        """Print the JSON answer."""
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))

    def answer_line(self, document: Any) -> None:
        """Print one JSON document of a stream, in one line."""
        click.echo(json.dumps(document, ensure_ascii=False))


def json_option(verb: F) -> F:
    """Let the verb take --json itself too (`orch status --json` as well as `orch --json status`)."""

    def keep(ctx: click.Context, _: click.Parameter, value: bool) -> None:
        if value:
            ctx.ensure_object(App).as_json = True

    option = click.option("--json", is_flag=True, expose_value=False, callback=keep, help="Answer in JSON.")
    return option(verb)
