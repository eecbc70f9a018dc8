"""PURE: what Consul and the brokers know -> findings.

In: the view that the leader decides on, every check, the queues. Out: findings.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from orchestrator.doctor.facts import Asked, QueueFacts
from orchestrator.doctor.findings import Finding, error, unknown, warning
from orchestrator.domain import keys
from orchestrator.domain.decision import Diagnosis
from orchestrator.domain.policy import Policy
from orchestrator.domain.sentence import one_line, short_digest
from orchestrator.domain.view import Kept, Reach, ServiceView, View
from orchestrator.store.port import Check

MAX_WAITING = 20
SHOWN = 160


def judge_checks(checks: Iterable[Check]) -> Iterator[Finding]:
    """Judge Consul's health checks."""
    for check in checks:
        # Whether gossip reaches a VM the view tells, also of one that Consul has struck off.
        if check.status == "passing" or check.check_id == keys.SERF_HEALTH:
            continue
        said = f": {one_line(check.output)[:SHOWN]}" if check.output else ""
        what = f"the check {check.check_id} is {check.status}{said}"
        if check.check_id == keys.LOAD_CHECK:
            yield warning(check.node, what, "see what it is busy with (`top` there).")
        elif check.status == "critical":
            yield error(check.node, what, _look_at(check))
        else:
            yield warning(check.node, what, _look_at(check))


def _look_at(check: Check) -> str:
    if check.check_id.endswith(":alive"):
        return f"`journalctl -u {check.service_id} -n 50` there; `systemctl restart {check.service_id}`."
    if check.service_id == keys.BROKER_SERVICE:
        return "`systemctl status rabbitmq-server` there, `rabbitmqctl cluster_status`."
    return f"`orch why {check.service_id.removeprefix('orch-')}`." if check.service_id else "look at it in Consul's UI."


def judge_view(view: View, policy: Policy, leader: str | None, diagnoses: Iterable[Diagnosis]) -> Iterator[Finding]:
    """Judge what stands in KV."""
    if leader is None:
        yield error("fleet", "no controller leads", "`systemctl status orch-controller` on the controllers' VMs.")
    if view.paused is not None:
        why = f": {view.paused.reason}" if view.paused.reason else ""
        yield warning("fleet", f"automation is paused by {view.paused.by}{why}", "`orch resume` ends it.")
    for vm, seen in view.vms.items():
        if seen.reach is Reach.DOWN:
            yield error(vm, "gossip does not reach it", "see whether it runs and its network works; `consul members`.")
        if seen.maintenance is not None:
            yield warning(vm, f"it is in maintenance ({seen.maintenance.by})", f"`orch maintenance off {vm}` ends it.")
    for bad in view.unreadable:
        yield error(
            "fleet", f"{bad.key} cannot be read: {bad.problem}", f"`consul kv get {bad.key}`; mend or delete it."
        )
    for found in diagnoses:
        if found.code != "fine":
            yield warning(found.service or "fleet", one_line(found.sentence).rstrip("."), _why(found.service))
    for name, service in view.services.items():
        yield from _service(name, service, policy)


def _why(service: str | None) -> str:
    return f"`orch why {service}` tells how it came." if service else "`orch plan` tells what is done about it."


def _service(name: str, seen: ServiceView, policy: Policy) -> Iterator[Finding]:
    if not isinstance(seen.assignment, Kept):
        why = seen.assignment.problem if seen.assignment is not None else "it has none yet"
        yield error(name, f"its assignment cannot be read: {why}", "`orch plan` tells what is done about it.")
        return
    if not seen.is_served:
        yield error(name, "it is not served", f"`orch why {name}`.")
    if policy.services[name].replication is not None:
        yield from _copies(name, seen, policy)


def _copies(name: str, seen: ServiceView, policy: Policy) -> Iterator[Finding]:
    if not isinstance(seen.sync, Kept):
        yield unknown(name, "which copies are whole is not recorded", f"`orch why {name}`.")
        return
    for vm in policy.services[name].order:
        if vm not in seen.sync.value.complete:
            instance = seen.instances.get(vm)
            said = f" ({one_line(instance.output)[:SHOWN]})" if instance and instance.output else ""
            wrong = f"the copy on {vm} is not in sync{said}, so a failure of the other one would stop the service"
            yield error(
                name, wrong, f"`orch why {name}`; `SHOW SLAVE STATUS` there; `orch clone {name}` as a last means."
            )


def judge_playbooks(asked: Mapping[str, Asked], view: View, policy: Policy) -> Iterator[Finding]:
    """Judge whether each worker has the playbooks that commands are decided for."""
    if view.playbooks is None:
        if view.release is None:
            yield warning("fleet", "no playbooks were released, so workers run whichever they have", "run site.yml.")
        return
    for vm, answer in asked.items():
        if "worker" not in policy.vms[vm].roles or answer.facts is None:
            continue
        has = answer.facts.playbooks
        are = short_digest(has) if has else "not to be read"
        what = f"its playbooks are {are}, released are {short_digest(view.playbooks)}"
        todo = "`orch playbooks sync` on a VM that has them (`orch playbooks status`), or run site.yml."
        if view.playbooks not in answer.facts.releases:
            yield error(vm, f"{what}: its worker refuses commands", todo)
        elif has != view.playbooks:
            yield warning(vm, f"{what}: commands are run with the released ones, plays by hand are not", todo)


def judge_queues(queues: QueueFacts) -> Iterator[Finding]:
    """Judge the queue of commands and its dead letters."""
    if queues.waiting is None or queues.dead is None:
        yield unknown("queue", f"no broker tells: {queues.problem}", "`rabbitmqctl cluster_status` on a broker.")
        return
    if queues.waiting > MAX_WAITING:
        wrong = f"{queues.waiting} commands wait in failover_commands"
        yield warning("queue", wrong, "`systemctl status orch-worker` on the workers' VMs; `orch commands list`.")
    if queues.dead:
        yield warning(
            "queue",
            f"{queues.dead} message(s) in failover_commands.dead that no worker could read",
            "the reason is in the journal of orch-worker; read them with `rabbitmqadmin get`, then "
            "`rabbitmqctl purge_queue failover_commands.dead -p orch`.",
        )
