"""`/health` says whether a daemon's loop goes round, `/metrics` what Prometheus asks for."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from orchestrator.liveness import Liveness
from orchestrator.metrics.guard import GuardMetrics
from orchestrator.metrics.page import Metrics
from orchestrator.metrics.worker import WorkerMetrics


def _get(port: int, path: str = "/health") -> tuple[int, dict[str, object]]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read()) if path == "/health" else {}


def test_a_loop_that_goes_round_is_alive_and_says_what_it_came_to() -> None:
    liveness = Liveness(0, 60.0, "guard")
    try:
        liveness.beat("backend is active here")
        status, answer = _get(liveness.port)
        assert status == 200
        assert answer["alive"] is True
        assert "orch guard is alive" in str(answer["sentence"])
        assert "backend is active here" in str(answer["sentence"])
        assert _get(liveness.port, "/other")[0] == 404
    finally:
        liveness.close()


def test_a_loop_that_is_alive_says_the_same_at_every_look(monkeypatch: pytest.MonkeyPatch) -> None:
    liveness = Liveness(0, 5.0, "guard")
    try:
        first = _get(liveness.port)
        later = time.monotonic() + 1.0
        monkeypatch.setattr(time, "monotonic", lambda: later)
        assert _get(liveness.port) == first
    finally:
        monkeypatch.undo()
        liveness.close()


def test_a_loop_that_is_stuck_shows() -> None:
    liveness = Liveness(0, 60.0, "guard")
    try:
        liveness._beat_at -= 61.0
        status, answer = _get(liveness.port)
        assert (status, answer["alive"]) == (503, False)
        assert "is stuck" in str(answer["sentence"])
        liveness.beat()
        assert _get(liveness.port)[0] == 200
    finally:
        liveness.close()


def test_a_port_that_is_taken_is_an_error_at_once() -> None:
    liveness = Liveness(0, 5.0)
    try:
        with pytest.raises(OSError, match="in use"):
            Liveness(liveness.port, 5.0)
    finally:
        liveness.close()


def _metrics_of(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=")
        found = text_string_to_metric_families(answer.read().decode())
        return {sample.name: sample.value for family in found for sample in family.samples}


@pytest.mark.parametrize("metrics", [GuardMetrics(lambda: None), WorkerMetrics(lambda: False, lambda: 0)])
def test_the_metrics_of_a_daemon_are_served_also_while_its_loop_is_stuck(metrics: Metrics) -> None:
    liveness = Liveness(0, 60.0, "daemon", metrics)
    try:
        assert _metrics_of(liveness.port)["orch_daemon_alive"] == 1.0
        liveness._beat_at -= 61.0
        found = _metrics_of(liveness.port)
        assert found["orch_daemon_alive"] == 0.0
        assert found["process_resident_memory_bytes"] > 0
    finally:
        liveness.close()


def test_a_liveness_without_metrics_has_no_such_page() -> None:
    liveness = Liveness(0, 60.0)
    try:
        assert _get(liveness.port, "/metrics")[0] == 404
    finally:
        liveness.close()
