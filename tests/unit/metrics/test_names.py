"""What the daemons export goes by Prometheus' conventions, and the dashboard and the alerts ask for nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from deploy.machines.places import CHECKOUT
from tests.unit.metrics.build import every_daemon

MONITORING = CHECKOUT / "deploy" / "monitoring"
DAEMONS = ("controller", "worker", "guard")
# What Prometheus itself adds: of the target, and of its own scrape.
OF_PROMETHEUS = {"up"}
LABELS_OF_TARGETS = {"job", "instance", "node", "daemon"}
# Words of the query language that look like a metric's name.
FUNCTIONS = re.compile(r"\b(sum|max|min|count|by|rate|increase|histogram_quantile|time|vector|and|or|unless)\b")
NOT_BASE_UNITS = re.compile(r"_(ms|milliseconds|minutes|hours|days|kb|mb|percent)(_|$)")


def families(daemon: str) -> list[Metric]:
    """Return what the daemon's page says, as Prometheus' own parser reads it."""
    _, text = every_daemon()[daemon].page()
    return list(text_string_to_metric_families(text.decode()))


def exported() -> dict[str, set[str]]:
    """Return the name of each sample of any daemon, with its labels."""
    found: dict[str, set[str]] = {}
    for daemon in DAEMONS:
        for family in families(daemon):
            for sample in family.samples:
                found.setdefault(sample.name, set()).update(sample.labels)
    return found


def queries() -> Iterator[str]:
    """Return each expression of the dashboard and of the alerts."""
    for panel in json.loads((MONITORING / "grafana-dashboard.json").read_text())["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))
    for rule in rules():
        yield rule["expr"]


def rules() -> list[dict[str, Any]]:
    """Return the alert rules."""
    groups = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


@pytest.mark.parametrize("daemon", DAEMONS)
def test_names_and_types_go_by_the_conventions(daemon: str) -> None:
    for family in families(daemon):
        assert family.name.startswith(("orch_", "process_")), family.name
        assert not NOT_BASE_UNITS.search(family.name), family.name
        assert family.documentation.endswith("."), f"{family.name} has no sentence"
        names = {sample.name for sample in family.samples}
        if family.type == "counter":
            assert names == {f"{family.name}_total"}
        elif family.type == "histogram":
            assert family.name.endswith("_seconds")
        else:
            assert family.type == "gauge"
            assert not any(name.endswith(("_total", "_count", "_sum", "_bucket")) for name in names), family.name


@pytest.mark.parametrize("daemon", DAEMONS)
def test_every_daemon_says_which_orch_it_is(daemon: str) -> None:
    [build] = [family for family in families(daemon) if family.name == "orch_build_info"]
    [sample] = build.samples
    assert (sample.labels["daemon"], sample.value) == (daemon, 1.0)
    assert set(sample.labels) == {"daemon", "version", "python"}


def test_dashboard_and_alerts_ask_for_what_a_daemon_exports() -> None:
    known = exported()
    asked = 0
    for query in queries():
        bare = re.sub(r"\{[^}]*\}|\[[^]]*\]|by \([^)]*\)", " ", query)
        for name in re.findall(r"\b[a-z_]+\b", FUNCTIONS.sub(" ", bare)):
            assert name in known.keys() | OF_PROMETHEUS, f"{name} in {query}"
            asked += 1
    assert asked > len(rules())


def test_dashboard_and_alerts_sort_by_labels_that_are_there() -> None:
    known = exported()
    for query in queries():
        for name, matchers in re.findall(r"\b((?:orch|process)_[a-z_]+)\{([^}]*)\}", query):
            wanted = set(re.findall(r"([a-z_]+)\s*(?:=~|!~|!=|=)", matchers))
            assert wanted <= known[name] | LABELS_OF_TARGETS, query
        names = re.findall(r"\b((?:orch|process)_[a-z_]+)\b", query)
        labels = set().union(*(known[name] for name in names), LABELS_OF_TARGETS)
        for by in re.findall(r"by \(([^)]*)\)", query):
            assert {label.strip() for label in by.split(",")} <= labels, query


def test_nearly_all_that_is_exported_is_on_the_dashboard() -> None:
    shown = " ".join(queries())
    unseen = {name for name in exported() if name.startswith("orch_") and name not in shown}
    assert {re.sub(r"_(bucket|count|sum)$", "", name) for name in unseen} <= {
        "orch_move_duration_seconds",
        "orch_move_step_duration_seconds",
        "orch_controller_decide_duration_seconds",
        "orch_worker_play_duration_seconds",
    }


def test_every_alert_says_how_bad_it_is_and_what_to_do() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(names) == len(set(names))
    for rule in rules():
        assert rule["labels"]["severity"] in ("critical", "warning"), rule["alert"]
        assert set(rule["annotations"]) == {"summary", "action"}, rule["alert"]
