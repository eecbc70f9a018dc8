"""The real agent is the one of tests/integration."""

from __future__ import annotations

from tests.integration.conftest import consul_agent

__all__ = ["consul_agent"]
