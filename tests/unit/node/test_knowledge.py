"""What a guard knows of the data of a replicated service, beside what its server says."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from orchestrator.domain import keys
from orchestrator.domain.policy import Policy
from orchestrator.domain.records import Endpoint, Endpoints, Sync
from orchestrator.node.knowledge import ASSIGNMENTS_FILE, Knowledge
from orchestrator.store.port import KvPair
from tests.simulation.world import policy_document
from tests.unit.node.build import assignment

HERE, OTHER = "database-server", "backend-server"
POLICY = Policy.model_validate(policy_document("cold", 5.0, 86400.0, lease_s=1.0))


def known(tmp_path: Path, *pairs: KvPair) -> Knowledge:
    knowledge = Knowledge(HERE, tmp_path)
    knowledge.policy = POLICY
    knowledge.kv.offer(1, pairs)
    return knowledge


def had_traffic(tmp_path: Path, *pairs: KvPair) -> bool:
    view = known(tmp_path, *pairs).view()
    return next(at for at in view.situations if at.service == "database").data.had_traffic


def assigned(active: str = HERE, epoch: int = 7) -> KvPair:
    record = assignment(active, epoch, HERE).with_(service="database")
    return KvPair(keys.assignment("database"), record.to_json().encode(), 3)


def pointed_at(vm: str = HERE, epoch: int = 7) -> KvPair:
    row = Endpoint(vm=vm, address=POLICY.vms[vm].address, port=3306)
    record = Endpoints(service="database", epoch=epoch, endpoints=(row,))
    return KvPair(keys.endpoints("database"), record.to_json().encode(), 4)


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ((assigned(), pointed_at()), True),
        ((assigned(),), False),
        ((assigned(epoch=8), pointed_at()), False),
        ((assigned(), pointed_at(OTHER)), False),
        ((assigned(OTHER), pointed_at(OTHER)), False),
        ((assigned(), KvPair(keys.endpoints("database"), b"{", 4)), False),
    ],
    ids=["here, at this epoch", "nowhere", "at the epoch before", "elsewhere", "rightly elsewhere", "unreadable"],
)
def test_a_vm_knows_that_it_was_ready_by_the_traffic_of_this_epoch(
    tmp_path: Path, pairs: tuple[KvPair, ...], expected: bool
) -> None:
    assert had_traffic(tmp_path, *pairs) is expected


def test_where_there_is_a_record_it_alone_counts(tmp_path: Path) -> None:
    record = Sync(service="database", primary=OTHER, epoch=7, complete=(OTHER,), since=1.0, reason="test")
    pair = KvPair(keys.sync("database"), record.to_json().encode(), 5)
    assert not had_traffic(tmp_path, assigned(), pointed_at(), pair)


def test_a_policy_in_yaml_is_in_force_for_the_guard_as_for_the_controllers(tmp_path: Path) -> None:
    document = yaml.safe_dump(policy_document("cold", 5.0, 86400.0, lease_s=1.0)).encode()
    knowledge = Knowledge(HERE, tmp_path)
    assert knowledge.take_policy(KvPair(keys.CONFIG, document, 7))
    assert knowledge.policy == POLICY
    # And it is what a guard finds that begins without Consul.
    assert Knowledge(HERE, tmp_path).policy == POLICY


def test_a_guard_begins_with_assignments_on_its_disk_that_are_none(tmp_path: Path) -> None:
    (tmp_path / ASSIGNMENTS_FILE).write_bytes(b"[" * 100_000)
    assert [each.assignment for each in known(tmp_path).view().situations] == [None]
