"""Consul's own UI in a real browser: all green in the steady state, red where something is wrong."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page

from deploy.machines.lab import Lab
from tests.lab.browser import LOADED_MS, all_green, browser_page, log_in, marked, ui
from tests.lab.fleet import HOME, SECOND, UNIT, wait_served_by

SERVICES = ("consul", "orch-backend", "orch-controller", "orch-frontend", "orch-guard", "orch-worker", "rabbitmq")


@pytest.fixture
def page(fleet: Lab) -> Iterator[Page]:
    with browser_page() as page:
        log_in(page, fleet)
        yield page


def test_the_services_are_all_green_in_the_steady_state(fleet: Lab, page: Page) -> None:
    page.goto(ui(fleet, "services"))
    all_green(page, len(SERVICES))
    for name in SERVICES:
        assert page.get_by_text(name, exact=True).count() >= 1
    for role in ("active", "leader"):
        assert page.get_by_text(role, exact=True).count() >= 1
    for vm in fleet.fleet.vms:
        page.goto(ui(fleet, f"nodes/{vm.name}/health-checks"))
        # Gossip, the load, the guard.
        page.get_by_text("Serf Health Status").first.wait_for(timeout=LOADED_MS)
        all_green(page, 3)


def test_a_failed_check_is_visible_after_a_fault(fleet: Lab, page: Page) -> None:
    fleet.fault("kill", HOME["backend"], "backend")
    wait_served_by(fleet, "backend", SECOND["backend"])
    page.goto(ui(fleet, f"nodes/{HOME['backend']}/health-checks"))
    for name in ("backend answers", f"backend unit {UNIT['backend']}"):
        marked(page, "critical").filter(has_text=name).wait_for(timeout=LOADED_MS)
    assert "failed" in marked(page, "critical").filter(has_text=UNIT["backend"]).inner_text()
