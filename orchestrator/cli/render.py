"""The one place that renders for people. In: reports (see `cli/report.py`) and records. Out: text on a console.

Plain aligned columns when piped, colours only on a terminal. Decides nothing and reads nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import filesize
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from orchestrator.cli.app import App
from orchestrator.cli.report import age

# Wide enough that neither a table nor a sentence is folded when somebody greps for it.
PIPED_WIDTH = 4000
_STYLE_OF_STATE = {
    "healthy": "green",
    "up": "green",
    "succeeded": "green",
    "running": "cyan",
    "pending": "cyan",
    "failed": "bold red",
    "down": "bold red",
    "refused": "red",
    "high": "yellow",
    "superseded": "yellow",
    "cancelled": "yellow",
    "absent": "dim",
}

Report = Mapping[str, Any]


def console_for(*, on_terminal: bool) -> Console:
    """Return the console for stdout."""
    return Console(highlight=False) if on_terminal else Console(width=PIPED_WIDTH, highlight=False, color_system=None)


def as_plain_text(rendered: RenderableType) -> str:
    """Return what was rendered as plain lines without trailing blanks."""
    console = console_for(on_terminal=False)
    with console.capture() as captured:
        console.print(rendered)
    return "".join(f"{line.rstrip()}\n" for line in captured.get().splitlines())


def live(app: App) -> Live | None:
    """Return the display that `--watch` redraws in place, or None where there is no terminal."""
    return Live(console=app.console, screen=True, auto_refresh=False) if app.on_terminal() else None


def clock_time(at: float) -> str:
    """Return the wall-clock time as local date and time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def stated(word: str) -> Text:
    """Return a state's word in its colour."""
    return Text(word, style=_STYLE_OF_STATE.get(word, ""))


def columns(heads: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> Table:
    """Return rows under heads (no line of heads where all are empty), aligned, without lines."""
    table = Table(
        box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", show_edge=False, show_header=any(heads)
    )
    for head in heads:
        table.add_column(head, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


# -- status --------------------------------------------------------------------------------------------------


def status(report: Report) -> RenderableType:
    """Return the whole of `orch status`."""
    parts: list[RenderableType] = [_headline(report)]
    if report["services"]:
        parts += [Text(), _services(report), *_clusters(report)]
    if report["vms"]:
        parts += [Text(), _vms(report)]
    if report["moves"]:
        parts += [Text(), _moves(report)]
    if report["commands"]:
        parts += [Text(), commands(report["commands"], report["at"])]
    parts += _notes(report)
    return Group(*parts)


def _headline(report: Report) -> Text:
    line = Text("all is well", style="bold green") if report["healthy"] else Text("not all is well", style="bold red")
    leader = report["leader"]
    line.append(f" · leader {leader}" if leader else " · no controller leads", style="" if leader else "bold red")
    paused = report["paused"]
    if paused:
        why = f": {paused['reason']}" if paused["reason"] else ""
        since = age(report["at"] - paused["at"])
        line.append(f" · automation PAUSED for {since} by {paused['by']}{why}", style="bold yellow")
    return line


def _services(report: Report) -> Table:
    heads = ("SERVICE", "ACTIVE", "DESIGNATED", "EPOCH", "FOR", "LOCK", "TRAFFIC TO", "OTHER INSTANCES")
    return columns(heads, [_service_row(name, row, report["at"]) for name, row in report["services"].items()])


def _service_row(name: str, row: Report, at: float) -> Sequence[str | Text]:
    active = row["active"]
    if active is None:
        return (name, Text(row["problem"] or "not assigned yet", style="yellow"), "", "", "", "", "", "")
    return (
        Text(name, style="bold green" if row["healthy"] else "bold red"),
        Text.assemble(active, " ", stated(row["instances"].get(active, "absent"))),
        Text(row["designated"], style="" if row["designated"] == active else "yellow"),
        str(row["epoch"]),
        age(at - row["since"]),
        Text(row["lock_holder"] or "nobody", style="" if row["lock_holder"] == active else "bold red"),
        Text(", ".join(_endpoint(e) for e in row["endpoints"]) or "nowhere yet"),
        _other_instances(row, active),
    )


def _endpoint(endpoint: Report) -> str:
    return f"{endpoint['address']}:{endpoint['port']}{' (backup)' if endpoint['backup'] else ''}"


def _other_instances(row: Report, active: str) -> Text:
    line = Text()
    for vm, state in row["instances"].items():
        if vm != active:
            line.append(", " if line else "").append(f"{vm} ").append(stated(state))
            if row["whole_copies"] is not None:
                whole = vm in row["whole_copies"]
                line.append(", in sync" if whole else ", NOT in sync", style="" if whole else "bold yellow")
    return line


def _clusters(report: Report) -> list[RenderableType]:
    """One line for each service that is a cluster: its members, whoever is active."""
    found = {name: row["cluster"] for name, row in report["services"].items() if row["cluster"]}
    return [Text(), *(_members(name, cluster) for name, cluster in found.items())] if found else []


def _members(name: str, cluster: Report) -> Text:
    line = Text(f"members of {name}: ", style="bold")
    if cluster["members"] is None:
        return line.append(f"nobody can tell: {cluster['problem']}", "bold red")
    for n, (vm, state) in enumerate(cluster["members"].items()):
        line.append(f"{', ' if n else ''}{vm} ", "default").append(stated(state))
        if vm == cluster["joining"]:
            line.append(", joining", "yellow")
        if vm == cluster["spare"]:
            line.append(f" (the spare, in the place of {cluster['replaced']})", "yellow")
    if cluster["spare"] and cluster["spare"] not in cluster["members"]:
        line.append(f"; spare: {cluster['spare']}", "default")
    return line


def _vms(report: Report) -> Table:
    rows = [
        (
            Text(name, style="bold"),
            vm["address"],
            stated(vm["reach"]),
            stated(vm["load"]),
            ", ".join(vm["roles"]) or "-",
            _daemons(vm["daemons"]),
            _maintenance(vm["maintenance"], report["at"]),
        )
        for name, vm in report["vms"].items()
    ]
    return columns(("VM", "ADDRESS", "REACH", "LOAD", "ROLES", "DAEMONS", "MAINTENANCE"), rows)


def _daemons(alive: Mapping[str, bool]) -> Text:
    line = Text()
    for daemon, lives in alive.items():
        line.append(", " if line else "").append(daemon if lives else f"{daemon} dead", "" if lives else "bold red")
    return line


def _maintenance(entry: Report | None, at: float) -> Text:
    if entry is None:
        return Text("-")
    why = f": {entry['reason']}" if entry["reason"] else ""
    return Text(f"{age(at - entry['at'])} by {entry['by']}{why}", style="yellow")


def _moves(report: Report) -> Table:
    rows = [
        (
            Text(m["service"], style="bold"),
            m["kind"],
            m.get("target") or "-",
            stated(m["state"]),
            age(report["at"] - m["created"]),
            m["origin"],
            m["id"],
        )
        for m in report["moves"]
    ]
    return columns(("MOVE OF", "KIND", "TO", "STATE", "FOR", "ASKED BY", "REQUEST"), rows)


def _notes(report: Report) -> list[RenderableType]:
    """What is wrong, one sentence each; holds and unreadable keys too."""
    lines = [Text(f"{name}: held until {clock_time(row['hold_until'])}; `orch resume {name}` ends the hold", "yellow")
             for name, row in report["services"].items() if row["hold_until"]]  # fmt: skip
    lines += [_diagnosis(found) for found in report["diagnoses"] if found["code"] != "fine"]
    lines += [Text(f"{entry['key']} cannot be read: {entry['problem']}", "bold red") for entry in report["unreadable"]]
    lines += [Text(report["problem"], "bold red")] if report["problem"] else []
    return [Text(), *lines] if lines else []


def _diagnosis(found: Report) -> Text:
    line = Text(f"{found['code']}: ", style="bold yellow").append(found["sentence"], "default")
    if found["not_actionable_because"]:
        line.append(f" Nothing is done: {found['not_actionable_because']}.", "default")
    return line


# -- plan, why, history, commands ------------------------------------------------------------------------------


def plan(report: Report) -> RenderableType:
    """Return what would be done now, and why not more."""
    parts: list[RenderableType] = []
    for made in report["decisions"]:
        parts.append(Text.assemble(("would do  ", "bold cyan"), made["sentence"]))
        parts += [Text(f"          {write}", style="dim") for write in made["writes"]]
    if not report["decisions"]:
        parts.append(Text(f"would do nothing: {report['sentence']}"))
    for found in report["diagnoses"]:
        because = found["not_actionable_because"]
        if found["action"] is None:
            parts.append(Text(f"{found['service'] or 'fleet'}: {found['sentence']}"))
        if because:
            parts.append(Text(f"          not more, because {because}", style="yellow"))
    if report["wake_at"]:
        parts.append(Text(f"would look again at {clock_time(report['wake_at'])} at the latest", style="dim"))
    return Group(*parts)


def history_line(entry: Report) -> Text:
    """Return one line of the journal."""
    line = Text.assemble((clock_time(entry["at"]), "dim"), "  ", (f"{entry.get('service') or '-':<10}", "bold"), "  ")
    line.append(f"{entry['kind']:<12}", _STYLE_OF_STATE.get(entry["kind"], "cyan"))
    return line.append(f"  {entry['reason']}")


def commands(rows: Iterable[Report], at: float) -> Table:
    """Return commands as a table, with what each is doing now."""
    return columns(
        ("COMMAND", "PLAYBOOK", "ON", "EPOCH", "STATE", "AGE", "WORKER", "NOW"),
        [
            (
                Text(c["id"], style="bold"),
                c["playbook"],
                c["target"],
                str(c["epoch"]),
                stated(c["state"]),
                age(at - c["created"]),
                c.get("worker") or "-",
                c["task"] if c["state"] == "running" else c["reason"],
            )
            for c in rows
        ],
    )


def command(row: Report) -> RenderableType:
    """Return one command, field by field; times as local time."""
    times = {"created", "claimed", "first_task", "finished"}
    shown = [
        (name, clock_time(value) if name in times else stated(str(value)))
        for name, value in row.items()
        if name not in ("tail", "refusals") and value not in (None, "")
    ]
    refused = [("refused by", Text(f"{vm}: {reason}")) for vm, reason in row["refusals"].items()]
    return columns(("", ""), [*shown, *refused])


def why(report: Report) -> RenderableType:
    """Return the chain from observation to decision."""
    parts: list[RenderableType] = [Text(report["state"], style="bold")]
    for title, lines in report["chain"].items():
        if lines:
            parts += [Text(), Text(title, style="bold underline"), *(Text(f"  {line}") for line in lines)]
    return Group(*parts)


def playbooks(report: Report, at: float) -> RenderableType:
    """Return the released playbooks, and those of each worker."""
    release = report["release"]
    told = Text("no playbooks were released yet", style="bold red")
    if release:
        when = f"{age(at - release['at'])} ago by {release['by']}"
        told = Text(f"released: {release['digest'][:12]}, {when} (orch {release['orch']})")
    rows = []
    for vm, row in report["workers"].items():
        state = ("the released ones", "green") if row["is_current"] else ("NOT the released ones", "bold red")
        if not row["is_current"] and row["has_release"]:
            state = ("other ones; it has the released ones too and runs commands with them", "yellow")
        rows.append((Text(vm, style="bold"), (row["current"] or "unknown")[:12], Text(*state)))
    return Group(told, Text(), columns(("WORKER", "CURRENT", "WHICH ARE"), rows))


def findings(rows: Sequence[Report]) -> RenderableType:
    """Return what the doctor found, each with what to do about it."""
    if not rows:
        return Text("all is well", style="bold green")
    style = {"error": "bold red", "unknown": "bold red", "warning": "bold yellow"}
    parts: list[RenderableType] = []
    for row in rows:
        parts.append(
            Text.assemble(
                (f"{row['severity']:<8}", style[row["severity"]]), (row["subject"], "bold"), ": ", row["wrong"]
            )
        )
        parts.append(Text(f"        {row['todo']}", style="dim"))
    return Group(*parts)


def backups(rows: Iterable[Report]) -> Table:
    """Return backups as a table; times as local time."""
    return columns(
        ("BACKUP", "OF", "BEGUN", "UP TO", "SIZE", "PROOF"),
        [
            (
                Text(row["id"], style="bold"),
                row["vm"],
                clock_time(row["at"]),
                row["position"] or "-",
                filesize.decimal(row["size"]),
                row["proof"],
            )
            for row in rows
        ],
    )


def difference(lines: Iterable[str]) -> RenderableType:
    """Return a unified diff."""
    style = {"+": "green", "-": "red", "@": "cyan"}
    return Group(*(Text(line, style=style.get(line[:1], "")) for line in lines))
