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
from tests.metrics.scraped import BY_FAMILY, OF_A_DAEMON
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
    """Each alert says what to do, as its section of the documentation does, to which it leads."""
    sections = re.findall(
        r"^### (\w+)\n\n(.*?)(?=\n\n###|\Z)", (ROOT / "docs/howto/monitoring.md").read_text(), re.MULTILINE | re.DOTALL
    )
    found = re.findall(
        r"- alert: (\w+)\n.*?description: (\".*?\")\n.*?runbook_url: \"howto/monitoring.html#(\w+)\"",
        RULES.read_text(),
        re.DOTALL,
    )
    assert [(name, json.loads(text), page) for name, text, page in found] == [
        (name, plain(text), name.lower()) for name, text in sections
    ]


def plain(text: str) -> str:
    """Return a paragraph without what is Markdown's."""
    return " ".join(re.sub(r"\[(`?\[?[^\]]+\]?`?)\]\([^)]+\)", r"\1", text).replace("`", "").split())


@pytest.mark.parametrize("text", [RULES.read_text(), "\n".join(queries())], ids=["alerts", "dashboard"])
def test_names(text: str) -> None:
    """Alerts and dashboard name only metrics that there are."""
    expressions = re.sub(r"^\s*(?:summary|description|runbook_url):.*$", "", text, flags=re.MULTILINE)
    assert names(expressions)
    assert names(expressions) - NAMES - OTHERS == set()


def test_queries(tmp_path: Path) -> None:
    """Prometheus can read each query of the dashboard."""
    rules = [{"record": f"query:{number}", "expr": each} for number, each in enumerate(queries())]
    assert len(rules) > 28
    file = tmp_path / "queries.yml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))  # JSON is YAML
    assert f"{len(rules)} rules found" in promtool("check", "rules", str(file))


def test_panels(place: Place, tmp_path: Path) -> None:  # noqa: F811
    """Each query of the dashboard finds something in what a server says that has seen every event."""
    everything(place)
    series = [
        {"series": f"{name}{{job='twisted-ws',instance='a:9181',{labels}}}", "values": f"0x2 {float(value)}x20"}
        for name, labels, value in re.findall(r"^(\w+)(?:\{(.*)\})? (\S+)$", place.scrape(), re.MULTILINE)
    ]
    # What only a daemon has: see `OF_A_DAEMON`.
    wanted = [each for each in queries() if not any(f"twisted_ws_{name}" in each for name in OF_A_DAEMON)]
    assert len(wanted) > 28
    rules = [{"alert": f"Empty{number}", "expr": f"absent({each})"} for number, each in enumerate(wanted)]
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    tested = [{"eval_time": "4m", "alertname": each["alert"]} for each in rules]
    tests = [{"interval": "1m", "input_series": series, "alert_rule_test": tested}]
    (tmp_path / "test.yml").write_text(json.dumps({"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": tests}))
    promtool("test", "rules", str(tmp_path / "test.yml"))


def test_dashboardIsMade(tmp_path: Path) -> None:
    """The dashboard is what its script writes, with seven rows."""
    written = runpy.run_path(str(GRAFANA / "make.py"))["dashboard"]()
    assert (GRAFANA / "twisted-ws.json").read_text() == written
    assert sum(each["type"] == "row" for each in json.loads(written)["panels"]) == 7
