"""Consul's own UI in a real browser: all green in the steady state, red where something is wrong."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, sync_playwright

from deploy.machines.lab import Lab
from tests.lab.fleet import HOME, SECOND, wait_served_by

# No background traffic: a browser in the lab has nobody else to talk to.
BROWSER_OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
LOADED_MS = 30_000


@pytest.fixture
def page() -> Iterator[Page]:
    browser_path = shutil.which("chromium") or shutil.which("chromium-browser")
    assert browser_path, "chromium is not installed; deploy/bootstrap.sh installs it"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=BROWSER_OPTIONS)
        try:
            yield browser.new_page()
        finally:
            browser.close()


def ui(lab: Lab, path: str) -> str:
    return f"{lab.status()['ui'].rstrip('/')}/ui/dc1/{path}"


def reds(page: Page) -> int:
    """Count what the UI shows as critical."""
    shown = ".consul-health-check-list .critical, .health-check-critical, dd.critical, li .critical"
    return page.locator(shown).count()


def test_the_services_are_all_green_in_the_steady_state(fleet: Lab, page: Page) -> None:
    page.goto(ui(fleet, "services"))
    page.get_by_text("orch-backend").first.wait_for(timeout=LOADED_MS)
    page.get_by_text("orch-frontend").first.wait_for(timeout=LOADED_MS)
    assert reds(page) == 0
    page.goto(ui(fleet, "nodes"))
    page.get_by_text("backend-server").first.wait_for(timeout=LOADED_MS)
    assert reds(page) == 0


def test_a_failed_check_is_visible_after_a_fault(fleet: Lab, page: Page) -> None:
    fleet.fault("kill", HOME["backend"], "backend")
    wait_served_by(fleet, "backend", SECOND["backend"])
    page.goto(ui(fleet, f"nodes/{HOME['backend']}/health-checks"))
    page.get_by_text("node-app").first.wait_for(timeout=LOADED_MS)
    assert reds(page) > 0
