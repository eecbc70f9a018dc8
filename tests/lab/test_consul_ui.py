"""Consul's own UI in a real browser: all green in the steady state, red where something is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from urllib.request import urlopen

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
    address = lab.status()["ui"].rstrip("/")
    with urlopen(f"{address}/v1/catalog/datacenters", timeout=10) as answer:
        (datacenter,) = json.load(answer)
    return f"{address}/ui/{datacenter}/{path}"


def marked(page: Page, status: str) -> int:
    """Count what the UI shows with the status, `passing` or `critical`."""
    return page.locator(f".{status}").count()


def test_the_services_are_all_green_in_the_steady_state(fleet: Lab, page: Page) -> None:
    page.goto(ui(fleet, "services"))
    page.get_by_text("orch-backend").first.wait_for(timeout=LOADED_MS)
    page.get_by_text("orch-frontend").first.wait_for(timeout=LOADED_MS)
    assert marked(page, "passing") >= 7
    assert marked(page, "critical") == 0
    for role in ("active", "leader"):
        assert page.get_by_text(role, exact=True).count() >= 1
    for vm in fleet.fleet.vms:
        page.goto(ui(fleet, f"nodes/{vm.name}/health-checks"))
        page.get_by_text("Serf Health Status").first.wait_for(timeout=LOADED_MS)
        assert marked(page, "passing") >= 3
        assert marked(page, "critical") == 0


def test_a_failed_check_is_visible_after_a_fault(fleet: Lab, page: Page) -> None:
    fleet.fault("kill", HOME["backend"], "backend")
    wait_served_by(fleet, "backend", SECOND["backend"])
    page.goto(ui(fleet, f"nodes/{HOME['backend']}/health-checks"))
    page.get_by_text("Serf Health Status").first.wait_for(timeout=LOADED_MS)
    assert marked(page, "critical") >= 1
