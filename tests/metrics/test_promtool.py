"""What Prometheus itself says of a scrape, of the alerts, and of the queries of the dashboard."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.support import PATIENCE
from tests.metrics.scraped import BY_FAMILY
from tests.metrics.test_collector import Place, everything, place  # noqa: F401 - a fixture
from twisted_ws.metrics.declared import Kind

ROOT = Path(__file__).parent.parent.parent
PROMETHEUS = ROOT / "contrib" / "prometheus"
GRAFANA = ROOT / "contrib" / "grafana"
RULES = PROMETHEUS / "twisted-ws.rules.yml"
NAMES = {
    each.fullName + suffix
    for each in BY_FAMILY.values()
    for suffix in (("_bucket", "_count", "_sum") if each.kind is Kind.HISTOGRAM else ("",))
}
# Names of others that queries may have.
OTHERS = {"up"}


def promtool(*arguments: str, given: str = "") -> str:
    """Return what promtool says, which must be content."""
    done = subprocess.run(["promtool", *arguments], input=given, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def names(expression: str) -> set[str]:
    """Return the names of metrics in a query."""
    return set(re.findall(r"\b(?:twisted_ws|process)_\w+", expression))


def queries() -> Iterator[str]:
    """Yield the queries of the dashboard, as Grafana sends them."""
    for panel in json.loads((GRAFANA / "twisted-ws.json").read_text())["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"].replace("$__rate_interval", "5m").replace("$job", ".*").replace("$instance", ".*")


def test_scrape(place: Place) -> None:  # noqa: F811
    """Prometheus has nothing to say against the names, types and help of what a server with a history answers."""
    everything(place)
    assert promtool("check", "metrics", given=place.scrape()) == ""


def test_configuration() -> None:
    """The configuration for Prometheus is valid, and the files that it names are there."""
    assert "1 rule files found" in promtool("check", "config", str(PROMETHEUS / "prometheus.yml"))


@pytest.mark.parametrize("path", ["contrib/prometheus/prometheus.yml", "docs/howto/monitoring.md"])
def test_ratesHaveTwoScrapes(path: str) -> None:
    """Each job is scraped twice within the minute over which Grafana takes rates unless told otherwise."""
    jobs = (ROOT / path).read_text().split("- job_name: ")[1:]
    intervals = [re.findall(r"^ +scrape_interval: (\d+)s$", job, re.MULTILINE) for job in jobs]
    assert intervals
    assert all(len(found) == 1 and 2 * int(found[0]) < 60 for found in intervals), intervals


def test_alerts() -> None:
    """Each alert comes when it should and not before; its test says when."""
    promtool("test", "rules", str(PROMETHEUS / "twisted-ws.test.yml"))
    tested = (PROMETHEUS / "twisted-ws.test.yml").read_text()
    alerts = re.findall(r"- alert: (\w+)", RULES.read_text())
    assert re.findall(r"alertname: (\w+)\n\s+exp_alerts:", tested) == alerts
    assert re.findall(r"- \{eval_time: \w+, alertname: (\w+)\}", tested) == alerts


def test_runbooks() -> None:
    """Each alert leads to a section of the documentation."""
    sections = re.findall(r"^### (\w+)$", (ROOT / "docs" / "howto" / "monitoring.md").read_text(), re.MULTILINE)
    found = re.findall(r"- alert: (\w+)|runbook_url: \"howto/monitoring.html#(\w+)\"", RULES.read_text())
    assert [each for each in found if each[0]] == [(each, "") for each in sections]
    assert [each[1] for each in found if each[1]] == [each.lower() for each in sections]


@pytest.mark.parametrize("text", [RULES.read_text(), "\n".join(queries())], ids=["alerts", "dashboard"])
def test_names(text: str) -> None:
    """Alerts and dashboard name only metrics that there are."""
    expressions = re.sub(r"^\s*(?:summary|runbook_url):.*$", "", text, flags=re.MULTILINE)
    assert names(expressions)
    assert names(expressions) - NAMES - OTHERS == set()


def test_queries(tmp_path: Path) -> None:
    """Prometheus can read each query of the dashboard."""
    rules = [{"record": f"query:{number}", "expr": each} for number, each in enumerate(queries())]
    assert len(rules) > 28
    file = tmp_path / "queries.yml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))  # JSON is YAML
    assert f"{len(rules)} rules found" in promtool("check", "rules", str(file))


def test_dashboardIsMade(tmp_path: Path) -> None:
    """The dashboard is what its script writes, with seven rows."""
    written = runpy.run_path(str(GRAFANA / "make.py"))["dashboard"]()
    assert (GRAFANA / "twisted-ws.json").read_text() == written
    assert sum(each["type"] == "row" for each in json.loads(written)["panels"]) == 7
