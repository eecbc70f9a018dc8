"""Backups of a real database server and of a real Consul: made, proved, and gone back to."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.backup.kept import Kind, Shelf
from orchestrator.backup.make import BackupFailed, Tools, carry_away, make_backup
from orchestrator.backup.restore import restore_consul
from orchestrator.settings import LocalSettings
from orchestrator.store.consul_port import ConsulPort
from orchestrator.store.port import AgentService, PushedSpec
from tests.integration.consul_agent import ConsulAgent, find_consul
from tests.integration.mariadb_server import Datadirs, MariaDb
from tests.integration.ports import free_port
from tests.integration.test_database_copy import (
    FOUNDING,
    SCRIPT,
    answer,
    insert,
    position,
    refusal,
    values,
    words_for,
)
from tests.integration.waiting import wait_for

AT = 1_700_000_000.0


def settings(folder: Path, consul_port: int = 8500, vm: str = "database-server") -> LocalSettings:
    return LocalSettings.model_validate(
        {
            "vm": vm,
            "amqp": {"hosts": ["127.0.0.1"]},
            "consul": {"host": "127.0.0.1", "port": consul_port},
            "backups": {"directory": str(folder / "kept"), "after": ["cp", "-r", "-t", str(folder)]},
        }
    )


@pytest.fixture
def server(datadirs: Datadirs) -> Iterator[MariaDb]:
    """A founded database with one row."""
    one = MariaDb(datadirs, 1, free_port())
    try:
        one.start()
        answer(one, "found", text=FOUNDING)
        insert(one, "before")
        yield one
    finally:
        one.remove()


def tools_for(server: MariaDb) -> Tools:
    return Tools(database_copy=(str(SCRIPT), *words_for(server)))


def test_the_database_goes_back_to_what_it_was_and_a_standby_with_later_writes_cannot_follow(
    server: MariaDb, datadirs: Datadirs
) -> None:
    # Not below pytest's own folder, through which the server's account may not go.
    kept = settings(server.here)
    made = make_backup(Kind.DATABASE, kept, AT, tools_for(server))
    assert (made.id, made.position) == ("database-20231114T221320Z", position(server))
    assert "a server was started from it and found no fault in" in made.proof
    shelf = Shelf(kept.backups.directory)
    assert shelf.backups() == (made,)
    assert made.size > 1_000_000
    insert(server, "after")

    standby = MariaDb(datadirs, 2, server.port)
    try:
        standby.start()
        standby.ask("SET GLOBAL gtid_slave_pos = ''")
        folder = ("--folder", str(shelf.content(made)))
        assert "goes on at" in answer(server, "take", *folder)["said"]  # type: ignore[operator]
        assert values(server) == ["before", "after"], "it serves until it is replaced"
        server.stop()
        old = Path(str(answer(server, "swap", "--keep-old")["old"]))
        assert old.is_dir()
        server.start()
        assert values(server) == ["before"]
        # None of the numbers that the time after the backup has used is used again.
        sequence = int(position(server).rpartition("-")[2])
        assert sequence > 1_000_000_000
        assert server.ask("SELECT @@global.read_only AS r")[0]["r"] == 1
        server.ask("SET GLOBAL read_only = 0")
        insert(server, "anew")
        assert position(server) == f"0-1-{sequence + 1}"
    finally:
        standby.remove()
    assert shelf.backups() == (made,), "it can be gone back to once more"


def test_a_backup_that_is_damaged_is_not_kept(server: MariaDb) -> None:
    table = server.here / "data" / "listings" / "t.ibd"
    server.ask("FLUSH TABLES listings.t FOR EXPORT")
    server.stop()
    content = bytearray(table.read_bytes())
    content[3 * 16384 + 200 : 3 * 16384 + 2200] = b"\xff" * 2000
    table.write_bytes(content)
    server.start()
    with pytest.raises(BackupFailed, match="database-copy: keep: "):
        make_backup(Kind.DATABASE, settings(server.here), AT, tools_for(server))
    assert Shelf(server.here / "kept").backups() == ()


def test_what_a_server_that_is_away_cannot_give_is_a_sentence(server: MariaDb) -> None:
    server.stop()
    with pytest.raises(BackupFailed, match="mariadb-backup ended with status"):
        make_backup(Kind.DATABASE, settings(server.here), AT, tools_for(server))
    assert refusal(server, "take", "--folder", str(server.here)).startswith("take: the clone does not say its position")


def test_consul_goes_back_to_what_it_held(own_consul_agent: ConsulAgent, tmp_path: Path) -> None:
    kept = settings(tmp_path, own_consul_agent.http_port, own_consul_agent.node)
    port = ConsulPort(port=own_consul_agent.http_port)
    port.kv_put("orch/config", b"before")
    tools = Tools(consul=(str(find_consul()),))
    made = make_backup(Kind.CONSUL, kept, AT, tools)
    assert int(made.position) > 0
    port.kv_put("orch/config", b"after")
    port.kv_put("orch/other", b"new")
    restore_consul(Shelf(kept.backups.directory).content(made), kept, tools)

    def is_back() -> bool:
        _, pair = port.kv_get("orch/config")
        return pair is not None and pair.value == b"before"

    wait_for(is_back, "Consul holds what it held")
    assert port.kv_keys("orch/") == ("orch/config",)

    # An agent that has begun anew has another ID, and the snapshot knows the former one by the same name.
    own_consul_agent.stop()
    shutil.rmtree(own_consul_agent.data)
    own_consul_agent.start()
    restore_consul(Shelf(kept.backups.directory).content(made), kept, tools)
    wait_for(is_back, "Consul holds what it held")
    port.agent_register(AgentService("orch-backend", "backend", 3000, "127.0.0.1", (), ()))
    port.agent_register_pushed("orch-backend", PushedSpec("orch-backend:unit", "unit", 3600.0, "passing"))
    port.agent_sync("orch-backend")
    wait_for(lambda: "orch-backend:unit" in {check.check_id for check in port.checks()[1]}, "the agent may register")
    port.close()


def stand_in_for_consul(folder: Path, inspecting: str) -> Path:
    """Return a program that saves a snapshot, and says of it what it is told to."""
    script = folder / "consul"
    script.write_text(
        f'#!/bin/sh\nif [ "$2" = save ]; then for last; do :; done; echo all >"$last"; else {inspecting}; fi\n'
    )
    script.chmod(0o755)
    return script


def test_a_snapshot_that_was_cut_short_is_not_kept(tmp_path: Path) -> None:
    script = stand_in_for_consul(tmp_path, "echo no snapshot >&2; exit 1")
    with pytest.raises(BackupFailed, match="consul: no snapshot"):
        make_backup(Kind.CONSUL, settings(tmp_path), AT, Tools(consul=(str(script),)))
    assert Shelf(tmp_path / "kept").backups() == ()
    # The next one removes what that left.
    assert len(list((tmp_path / "kept").iterdir())) == 1
    Shelf(tmp_path / "kept").begin(Kind.CONSUL, AT + 1)
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["consul-20231114T221321Z"]


def test_a_snapshot_that_fails_once_is_made_again(tmp_path: Path) -> None:
    script = stand_in_for_consul(tmp_path, 'echo \'{"Meta": {"Index": 7}}\'')
    once = tmp_path / "once"
    failing = f'if [ "$2" = save ] && ! [ -e "{once}" ]; then : >"{once}"; echo connection reset >&2; exit 1; fi\n'
    script.write_text(script.read_text().replace("#!/bin/sh\n", f"#!/bin/sh\n{failing}"))
    made = make_backup(Kind.CONSUL, settings(tmp_path), AT, Tools(consul=(str(script),)))
    assert (made.position, once.exists()) == ("7", True)


def test_each_backup_is_handed_to_the_operators_command(tmp_path: Path) -> None:
    kept = settings(tmp_path)
    script = stand_in_for_consul(tmp_path, 'echo \'{"Meta": {"Index": 7}}\'')
    made = make_backup(Kind.CONSUL, kept, AT, Tools(consul=(str(script),)))
    carry_away(made, kept)
    assert json.loads((tmp_path / made.id / "backup.json").read_text())["position"] == "7"
    assert (tmp_path / made.id / "consul.snap").read_text() == "all\n"
