"""The names of everything that orch keeps in Consul: KV keys, check and service ids.

One place, so that a key is never spelled twice. The table in docs/architecture.md says who writes what.
"""

from __future__ import annotations

ROOT = "orch/"
LEADER = "orch/leader"
CONFIG = "orch/config"
SERVICES = "orch/services/"
ROTATE = "orch/rotate/"
REQUESTS = "orch/requests/"
COMMANDS = "orch/commands/"
HISTORY = "orch/history/"
NOTIFIED = "orch/notified/"
REFUSED = "orch/refused/"
"""What workers have refused of the messages that came, until the leader has journalled it."""
RELEASE = "orch/playbooks/release"
INSTALLED = "orch/playbooks/installed/"
PAUSED = "orch/paused"
MAINTENANCE = "orch/maintenance/"

SERF_HEALTH = "serfHealth"
LOAD_CHECK = "load"
PROBE_SUFFIX = ":probe"
BROKER_SERVICE = "rabbitmq"
"""The Consul service of every broker that is a member of the cluster, registered by the deployment or by a play."""


def assignment(service: str) -> str:
    """Return the key of the service's assignment (written by the leader)."""
    return f"{SERVICES}{service}/assignment"


def is_assignment(key: str) -> bool:
    """Say whether the key is a service's assignment."""
    return key.startswith(SERVICES) and key.endswith("/assignment")


def lock(service: str) -> str:
    """Return the key of the service's role lock (held by a guard's session)."""
    return f"{SERVICES}{service}/lock"


def endpoints(service: str) -> str:
    """Return the key that consul-template renders the service's upstream from."""
    return f"{SERVICES}{service}/endpoints"


def sync(service: str) -> str:
    """Return the key that says which copies of a replicated service's data are whole."""
    return f"{SERVICES}{service}/sync"


def members(service: str) -> str:
    """Return the key that says which VMs form the service's cluster."""
    return f"{SERVICES}{service}/members"


def rotation(service: str) -> str:
    """Return the key of the service's round-robin state."""
    return f"{SERVICES}{service}/rotation"


def rotate(service: str) -> str:
    """Return the key whose mere existence asks for a rotation now."""
    return f"{ROTATE}{service}"


def request(request_id: str) -> str:
    """Return the key of one request."""
    return f"{REQUESTS}{request_id}"


def command(command_id: str) -> str:
    """Return the key of one command."""
    return f"{COMMANDS}{command_id}"


def history(entry_id: str) -> str:
    """Return the key of one history entry."""
    return f"{HISTORY}{entry_id}"


def refused(entry_id: str) -> str:
    """Return the key under which a worker leaves a journal entry on refused messages to the leader."""
    return f"{REFUSED}{entry_id}"


def notified(sink: str) -> str:
    """Return the key that says up to where a sink has been told of the journal."""
    return f"{NOTIFIED}{sink}"


def installed(vm: str) -> str:
    """Return the key that says which playbooks the VM's worker has."""
    return f"{INSTALLED}{vm}"


def maintenance(vm: str) -> str:
    """Return the key whose existence excludes the VM from being a target."""
    return f"{MAINTENANCE}{vm}"


def instance_service_id(service: str) -> str:
    """Return the Consul service id under which a guard registers its instance of the service."""
    return f"orch-{service}"


def probe_check_id(service: str) -> str:
    """Return the id of the instance's check that the Consul agent runs itself."""
    return f"orch-{service}{PROBE_SUFFIX}"


def unit_check_id(service: str) -> str:
    """Return the id of the instance's check that the guard pushes when systemd reports a change."""
    return f"orch-{service}:unit"


def daemon_service_id(daemon: str) -> str:
    """Return the Consul service id of one of our daemons, as the deployment defines it."""
    return f"orch-{daemon}"


def daemon_check_id(daemon: str) -> str:
    """Return the id of the liveness check of one of our daemons (`controller`, `worker`, `guard`)."""
    return f"orch-{daemon}:alive"
