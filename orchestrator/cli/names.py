"""Names and ids on the command line, completed from KV where Consul answers.

Whether a given name is known is checked by the verb, which can say what would be possible instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
from click.shell_completion import CompletionItem

from orchestrator.cli.app import App
from orchestrator.domain import keys


def complete_services(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the services of the policy."""
    return _offered(ctx, lambda app: _names(app, "services"), incomplete)


def complete_vms(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the VMs of the policy."""
    return _offered(ctx, lambda app: _names(app, "vms"), incomplete)


def complete_sinks(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the sinks of the policy."""
    return _offered(ctx, _sinks, incomplete)


def complete_requests(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the ids of the requests in KV, the newest first."""
    return _offered_ids(ctx, keys.REQUESTS, incomplete)


def complete_commands(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the ids of the commands in KV, the newest first."""
    return _offered_ids(ctx, keys.COMMANDS, incomplete)


def _offered_ids(ctx: click.Context, prefix: str, incomplete: str) -> list[CompletionItem]:
    def ids(app: App) -> list[str]:
        return sorted((key.removeprefix(prefix) for key in app.port.kv_keys(prefix) if key != prefix), reverse=True)

    return _offered(ctx, ids, incomplete)


def _offered(ctx: click.Context, names_from: Callable[[App], list[str]], incomplete: str) -> list[CompletionItem]:
    # Completion runs no callback, so the global options are taken from where they were parsed.
    app = ctx.find_object(App) or App()
    given = ctx.find_root().params
    app.consul = given.get("consul") or app.consul
    app.settings_file = given.get("settings_file") or app.settings_file
    try:
        names = names_from(app)
    except Exception:
        # Whatever is wrong, a completion must not write into the operator's prompt.
        return []
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def _names(app: App, section: str) -> list[str]:
    return list(_policy(app).get(section) or ())


def _sinks(app: App) -> list[str]:
    return [sink["name"] for sink in _policy(app).get("notifications") or ()]


def _policy(app: App) -> dict[str, Any]:
    from orchestrator.domain.document import document_in

    _, pair = app.port.kv_get(keys.CONFIG)
    document = document_in(pair.value) if pair else None
    return document if isinstance(document, dict) else {}
