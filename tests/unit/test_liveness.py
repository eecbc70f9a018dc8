"""`/health` says whether a daemon's loop goes round."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request

import pytest

from orchestrator.liveness import Liveness


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
