"""The database fails, moves and comes home under writes: nothing that was acknowledged is lost or doubled."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.machines.lab import Lab
from deploy.trials.books import (
    LocalWriter,
    Writers,
    active_database,
    left_unindexed,
    rows_on,
    unlike_each_other,
    unlike_the_ledger,
)
from deploy.trials.ledger import Term, accepted_by_two, losses
from deploy.trials.status import settle, wait_until, witness_of
from deploy.trials.timeline import kv_of
from tests.lab.fleet import (
    HOME,
    HOME_WITHIN_S,
    SECOND,
    answer,
    epochs,
    ledger,
    orch,
    reasons,
    service,
    wait_served_by,
    wait_whole,
    wait_written,
)

PRIMARY, STANDBY = HOME["database"], SECOND["database"]
BOTH = (PRIMARY, STANDBY)
ERRANT = "/var/lib/orch/errant"


def assert_nothing_lost(lab: Lab, *writings: Writers | LocalWriter) -> None:
    """On the settled fleet: all that was acknowledged is there once, in both copies alike."""
    assert unlike_the_ledger(lab, *writings) == []
    assert unlike_each_other(lab, BOTH, *writings) == []


@pytest.mark.parametrize("kind", ["kill", "cut", "poweroff", "freeze"])
def test_a_database_that_fails_is_written_elsewhere_comes_home_and_loses_nothing(
    fleet: Lab, tmp_path: Path, kind: str
) -> None:
    with ledger(fleet, tmp_path) as writers:
        fault = fleet.fault(kind, PRIMARY, "database" if kind == "kill" else None)
        wait_served_by(fleet, "database", STANDBY)
        wait_written(writers, time.time())
        assert unlike_the_ledger(fleet, writers) == []
        fleet.mend()
        wait_served_by(fleet, "database", PRIMARY, within_s=HOME_WITHIN_S)
        settle(fleet)
        wait_written(writers, time.time())
    assert_nothing_lost(fleet, writers)
    assert left_unindexed(fleet, writers) == []
    assert any(f"Moving database from {PRIMARY} to {STANDBY}" in reason for reason in reasons(fleet, fault.at))


def test_an_isolated_primary_acknowledges_nothing_after_the_promotion_and_what_only_it_has_is_saved_and_replaced(
    fleet: Lab, tmp_path: Path
) -> None:
    with (
        LocalWriter(fleet, PRIMARY, tmp_path / "old.jsonl") as old,
        LocalWriter(fleet, STANDBY, tmp_path / "new.jsonl") as new,
    ):
        wait_until("the primary acknowledges its own client", lambda: old.acknowledged_since(0.0) >= 20, 30)
        fault = fleet.fault("cut", PRIMARY)
        wait_served_by(fleet, "database", STANDBY)
        promoted_at = sync_record(fleet)["since"]
        wait_until("the standby takes writes", lambda: new.acknowledged_since(promoted_at) >= 20, 30)
        # Asked again and again after the promotion: that nothing was acknowledged is not for want of trying.
        wait_until(
            "the isolated primary was asked",
            lambda: sum(one.began > promoted_at for one in old.tries()) >= 20,
            60,
        )
        terms = [Term(PRIMARY, 0.0), Term(STANDBY, promoted_at)]
        assert accepted_by_two([*old.tries(), *new.tries()], terms) == []
        fleet.mend()
        wait_whole(fleet, *BOTH, within_s=HOME_WITHIN_S)
    wait_served_by(fleet, "database", PRIMARY, within_s=HOME_WITHIN_S)
    settle(fleet)
    assert_nothing_lost(fleet, old, new)
    assert_saved(fleet, [one.key for one in old.tries() if one.ended > fault.at and not one.is_acknowledged])


def record_of(lab: Lab) -> dict[str, Any]:
    """Return the record of the whole copies."""
    found: dict[str, Any] = kv_of(lab, witness_of(lab))["orch/services/database/sync"]
    return found


def sync_record(lab: Lab) -> dict[str, Any]:
    """Return the record of the whole copies; the one of a promotion is written before its first write is taken."""
    record = record_of(lab)
    assert record["primary"] == STANDBY, record
    return record


def assert_saved(lab: Lab, keys: list[str]) -> None:
    """Some of these were under way when their primary was cut off: it had them, and nobody else ever did."""
    words = [word for key in keys for word in ("-e", f"'{key}'")]
    found = lab.run(PRIMARY, ["grep", "-rlF", *words, ERRANT], check=False, timeout_s=20)
    assert found.stdout.strip(), f"none of {len(keys)} is in a file under {ERRANT}: {found.stderr}"


def test_without_its_standby_the_database_goes_on_alone_is_not_moved_and_the_standby_returns_in_sync(
    fleet: Lab, tmp_path: Path
) -> None:
    before = epochs(fleet)["database"]
    with ledger(fleet, tmp_path) as writers:
        fleet.fault("kill", STANDBY, "database")
        wait_whole(fleet, PRIMARY)
        wait_written(writers, time.time())
        refused = orch(fleet, "failover", "database", check=False)
        assert refused.returncode == 3
        assert STANDBY in refused.stdout + refused.stderr
        fleet.mend()
        wait_whole(fleet, *BOTH)
        settle(fleet)
        wait_written(writers, time.time())
    assert epochs(fleet)["database"] == before
    assert_nothing_lost(fleet, writers)


def test_a_primary_lost_while_its_copy_alone_is_whole_is_waited_for_and_nothing_is_lost(
    fleet: Lab, tmp_path: Path
) -> None:
    with ledger(fleet, tmp_path) as writers:
        fleet.fault("kill", STANDBY, "database")
        wait_whole(fleet, PRIMARY)
        wait_written(writers, time.time())
        fleet.fault("kill", PRIMARY, "database")
        fleet.mend(STANDBY)
        wait_until(
            "the standby is up again, behind, and refused",
            lambda: service(fleet, "database").get("instances", {}).get(STANDBY) == "healthy",
            30,
        )
        # Refused for what it lacks, or because the primary is just being started again where it is.
        assert orch(fleet, "failover", "database", "--to", STANDBY, check=False).returncode == 3
        assert service(fleet, "database")["whole_copies"] == [PRIMARY]
        assert active_database(fleet) == PRIMARY
        fleet.mend()
        settle(fleet)
        wait_written(writers, time.time())
    assert_nothing_lost(fleet, writers)


def test_a_server_that_hangs_is_replaced_and_nobody_has_to_help_it_home(fleet: Lab, tmp_path: Path) -> None:
    with ledger(fleet, tmp_path) as writers:
        began = time.time()
        fleet.run(PRIMARY, ["systemctl", "kill", "--signal=STOP", "mariadb"], timeout_s=20)
        wait_served_by(fleet, "database", STANDBY)
        wait_written(writers, time.time())
        wait_served_by(fleet, "database", PRIMARY, within_s=HOME_WITHIN_S)
        settle(fleet)
        wait_written(writers, time.time())
    assert_nothing_lost(fleet, writers)
    assert any("it does not answer" in reason for reason in reasons(fleet, began))


ON_A_SMALL_DISK = """
systemctl stop mariadb
mkdir -p /run/small-disk
mount -t tmpfs -o size=512m,mode=0755 tmpfs /run/small-disk
cp -a /var/lib/mysql/. /run/small-disk
chown mysql:mysql /run/small-disk
mount --bind /run/small-disk /var/lib/mysql
systemctl start mariadb
"""
AS_BEFORE = """
systemctl stop mariadb
umount /var/lib/mysql
find /var/lib/mysql -mindepth 1 -delete
rm -f /run/small-disk/filler
cp -a /run/small-disk/. /var/lib/mysql
umount /run/small-disk
systemctl --no-block start mariadb
"""
FULL = "the disk that holds /var/lib/mysql is full"


@contextlib.contextmanager
def small_disk(lab: Lab, vm: str) -> Iterator[Callable[[str], object]]:
    """Have the VM's copy on a small disk for the time of the block; yields what runs a script there."""

    def run(script: str) -> object:
        return lab.run(vm, ["sh", "-ec", script], timeout_s=60)

    run(ON_A_SMALL_DISK)
    try:
        yield run
    finally:
        run(AS_BEFORE)


def said_of(lab: Lab, vm: str) -> str:
    """Return what the checks of the database on the VM say."""
    return " ".join(check["output"] for check in answer(lab, "why", "database")["checks"] if check["vm"] == vm)


def test_a_full_disk_stops_no_writes_for_long_be_it_the_standby_s_or_the_primary_s(fleet: Lab, tmp_path: Path) -> None:
    fill, free = "! head -c 1G /dev/zero >/var/lib/mysql/filler", "rm /var/lib/mysql/filler"
    with small_disk(fleet, STANDBY) as run, ledger(fleet, tmp_path) as writers:
        wait_whole(fleet, *BOTH)
        run(fill)
        wait_whole(fleet, PRIMARY)
        wait_written(writers, time.time())
        wait_until("the standby says why", lambda: FULL in said_of(fleet, STANDBY), 30)
        run(free)
        wait_whole(fleet, *BOTH, within_s=HOME_WITHIN_S)
        orch(fleet, "failover", "database", "--wait")
        began = time.time()
        run(fill)
        wait_served_by(fleet, "database", PRIMARY)
        wait_written(writers, time.time())
        assert any(FULL in reason for reason in reasons(fleet, began))
        run(free)
        wait_served_by(fleet, "database", STANDBY, within_s=HOME_WITHIN_S)
        settle(fleet)
        orch(fleet, "failback", "database", "--wait")
        wait_whole(fleet, *BOTH)
        wait_written(writers, time.time())
    settle(fleet)
    assert_nothing_lost(fleet, writers)


def test_with_no_broker_at_all_a_database_that_fails_is_written_elsewhere_and_nothing_is_lost(
    fleet: Lab, tmp_path: Path
) -> None:
    with ledger(fleet, tmp_path, rate=5.0) as writers:
        for vm in fleet.fleet.members("brokers"):
            fleet.fault("stop", vm, "messaging")
        fleet.fault("kill", PRIMARY, "database")
        wait_served_by(fleet, "database", STANDBY)
        wait_written(writers, time.time())
        fleet.mend()
        settle(fleet)
        wait_written(writers, time.time())
    assert_nothing_lost(fleet, writers)
    assert left_unindexed(fleet, writers, within_s=60) == []


def test_on_an_operator_s_word_a_copy_that_lacks_writes_takes_over_and_only_those_are_lost(
    fleet: Lab, tmp_path: Path
) -> None:
    with LocalWriter(fleet, PRIMARY, tmp_path / "old.jsonl") as writer:
        wait_until("writes are acknowledged", lambda: writer.acknowledged_since(0.0) >= 20, 30)
        parted_at = time.time()
        fleet.fault("kill", STANDBY, "database")
        wait_whole(fleet, PRIMARY)
        alone_since = time.time()
        wait_until("the primary goes on alone", lambda: writer.acknowledged_since(alone_since) >= 20, 30)
        wait_until("it says how far it is", lambda: record_of(fleet).get("reported") is not None, 30)
        fleet.fault("poweroff", PRIMARY)
        fleet.mend(STANDBY)
    wait_until(
        "the standby is up again",
        lambda: service(fleet, "database").get("instances", {}).get(STANDBY) == "healthy",
        60,
    )
    refused = orch(fleet, "failover", "database", "--to", STANDBY, check=False)
    assert refused.returncode == 3
    told = orch(fleet, "failover", "database", "--to", STANDBY, "--accept-data-loss", "--wait")
    assert "may lack what was acknowledged since" in told.stdout
    assert f"transactions by the last report of {PRIMARY}" in told.stdout
    counted = re.search(r"lacks at least (\d+) transactions", told.stdout)
    assert counted is not None
    assert int(counted[1]) > 0
    wait_served_by(fleet, "database", STANDBY)
    found = losses(writer.tries(), rows_on(fleet, STANDBY, writer.prefix))
    began = {one.key: one.began for one in writer.tries()}
    assert len(found.lost) >= 20
    assert min(began[key] for key in found.lost) > parted_at - 1.0
    fleet.mend()
    wait_whole(fleet, *BOTH, within_s=HOME_WITHIN_S)
    settle(fleet)
    assert unlike_each_other(fleet, BOTH, writer) == []
    assert_saved(fleet, list(found.lost))


# Done by hand against every rule: the guard that would switch it on again stands still, and the standby hears nothing.
WAIT_FOR_NOBODY = """
systemctl kill --signal=STOP orch-guard.service
nft add table inet trial
nft 'add chain inet trial out { type filter hook output priority 0; }'
nft 'add rule inet trial out ip daddr $1 tcp sport 3306 drop'
mariadb -e 'SET GLOBAL rpl_semi_sync_master_enabled = OFF'
"""


def test_the_checker_finds_what_is_lost_when_the_primary_is_made_to_wait_for_nobody(fleet: Lab, tmp_path: Path) -> None:
    script = WAIT_FOR_NOBODY.replace("$1", fleet.fleet.vm(STANDBY).address)
    with LocalWriter(fleet, PRIMARY, tmp_path / "old.jsonl") as writer:
        wait_until("writes are acknowledged", lambda: writer.acknowledged_since(0.0) >= 20, 30)
        fleet.run(PRIMARY, ["sh", "-ec", script], timeout_s=20)
        alone_since = time.time()
        wait_until(
            "writes are acknowledged that nobody else has", lambda: writer.acknowledged_since(alone_since) >= 5, 10
        )
        fleet.fault("poweroff", PRIMARY)
    wait_served_by(fleet, "database", STANDBY)
    found = losses(writer.tries(), rows_on(fleet, STANDBY, writer.prefix))
    assert len(found.lost) >= 5
    assert unlike_the_ledger(fleet, writer) == found.troubles() != []
    fleet.mend()
    # The copy with what nobody else has is replaced: it does not come back as a second truth.
    wait_whole(fleet, *BOTH, within_s=HOME_WITHIN_S)
    settle(fleet)
    assert unlike_each_other(fleet, BOTH, writer) == []
