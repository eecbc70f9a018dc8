"""Names on the command line, completed from the policy in KV where Consul answers.

Whether a given name is known is checked by the verb, which can say what would be possible instead.
"""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem

from orchestrator.cli.app import App


def complete_services(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the services of the policy."""
    return _offered(ctx, "services", incomplete)


def complete_vms(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the VMs of the policy."""
    return _offered(ctx, "vms", incomplete)


def _offered(ctx: click.Context, section: str, incomplete: str) -> list[CompletionItem]:
    # Completion runs no callback, so the global options are taken from where they were parsed.
    app = ctx.find_object(App) or App()
    given = ctx.find_root().params
    app.consul = given.get("consul") or app.consul
    app.settings_file = given.get("settings_file") or app.settings_file
    try:
        names = _names(app, section)
    except Exception:
        # Whatever is wrong, a completion must not write into the operator's prompt.
        return []
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def _names(app: App, section: str) -> list[str]:
    from orchestrator.cli.policy_file import document_of
    from orchestrator.domain import keys

    _, pair = app.port.kv_get(keys.CONFIG)
    document = document_of(pair.value) if pair else None
    return list(document[section]) if isinstance(document, dict) else []
