"""What the daemons of this VM need to start: `/etc/orch/orch.json`, validated.

In: the file (another one where ORCH_SETTINGS names it). Out: a frozen `LocalSettings`, or `SettingsError` whose
sentence says which file and field is wrong. Holds no secret, only the names of the files that do.
"""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orchestrator.domain.sentence import one_line

DEFAULT_PATH = Path("/etc/orch/orch.json")
PATH_VARIABLE = "ORCH_SETTINGS"
DEFAULT_TEMPLATES = Path("/opt/orch/templates")


class SettingsError(Exception):
    """The settings cannot be used; the message is one sentence for the operator."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ConsulSettings(_Frozen):
    """The local Consul agent."""

    host: str = "127.0.0.1"
    port: int = Field(default=8500, ge=1, le=65535)
    token_dir: Path | None = None
    """Where the ACL tokens are, a file for each daemon and one for operators; None: Consul has no ACLs."""


class AmqpAccount(_Frozen):
    """Whom a broker knows one of our daemons as."""

    user: str
    password_file: Path


class AmqpSettings(_Frozen):
    """The brokers, each to be tried in turn; by TLS only, and only one whose certificate is good for its address."""

    hosts: tuple[str, ...] = Field(min_length=1)
    port: int = Field(default=5671, ge=1, le=65535)
    ca_file: Path = Path("/etc/orch/tls/ca.pem")
    vhost: str = "orch"
    controller: AmqpAccount = AmqpAccount(
        user="orch_controller", password_file=Path("/etc/orch/amqp/controller_password")
    )
    worker: AmqpAccount = AmqpAccount(user="orch_worker", password_file=Path("/etc/orch/amqp/worker_password"))
    requesters: tuple[str, ...] = ("orch_operator",)
    """Users whose messages may ask for something; those that announce a command must come from the controller's."""


class HealthPorts(_Frozen):
    """Where each daemon answers `/health` on the loopback."""

    controller: int = Field(default=9701, ge=0, le=65535)
    worker: int = Field(default=9702, ge=0, le=65535)
    guard: int = Field(default=9703, ge=0, le=65535)


class DatabaseSettings(_Frozen):
    """The replicated database server of this VM, where the VM is in the order of one."""

    socket: Path = Path("/run/mysqld/mysqld.sock")
    datadir: Path = Path("/var/lib/mysql")
    """Where its data, its binlog and what it has received are; full is full for all three."""
    user: str = "orch_guard"
    """The guard's own account, over the socket only."""
    password_file: Path | None = Path("/etc/orch/database/guard_password")
    """None: it is let in by its uid."""
    ca_file: Path = Path("/etc/orch/tls/ca.pem")
    """Who has signed the certificates of the other servers, each for its address. Read by this server, too."""
    port: int = Field(default=3306, ge=1, le=65535)
    """The port that every server of the service listens on, for replication too."""
    replication_user: str = "orch_replication"
    replication_password_file: Path = Path("/etc/orch/replication_password")


class BackupSettings(_Frozen):
    """Where this VM keeps backups, and how many of each kind."""

    directory: Path = Path("/var/backups/orch")
    keep: int = Field(default=7, ge=1)
    after: tuple[str, ...] = ()
    """A program and its arguments, run with the folder of each new backup: to carry it off the VM."""
    max_age_h: float = Field(default=50.0, gt=0)
    """Hours after which the doctor misses a newer one."""


class LocalSettings(_Frozen):
    """The whole file."""

    vm: str = Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")
    consul: ConsulSettings = ConsulSettings()
    amqp: AmqpSettings
    ansible_dir: Path = Path("/opt/orch/plays/ansible")
    """Of the current playbooks; `execute.releases` finds the others beside them."""
    templates_dir: Path = DEFAULT_TEMPLATES
    """Has the folder `notify`, on a controller's VM."""
    state_dir: Path = Path("/var/lib/orch")
    ssh_key_file: Path = Path("/etc/orch/ssh/id_ed25519")
    health_ports: HealthPorts = HealthPorts()
    database: DatabaseSettings | None = None
    backups: BackupSettings = BackupSettings()

    def consul_token_file(self, whose: str) -> Path | None:
        """Return the file with a daemon's ACL token; None where Consul has no ACLs."""
        return self.consul.token_dir / whose if self.consul.token_dir else None


def settings_path() -> Path:
    """Return the file that counts on this VM."""
    return Path(os.environ.get(PATH_VARIABLE) or DEFAULT_PATH)


def load_settings(path: Path | None = None) -> LocalSettings:
    """Read and check the file; raises SettingsError."""
    path = path or settings_path()
    try:
        return LocalSettings.model_validate_json(path.read_bytes())
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(str(part) for part in each['loc']) or 'the file'}: {each['msg']}" for each in error.errors()
        )
        raise SettingsError(one_line(f"{path} is not valid: {wrong}")) from None


def read_secret(path: Path) -> str:
    """Read a file that holds one secret, without the newline at its end; raises SettingsError."""
    try:
        return path.read_text().rstrip("\r\n")
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror or error}") from error
