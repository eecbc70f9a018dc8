"""Which servers the statements are for."""

from __future__ import annotations

import pytest

from orchestrator.node.replication.sql import objection_to


@pytest.mark.parametrize(
    "version", ["10.11.19-MariaDB-0+deb12u1", "5.5.5-10.11.6-MariaDB-log", "11.8.2-MariaDB-1 from Debian"]
)
def test_mariadb_is_taken_from_10_11_on(version: str) -> None:
    assert objection_to(version) == ""


@pytest.mark.parametrize(
    ("version", "why"),
    [
        ("10.6.18-MariaDB", "the database server is MariaDB 10.6, and orch needs 10.11 or newer"),
        ("8.0.43-0ubuntu0.24.04.1", "is no MariaDB (8.0.43-0ubuntu0.24.04.1), and orch replicates no other product"),
        ("8.0.36-28", "is no MariaDB (8.0.36-28)"),
        ("", "is no MariaDB ()"),
    ],
)
def test_any_other_server_is_refused_by_name(version: str, why: str) -> None:
    assert why in objection_to(version)
