"""`orch failover`, `failback`, `rotate`, `clone`, `follow`: what an operator asks for, refused at once or followed.

Writes `orch/requests/ID` by compare-and-set create, after the same admission check that the leader makes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import click

from orchestrator.cli.app import App, F, json_option
from orchestrator.cli.exits import Exit, Stop, refuse
from orchestrator.cli.fleet import Fleet, read_fleet
from orchestrator.cli.names import complete_requests, complete_services, complete_vms
from orchestrator.domain import keys
from orchestrator.domain.ids import timed_id
from orchestrator.domain.records import Request, RequestKind
from orchestrator.domain.view import Kept
from orchestrator.store.port import TxnOutcome, Unknown

# A play may take 5 min (dispatch.play_timeout_s) and a planned move runs two of them.
WAIT_TIMEOUT_S = 600.0


class Seconds(click.FloatRange):
    """A number of seconds. `nan` is none, although no comparison says so."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """See `click.ParamType.convert`."""
        seconds = float(super().convert(value, param, ctx))
        if math.isnan(seconds):
            self.fail(f"{value!r} is no number of seconds.", param, ctx)
        return seconds


def wait_options(verb: F) -> F:
    """Give the verb --wait/--no-wait and --timeout."""
    wait = click.option(
        "--wait/--no-wait", default=None, help="Show the progress until the end [default: on a terminal]."
    )
    timeout = click.option(
        "--timeout",
        "timeout_s",
        metavar="SECONDS",
        type=Seconds(min=0, min_open=True),
        default=WAIT_TIMEOUT_S,
        show_default=True,
        help="Wait no longer than this; the request goes on.",
    )
    return wait(timeout(verb))


def move_options(verb: F) -> F:
    """Give the verb what every move takes: --reason, --dry-run, waiting, --json."""
    reason = click.option("--reason", default="", help="Why; kept in the request and in the history.")
    dry = click.option("--dry-run", is_flag=True, help="Write nothing; say what the leader would do.")
    return reason(dry(wait_options(json_option(verb))))


@click.command()
@click.argument("service", shell_complete=complete_services)
@click.option(
    "--to", "target", shell_complete=complete_vms, metavar="VM", help="The VM to move it to [the best candidate]."
)
@click.option(
    "--accept-data-loss",
    is_flag=True,
    help="Promote a copy of a replicated service's data that lacks acknowledged writes: they are lost.",
)
@move_options
@click.pass_obj
def failover(app: App, /, service: str, target: str | None, accept_data_loss: bool, **options: Any) -> None:
    """Move a service to another VM, which becomes its designated one.

    Make before break where it is healthy now. It stays there until `orch failback` or a rotation.
    """
    wanted = {"target": target, "accept_data_loss": accept_data_loss}
    ask(app, RequestKind.FAILOVER, (service,), wanted=wanted, **options)


@click.command()
@click.argument("service", shell_complete=complete_services)
@move_options
@click.pass_obj
def failback(app: App, /, service: str, **options: Any) -> None:
    """Bring a service home.

    Home is the first VM of its order; it becomes the designated one again.
    """
    ask(app, RequestKind.FAILBACK, (service,), **options)


@click.command()
@click.argument("service", shell_complete=complete_services, required=False)
@click.option("--all", "every", is_flag=True, help="Rotate every service that is not excluded from rotation.")
@move_options
@click.pass_obj
def rotate(app: App, /, service: str | None, every: bool, **options: Any) -> None:
    """Move a service to the next VM of its order.

    Any write under orch/rotate/SERVICE in Consul's KV does the same (`consul kv put orch/rotate/backend now`).
    """
    if (service is None) == (not every):
        raise click.UsageError("name a SERVICE or give --all, one of the two.")
    ask(app, RequestKind.ROTATION, (service,) if service else None, **options)


@click.command()
@click.argument("service", shell_complete=complete_services)
@move_options
@click.pass_obj
def clone(app: App, /, service: str, **options: Any) -> None:
    """Replace the standby's copy of a replicated service's data.

    Only where it can follow the active no more. What nobody else has is saved as SQL on its VM first. With
    `replication.reclone: automatic` this happens by itself.
    """
    ask(app, RequestKind.STANDBY, (service,), **options)


@click.command()
@click.argument("request_id", metavar="REQUEST", shell_complete=complete_requests)
@click.option(
    "--timeout", "timeout_s", metavar="SECONDS", type=Seconds(min=0, min_open=True), default=WAIT_TIMEOUT_S,
    show_default=True, help="Wait no longer than this; the request goes on.",
)  # fmt: skip
@json_option
@click.pass_obj
def follow(app: App, request_id: str, timeout_s: float) -> None:
    """Follow a request until it has ended.

    Its exit status is that of the request, as with --wait.
    """
    _follow(app, (request_id,), timeout_s)


def ask(
    app: App,
    kind: RequestKind,
    services: tuple[str, ...] | None,
    *,
    wanted: Mapping[str, Any] = MappingProxyType({}),
    reason: str = "",
    dry_run: bool = False,
    wait: bool | None = None,
    timeout_s: float = WAIT_TIMEOUT_S,
) -> None:
    """Ask for the same of each service (None: of all that take part in rotation). Nothing is written when one of
    them is refused; with one service, the refusal is the verb's end, with more it is the list of all refusals.

    `wanted` are fields of the request beyond those that each has.
    """
    fleet = read_fleet(app)
    names = services if services is not None else _rotating(fleet)
    requests = [new_request(app, fleet, kind, name, reason).with_(**wanted) for name in names]
    _refuse_or_pass(fleet, requests)
    if dry_run:
        _say_what_would_happen(app, fleet, requests)
        return
    for request in requests:
        _write(app, request)
    if fleet.leader is None:
        app.warn("no controller leads now; the request waits in KV until one does.")
    if app.on_terminal() if wait is None else wait:
        _follow(app, tuple(request.id for request in requests), timeout_s)
        return
    _say_accepted(app, requests)


def new_request(app: App, fleet: Fleet, kind: RequestKind, service: str, reason: str = "") -> Request:
    """Return the request of an operator, pending."""
    return Request(
        id=timed_id(fleet.at, service, f"cli{app.token()}"),
        kind=kind,
        service=service,
        redesignate=kind in (RequestKind.FAILOVER, RequestKind.FAILBACK, RequestKind.ROTATION),
        reason=reason,
        origin=f"cli:{app.who()}",
        created=fleet.at,
        updated=fleet.at,
    )


def _rotating(fleet: Fleet) -> tuple[str, ...]:
    excluded = fleet.policy.rotation.exclude_services
    names = tuple(name for name in fleet.policy.services if name not in excluded)
    if not names:
        raise refuse("every service is excluded from rotation (rotation.exclude_services).")
    return names


def _refuse_or_pass(fleet: Fleet, requests: list[Request]) -> None:
    from orchestrator.decide.admission import refusal_of

    refusals = [why for r in requests if (why := refusal_of(r, fleet.view, fleet.policy, fleet.at)) is not None]
    if refusals:
        raise refuse(" ".join(refusals))


def _write(app: App, request: Request) -> None:
    from orchestrator.store.records import create_record

    try:
        outcome = create_record(app.port, keys.request(request.id), request)
    except Unknown as unknown:
        sentence = f"Consul did not say whether the request was accepted ({unknown}); `orch follow {request.id}` tells."
        raise Stop(Exit.UNREACHABLE, sentence, {"request": request.id}) from None
    if outcome is TxnOutcome.LOST:
        raise refuse(f"a request with the id {request.id} exists already; ask again.")


def _say_what_would_happen(app: App, fleet: Fleet, requests: list[Request]) -> None:
    from orchestrator.cli import render, report

    plans = [_plan_with(app, fleet, request) for request in requests]
    if app.as_json:
        app.answer({"plans": [{"request": report.record(r), **p} for r, p in zip(requests, plans, strict=True)]})
        return
    for planned in plans:
        app.show(render.plan(planned))


def _plan_with(app: App, fleet: Fleet, request: Request) -> dict[str, Any]:
    """Return what the leader would do if the request were in KV."""
    from orchestrator.cli import report

    # Index 1: a pending request is there; its own index matters only to a compare-and-set, which is not made here.
    view = replace(fleet.view, requests=(*fleet.view.requests, Kept(request, 1)))
    return report.plan(app.decide(view, fleet.memory, fleet.policy, fleet.at), only=request.service)


def _say_accepted(app: App, requests: list[Request]) -> None:
    if app.as_json:
        app.answer({"exit": 0, "outcome": "accepted", "requests": [request.id for request in requests]})
    for request in requests:
        app.say(f"{request.kind.value} of {request.service} asked for; `orch follow {request.id}` shows how it goes.")


def _follow(app: App, request_ids: tuple[str, ...], timeout_s: float) -> None:
    # Imported here: tenacity and rich are for those who wait.
    from orchestrator.cli.following import follow_to_the_end

    following: Callable[[App, tuple[str, ...], float], None] = follow_to_the_end
    following(app, request_ids, timeout_s)
