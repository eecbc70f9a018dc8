"""The fleet's policy: what `orch/config` holds, validated.

In: the parsed document (from YAML or JSON). Out: a deeply frozen `Policy`, or `pydantic.ValidationError`
whose messages say what is wrong and what would be accepted. Never reads a file or KV itself.
Times are in seconds unless the name says otherwise.
"""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from orchestrator.domain.sinks import SinkPolicy

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class VmPolicy(_Frozen):
    """One VM of the inventory."""

    address: str = Field(description="its IP address, literal: Consul, RabbitMQ and SSH know it by that")
    roles: tuple[Literal["controller", "worker"], ...] = Field(
        default=(), description="which daemons run there beside the guard; each role is taken by one VM at least"
    )

    @field_validator("address")
    @classmethod
    def _is_literal(cls, address: str) -> str:
        try:
            ip_address(address)
        except ValueError:
            raise ValueError(f"{address!r} is no IP address; it must be a literal one, not a name") from None
        return address


class CheckPolicy(_Frozen):
    """How the Consul agent on an instance's VM probes it."""

    kind: Literal["http", "tcp"] = Field(
        description="a GET that is answered with 2xx, or a connection that is accepted"
    )
    path: str = Field(default="/", description="what an http check asks for; begins with a slash")
    port: int | None = Field(default=None, ge=1, le=65535, description="where it asks; by default the service's port")
    interval_s: float = Field(default=1.0, ge=1.0, le=300, description="from one probe to the next (Consul's floor: 1)")
    timeout_s: float = Field(default=0.8, gt=0, le=60, description="when a probe has failed; at most interval_s")
    failures_before_critical: int = Field(default=2, ge=1, le=10, description="failed probes in a row that count")

    @model_validator(mode="after")
    def _timeout_fits_interval(self) -> CheckPolicy:
        if self.timeout_s > self.interval_s:
            raise ValueError(
                f"timeout_s ({self.timeout_s:g}) is longer than interval_s ({self.interval_s:g}): checks would "
                "overlap; make timeout_s at most interval_s"
            )
        return self

    @model_validator(mode="after")
    def _path_is_absolute(self) -> CheckPolicy:
        if self.kind == "http" and not self.path.startswith("/"):
            raise ValueError(f"path ({self.path!r}) does not begin with a slash; /{self.path} does")
        return self


class FrontDoorPolicy(_Frozen):
    """How clients find the active instance of a service that faces them."""

    kind: Literal["vip", "dns", "command"] = Field(
        description="an address that the guard takes, Consul DNS, or a command of the operator's"
    )
    address: str | None = Field(
        default=None, description="vip: a free IPv4 address of the VMs' segment; command: told to it, if given"
    )
    prefix: int = Field(default=32, ge=8, le=128, description="vip: length of the network's prefix, at most 32")
    interface: str = Field(default="eth0", description="vip: the interface that takes the address")
    command: tuple[str, ...] = Field(
        default=(), description="command: a program's whole path and its words; `take` or `drop` is added"
    )

    @model_validator(mode="after")
    def _has_what_its_kind_needs(self) -> FrontDoorPolicy:
        if self.kind == "vip":
            self._check_vip()
        if self.kind == "command" and not (self.command and self.command[0].startswith("/")):
            raise ValueError(
                "a front door of kind command needs a command: a list of words, the first of them the whole path of a "
                "program that takes `take` or `drop` as its last argument"
            )
        if self.kind != "command" and self.command:
            raise ValueError(f"a front door of kind {self.kind} has no use for a command; kind command has")
        if self.kind == "dns" and self.address:
            raise ValueError("a front door of kind dns has no address: clients ask Consul DNS for the active VM's")
        return self

    def _check_vip(self) -> None:
        if not self.address:
            raise ValueError("a front door of kind vip needs an address (IPv4), free and in the VMs' segment")
        try:
            address = IPv4Address(self.address)
        except ValueError:
            raise ValueError(f"a front door of kind vip needs an IPv4 address, and {self.address} is none") from None
        if address.is_loopback or address.is_multicast or address.is_unspecified:
            raise ValueError(f"a front door of kind vip needs an address of the VMs' segment, {self.address} is not")
        if self.prefix > 32:
            raise ValueError(f"a front door of kind vip needs a prefix of at most 32, not {self.prefix}")
        if not self.interface:
            raise ValueError("a front door of kind vip needs the name of an interface")


# What closing writes may take after a lease has run out, before anybody else can take the role lock.
CLOSING_S = 0.5


class ReplicationPolicy(_Frozen):
    """A service with data: one primary takes the writes, a standby replicates from it."""

    kind: Literal["mariadb"] = Field(description="the product")
    lease_s: float = Field(
        default=1.0,
        ge=0.5,
        le=10,
        description="writes are closed when the quorum has not confirmed the role lock so long",
    )
    standby_lost_after_s: float = Field(
        default=1.0,
        ge=0.2,
        le=60,
        description="a standby in sync that acknowledges nothing so long, while a commit waits, is recorded as lost;"
        " one that has ended its connection after a quarter of a second",
    )
    reclone: Literal["automatic", "on_request"] = Field(
        default="automatic",
        description="whether a copy that has diverged is replaced by itself or on an operator's word",
    )

    @property
    def lock_delay_s(self) -> float:
        """How long nobody can take the role lock after its session was lost: until its holder has closed writes."""
        return self.lease_s + CLOSING_S


class ClusterPolicy(_Frozen):
    """A service that is a cluster: its members run whoever is active, and a spare takes the place of one that is away.

    Clients are led to a VM of the service's order, each of which is a member; the spare is none, so never there.
    """

    kind: Literal["rabbitmq"] = Field(description="the product")
    members: tuple[Name, ...] = Field(
        min_length=3, description="VMs whose brokers form the cluster, an odd number: each queue has a replica on each"
    )
    spare: Name | None = Field(
        default=None, description="the VM that takes the place of a member that stays away; null: none does"
    )
    replace_after_s: float | None = Field(
        default=300.0,
        gt=0,
        le=86400,
        description="how long a member is away until the spare takes its place; null: it never does",
    )
    change: str = Field(
        pattern=r"^[A-Za-z0-9_.-]+\.ya?ml$", description="the play that has one VM join and another leave"
    )

    @model_validator(mode="after")
    def _keeps_a_majority(self) -> ClusterPolicy:
        if len(set(self.members)) != len(self.members):
            raise ValueError("a cluster names a VM twice among its members")
        if len(self.members) % 2 == 0:
            raise ValueError(
                f"a cluster of {len(self.members)} members survives no more than one of {len(self.members) - 1}: "
                "name an odd number"
            )
        if self.spare in self.members:
            raise ValueError(f"{self.spare} is a member of the cluster, so it cannot be its spare too")
        return self

    @property
    def majority(self) -> int:
        """How many members must run so that a queue can confirm."""
        return len(self.members) // 2 + 1

    def members_with(self, joining: str, leaving: str) -> tuple[str, ...]:
        """Return the policy's members with one VM in the place of another."""
        return tuple([joining if vm == leaving else vm for vm in self.members])


class ServicePolicy(_Frozen):
    """One service: where it may run and how it is checked, started and stopped."""

    order: tuple[Name, ...] = Field(min_length=1, description="VMs it may run on: home, then the secondaries")
    unit: str = Field(pattern=r"^[A-Za-z0-9:_.@-]+$", description="its systemd unit, the same on every VM")
    port: int = Field(ge=1, le=65535, description="where an instance listens, and where traffic is pointed")
    standby: Literal["cold", "hot"] = Field(
        default="cold", description="cold: stopped until it is needed; hot: running on every VM of the order"
    )
    check: CheckPolicy = Field(description="how an instance is probed")
    activate: str = Field(pattern=r"^[A-Za-z0-9_.-]+\.ya?ml$", description="the play that starts it")
    deactivate: str = Field(pattern=r"^[A-Za-z0-9_.-]+\.ya?ml$", description="the play that stops it")
    front_door: FrontDoorPolicy | None = Field(default=None, description="how clients find the active instance")
    replication: ReplicationPolicy | None = Field(
        default=None, description="how its data is copied; null: it has none that is its own"
    )
    cluster: ClusterPolicy | None = Field(
        default=None, description="the cluster that it is the way to; null: its instances know nothing of each other"
    )

    @model_validator(mode="after")
    def _replication_fits(self) -> ServicePolicy:
        if self.replication is None:
            return self
        if self.standby != "hot":
            raise ValueError("a service with replication has a hot standby, which replicates: set standby to hot")
        if len(self.order) != 2:
            raise ValueError(
                "a service with replication has an order of two VMs, the primary's and the standby's, "
                f"not of {len(self.order)}"
            )
        return self

    @model_validator(mode="after")
    def _order_is_of_members(self) -> ServicePolicy:
        strangers = [vm for vm in self.order if self.cluster is not None and vm not in self.cluster.members]
        if strangers:
            raise ValueError(
                f"clients would be led to {', '.join(strangers)}, no member of the cluster: name members in the order"
            )
        return self

    @property
    def home(self) -> str:
        """The first VM of the order."""
        return self.order[0]


class FailbackPolicy(_Frozen):
    """When a service returns to its designated VM by itself."""

    automatic: bool = Field(default=True, description="whether a service comes home by itself")
    grace_s: float = Field(
        default=60.0,
        ge=0,
        le=86400,
        description="how long its home instance must have been healthy without a break",
    )


class RotationPolicy(_Frozen):
    """Round-robin rotation of the designation."""

    enabled: bool = Field(default=True, description="whether services rotate by themselves")
    interval_hours: float = Field(
        default=24.0, gt=0, le=24 * 365, description="from one rotation of a service to the next"
    )
    exclude_services: tuple[Name, ...] = Field(default=(), description="services that take no part")


class FlappingPolicy(_Frozen):
    """After `max_failovers` within `window_s`, automatic moves of the service are held for `hold_s`."""

    max_failovers: int = Field(
        default=3, ge=1, le=100, description="failovers of a service within window_s that hold it"
    )
    window_s: float = Field(default=600.0, gt=0, description="how far back they are counted")
    hold_s: float = Field(default=1800.0, gt=0, description="how long it is held, unless `orch resume SERVICE` ends it")


class LoadPolicy(_Frozen):
    """Load per core above which a VM is passed over by rotation."""

    warning: float = Field(default=2.0, gt=0, description="load per core, mean of the last minute")


class DispatchPolicy(_Frozen):
    """How commands reach workers, how long they may take, how many traces are kept."""

    pickup_after_s: float = Field(
        default=0.3, ge=0, le=60, description="when workers take a command from KV that no message has brought"
    )
    play_timeout_s: float = Field(default=300.0, gt=0, le=86400, description="when a play that still runs is ended")
    max_attempts: int = Field(default=3, ge=1, le=20, description="how often a command is begun whose worker dies")
    activation_timeout_s: float = Field(
        default=30.0, gt=0, le=3600, description="when an instance that has not become healthy is given up"
    )
    keep_artefacts: int = Field(default=50, ge=1, le=10000, description="plays whose output a worker keeps")
    keep_history: int = Field(default=200, ge=1, le=10000, description="entries of the journal that are kept")


class Policy(_Frozen):
    """The whole document."""

    version: Literal[1] = Field(default=1, description="of this form of the document")
    vms: dict[Name, VmPolicy] = Field(min_length=1, description="the fleet's VMs, by name")
    services: dict[Name, ServicePolicy] = Field(min_length=1, description="what runs on them, by name")
    failback: FailbackPolicy = Field(default=FailbackPolicy(), description="coming home")
    rotation: RotationPolicy = Field(default=RotationPolicy(), description="taking turns")
    flapping: FlappingPolicy = Field(default=FlappingPolicy(), description="failing over too often")
    load: LoadPolicy = Field(default=LoadPolicy(), description="VMs that are busy")
    dispatch: DispatchPolicy = Field(default=DispatchPolicy(), description="commands and their traces")
    notifications: tuple[SinkPolicy, ...] = Field(default=(), description="who is told of what the journal says")
    drain_s: float = Field(
        default=1.0, ge=0, le=300, description="how long the previous active goes on serving what is open after a move"
    )

    @model_validator(mode="after")
    def _names_are_known(self) -> Policy:
        for name, service in self.services.items():
            unknown = [vm for vm in service.order if vm not in self.vms]
            if unknown:
                raise ValueError(
                    f"service {name} names {', '.join(unknown)} in its order, but the inventory has only "
                    f"{', '.join(sorted(self.vms))}"
                )
            if len(set(service.order)) != len(service.order):
                raise ValueError(f"service {name} names a VM twice in its order")
            cluster = service.cluster
            named = (*cluster.members, *([cluster.spare] if cluster.spare else [])) if cluster else ()
            unknown = [vm for vm in named if vm not in self.vms]
            if unknown:
                raise ValueError(
                    f"service {name} names {', '.join(unknown)} in its cluster, but the inventory has only "
                    f"{', '.join(sorted(self.vms))}"
                )
        strangers = [name for name in self.rotation.exclude_services if name not in self.services]
        if strangers:
            raise ValueError(f"rotation.exclude_services names unknown services: {', '.join(strangers)}")
        return self

    @model_validator(mode="after")
    def _every_role_is_taken(self) -> Policy:
        taken = {role for vm in self.vms.values() for role in vm.roles}
        if "controller" not in taken:
            raise ValueError("no VM has the role controller: nothing would ever be decided")
        if "worker" not in taken:
            raise ValueError("no VM has the role worker: no play would ever be run")
        return self

    @model_validator(mode="after")
    def _addresses_are_apart(self) -> Policy:
        owners: dict[object, str] = {}
        for name, vm in self.vms.items():
            _claim(owners, vm.address, f"VM {name}")
        for name, service in self.services.items():
            door = service.front_door
            if door is not None and door.kind == "vip" and door.address:
                _claim(owners, door.address, f"the front door of service {name}")
        return self

    @model_validator(mode="after")
    def _units_are_apart(self) -> Policy:
        user_of: dict[tuple[str, str], str] = {}
        for name, service in self.services.items():
            for vm in service.order:
                other = user_of.setdefault((vm, service.unit), name)
                if other != name:
                    raise ValueError(
                        f"services {other} and {name} have one unit, {service.unit}, and {vm} in both their orders: "
                        "each would stop what the other one starts"
                    )
        return self

    @model_validator(mode="after")
    def _sinks_are_apart(self) -> Policy:
        names = [sink.name for sink in self.notifications]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise ValueError(f"notifications has two sinks of one name: {', '.join(doubled)}")
        return self

    @model_validator(mode="after")
    def _times_do_not_contradict(self) -> Policy:
        detect_s = max(s.check.interval_s * s.check.failures_before_critical for s in self.services.values())
        if self.failback.automatic and self.failback.grace_s < detect_s:
            raise ValueError(
                f"failback.grace_s ({self.failback.grace_s:g}) is shorter than the {detect_s:g} s that the slowest "
                "check needs to notice a failure: a service would come home to an instance that is failing"
            )
        if self.rotation.interval_hours * 3600 <= self.failback.grace_s:
            raise ValueError("rotation.interval_hours is not longer than failback.grace_s: they would fight")
        if self.dispatch.activation_timeout_s > self.dispatch.play_timeout_s:
            raise ValueError(
                "dispatch.activation_timeout_s is longer than dispatch.play_timeout_s: a play would be given up "
                "before its instance is"
            )
        if self.dispatch.pickup_after_s >= self.dispatch.activation_timeout_s:
            raise ValueError(
                f"dispatch.pickup_after_s ({self.dispatch.pickup_after_s:g}) is not shorter than "
                f"dispatch.activation_timeout_s ({self.dispatch.activation_timeout_s:g}): without a broker an instance "
                "would be given up before its command is picked up"
            )
        for name, service in self.services.items():
            after_s = service.cluster.replace_after_s if service.cluster else None
            if after_s is not None and after_s <= self.dispatch.activation_timeout_s:
                raise ValueError(
                    f"cluster.replace_after_s of {name} ({after_s:g}) is not longer than dispatch.activation_timeout_s "
                    f"({self.dispatch.activation_timeout_s:g}): a member would be replaced that is being started"
                )
        if self.flapping.hold_s < self.flapping.window_s / self.flapping.max_failovers:
            raise ValueError(
                "flapping.hold_s is shorter than window_s / max_failovers: the hold would end before it held anything"
            )
        return self


def _claim(owners: dict[object, str], address: str, owner: str) -> None:
    other = owners.setdefault(ip_address(address), owner)
    if other != owner:
        raise ValueError(f"{other} and {owner} have one address, {address}")
