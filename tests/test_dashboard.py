"""The dashboard shows only what a server really counts, and all that an operator has to see."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from helpers_cli import Run, ok
from scanengine.server.metrics import ROUTES
from serving import a_market, serving

DASHBOARD = Path(__file__).parents[1] / "deploy" / "grafana" / "scanengine.json"
PANELS: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Names of the samples that a server shows, each with its labels."""
    market = a_market(tmp_path_factory.mktemp("dashboard") / "shop")
    with serving(market.folder) as served, served.client() as client:
        client.claim(market.take("purse"), "ann")
        client.get(f"/v1/codes/{market.take('cash')}")
        text = client.get("/metrics").body.decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {sample.name: set(sample.labels) for sample in samples} | {"scanengine_reader_events_waiting": {"reader"}}


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_expression_uses_metrics_and_labels_that_are_shown(shown: dict[str, set[str]], expression: str) -> None:
    names = re.findall(r"\bscanengine_\w+", expression)
    assert names
    labels = set().union(*(shown[name] for name in names))
    for grouped in re.findall(r"by \(([^)]*)\)", expression):
        assert {label.strip() for label in grouped.split(",")} <= labels
    for name, matchers in re.findall(r"\b(scanengine_\w+)\{([^}]*(?:\{\w+\}[^}]*)?)\}", expression):
        assert set(re.findall(r'(\w+)="', matchers)) <= shown[name]
        for route in re.findall(r'route="([^"]*)"', matchers):
            assert route in ROUTES


def test_a_counter_is_never_shown_as_it_is() -> None:
    """A counter begins anew with its server: only its rate means something, or a share that the ledger keeps."""
    for expression in EXPRESSIONS:
        for name in re.findall(r"\bscanengine_\w+_(?:total|bucket)\b", expression):
            assert re.search(rf"(rate|increase)\({name}", expression) or name == "scanengine_campaign_money_total"


def test_panels_have_places_and_names_of_their_own() -> None:
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in PANELS]
    for values in (places, [panel["id"] for panel in PANELS], [panel["title"] for panel in PANELS]):
        assert len(set(values)) == len(PANELS)
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in PANELS)


def test_a_reader_and_a_budget_are_counted(tmp_path: Path, run: Run) -> None:
    market = a_market(tmp_path / "shop")
    ok(run("-w", market.folder, "events", "readers", "add", "accounts"))
    with serving(market.folder) as served, served.client() as client:
        for user in ("ann", "bob", "carl"):
            client.claim(market.take("purse"), user)
        ok(run("-w", market.folder, "events", "ack", "accounts", 1))
        ok(run("-w", market.folder, "ledger", "adjust", "purse", "budget", "--amount", 100, "--id", "a"))
        ok(run("-w", market.folder, "ledger", "adjust", "once", "pause", "--id", "p"))
        found = client.metrics()
    assert found["scanengine_reader_events_waiting", "accounts"] == 2
    assert found["scanengine_campaign_claims_total", "purse"] == 3
    assert found["scanengine_campaign_money_total", "purse"] == 3 * 8800
    assert found["scanengine_campaign_budget", "purse"] == 10 * 8800 + 100
    assert (found["scanengine_campaign_stopped", "once"], found["scanengine_campaign_stopped", "purse"]) == (1, 0)
    assert not any(key[:2] == ("scanengine_campaign_budget", "spring") for key in found)
