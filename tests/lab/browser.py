"""Consul's own UI in a real browser, as the tests on the machines look at it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.request import urlopen

from playwright.sync_api import Locator, Page, sync_playwright

from deploy.machines.lab import Lab

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
LOADED_MS = 60_000


@contextmanager
def browser_page() -> Iterator[Page]:
    """A page of a browser that ends with the block."""
    browser_path = shutil.which("chromium") or shutil.which("chromium-browser")
    assert browser_path, "chromium is not installed; deploy/bootstrap.sh installs it"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=BROWSER_OPTIONS)
        try:
            yield browser.new_page()
        finally:
            browser.close()


def ui(lab: Lab, path: str) -> str:
    """Return the address of a page of the UI."""
    address = lab.status()["ui"].rstrip("/")
    with urlopen(f"{address}/v1/catalog/datacenters", timeout=10) as answer:
        (datacenter,) = json.load(answer)
    return f"{address}/ui/{datacenter}/{path}"


def log_in(page: Page, lab: Lab) -> None:
    """Log in as docs/operations.md says; before that, nothing of KV is shown."""
    token = lab.run(lab.fleet.members("controllers")[0], ["cat", "/etc/orch/consul/ui"]).stdout.strip()
    page.goto(ui(lab, "kv"))
    page.get_by_text("You are not authorized").wait_for(timeout=LOADED_MS)
    page.get_by_role("button", name="Log in", exact=True).click()
    page.get_by_placeholder("SecretID").fill(token)
    page.locator(".auth-form").get_by_role("button", name="Log in", exact=True).click()
    page.get_by_text("You are now logged in.").wait_for(timeout=LOADED_MS)


def marked(page: Page, status: str) -> Locator:
    """What the UI shows with the status: `passing`, `warning` or `critical`."""
    return page.locator(f".{status}")


def all_green(page: Page, rows: int) -> None:
    """Wait until the UI shows as many rows as passing, and see that it shows none as anything else."""
    marked(page, "passing").nth(rows - 1).wait_for(state="attached", timeout=LOADED_MS)
    assert (marked(page, "critical").count(), marked(page, "warning").count()) == (0, 0)
