"""Ids of requests, commands and entries of the journal."""

from __future__ import annotations

from orchestrator.domain.ids import timed_id


def test_ids_sort_by_time_and_name_what_is_known() -> None:
    moments = (0.0, 999.999, 1700000000.25, 1700000000.251, 9999999999.0)
    ids = [timed_id(at, "web", "failover") for at in moments]
    assert ids == sorted(ids)
    assert ids[2] == "1700000000250-web-failover"
    assert timed_id(1.0, "fleet", "", "news") == "0000000001000-fleet-news"
