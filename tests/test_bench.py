from __future__ import annotations

import ast
import json
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest

import twisted_ws
from bench import __main__ as command
from bench.chart import chart
from bench.figures import Row, Target, judge, middle, ratio
from bench.peers import PEERS
from bench.report import BEGIN, END, facts, figure, filled, markdown, text
from bench.results import Results
from bench.servers.uncounted import strip
from bench.workloads import WORKLOADS

FAST = Row("fast", "messages", targets=(Target(0.9, "yardstick"), Target(2.0, "stock", "pure")))
LEAN = Row("lean", "memory <idle>", "bytes", less=True, targets=(Target(6144),))
OWN = Row("own", "p99, beside / without", "x", less=True, targets=(Target(1.1),))
TITLES = {"yardstick": "yardstick (C)", "twisted_ws": "twisted_ws", "pure": "pure", "stock": "A & B"}


def _results() -> Results:
    return Results(
        "2026-01-31",
        {"processor": "a chip", "cores": "2"},
        TITLES,
        {"twisted_ws": "twisted-ws 1", "stock": ""},
        {"rounds": 3, "seconds": 5},
        {
            "fast": {"yardstick": [100, 200, 100], "twisted_ws": [95, 180, 85], "pure": [50, 90, 60], "stock": [20, 50, 30]},
            "lean": {"twisted_ws": [3000], "pure": [3500], "stock": [9000.4]},
            "own": {"twisted_ws": [1.2]},
        },
        {"fast busy": {"twisted_ws": [0.97, 0.99, 0.98]}},
    )


def test_middle() -> None:
    """One disturbed round does not move a figure; nothing measured is no figure."""
    assert middle([5, 900, 6]) == 6
    assert middle([1, 2]) == 1.5
    assert middle([]) is middle(None) is None


def test_ratioByRound() -> None:
    """A ratio is that of figures of the same round, so what disturbs a round does not count."""
    assert ratio({"a": [10, 100, 11], "b": [10, 200, 10]}, "a", "b") == 1.0


def test_ratioOfNothing() -> None:
    """There is no ratio to a server that was left out, nor to a figure of zero."""
    assert ratio({"a": [10]}, "a", "b") is None
    assert ratio({"a": [10], "b": []}, "a", "b") is None
    assert ratio({"a": [10], "b": [0]}, "a", "b") is None


@pytest.mark.parametrize(
    ("row", "figures", "reached", "met"),
    [
        (Row("r", "", targets=(Target(0.9, "b"),)), {"twisted_ws": [9], "b": [10]}, 0.9, True),
        (Row("r", "", targets=(Target(0.9, "b"),)), {"twisted_ws": [8.9], "b": [10]}, 0.89, False),
        (Row("r", "", targets=(Target(2, "b", "pure"),)), {"pure": [30], "b": [10]}, 3.0, True),
        (Row("r", "", less=True, targets=(Target(6),)), {"twisted_ws": [6]}, 6, True),
        (Row("r", "", less=True, targets=(Target(6),)), {"twisted_ws": [6.1]}, 6.1, False),
        (Row("r", "", targets=(Target(0.9, "b"),)), {"twisted_ws": [9]}, None, False),
        (Row("r", "", targets=(Target(6),)), {}, None, False),
    ],
)
def test_judge(row: Row, figures: dict[str, list[float]], reached: float | None, met: bool) -> None:
    """A target is met at its bound and beyond, in the direction of its row; what was not measured meets none."""
    (verdict,) = judge([row], {"r": figures})
    assert verdict.met is met
    assert verdict.reached == (None if reached is None else pytest.approx(reached))


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (1234.5, "/s", "1,234/s"),
        (6144.2, "bytes", "6,144 B"),
        (3.456, "us", "3.46 µs"),
        (5400, "us", "5,400 µs"),
        (0.999, "x", "1.00"),
        (None, "/s", "-"),
    ],
)
def test_figure(value: float | None, unit: str, shown: str) -> None:
    """Figures are shown with their unit, and with no more digits than they are worth."""
    assert figure(value, unit) == shown


def test_text() -> None:
    """The terminal gets each row with medians, spread, ratios and load, then each target and whether it was met."""
    shown = text([FAST, LEAN, OWN], _results()).splitlines()
    assert shown[2].split() == ["twisted_ws", "95/s", "100%", "0.90", "-", "0.98"]
    assert [line.split()[-1] for line in shown[-4:]] == ["met", "met", "met", "MISSED"]


def test_textOfPart() -> None:
    """A run of some workloads shows only those."""
    results = _results()
    del results.figures["own"], results.figures["lean"]
    shown = text([FAST, LEAN, OWN], results)
    assert "memory" not in shown
    assert "p99" not in shown


def test_markdown() -> None:
    """The page gets the targets, a table of servers, what is measured of one server alone, and on what it was measured."""
    page = markdown([FAST, LEAN, OWN], _results())
    assert "| messages | twisted_ws | at least 0.90 of yardstick (C) | 0.90 | met |" in page
    assert "| p99, beside / without | twisted_ws | at most 1.10 | 1.20 | missed |" in page
    assert "| server | memory <idle> |" in page
    assert "| A & B | 9,000 B |" in page
    assert "| work | twisted_ws |\n| --- | ---: |\n| p99, beside / without | 1.20 |" in page
    assert "2 cores of a chip" in page
    assert "medians of 3 rounds of 5 s" in page
    assert "- twisted_ws: twisted-ws 1" in page
    tables = [line.count("|") for line in page.splitlines() if line.startswith("|")]
    assert set(tables) <= {3, 6}


def test_filled() -> None:
    """Only what stands between the marks is written anew."""
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    once = filled(page, "new")
    assert once == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"
    assert filled(once, "new") == once
    with pytest.raises(ValueError, match="no place"):
        filled("before\nafter\n", "new")


def test_chart() -> None:
    """The picture is well-formed, has a bar for each server in rows that compare servers, and the best stands first."""
    picture = ElementTree.fromstring(chart([FAST, LEAN, OWN], _results()))
    first, second = picture.findall("table")
    assert len(first.findall("tr")) == 4
    assert "".join(second.find("caption").itertext()).startswith("memory <idle> (less is better) ")  # type: ignore[union-attr]
    assert [name.text for name in second.findall("tr/th")] == ["twisted_ws", "pure", "A & B"]
    bars = [
        float((bar.get("style") or "").removeprefix("width: ").removesuffix("%"))
        for bar in second.iter("span")
        if bar.get("style")
    ]
    assert bars == sorted(bars)
    assert max(bars) == 100
    assert max(bars) / min(bars) == pytest.approx(3, rel=0.01)


def test_resultsKept(tmp_path: Path) -> None:
    """Results are the same after they were saved and loaded; without a file there are none."""
    _results().save(tmp_path / "results.json")
    assert Results.load(tmp_path / "results.json") == _results()
    assert Results.load(tmp_path / "none.json") == Results()


def test_resultsAdd() -> None:
    """Rounds are collected by row and server; anything else is a detail of its workload."""
    results = Results()
    for busy in (0.5, 0.75):
        results.add("work", ["fast"], "stock", {"fast": 10, "busy": busy})
    assert results.figures == {"fast": {"stock": [10, 10]}}
    assert results.details == {"work busy": {"stock": [0.5, 0.75]}}


def test_resultsReplace() -> None:
    """What was measured again takes the place of what was there; the rest stays."""
    results = _results()
    later = Results("2026-02-01", {}, TITLES, {"pure": "2"}, {}, {"fast": {"stock": [7]}}, {"fast busy": {"stock": [1]}})
    results.replace(later)
    assert results.figures["fast"]["stock"] == [7]
    assert results.figures["fast"]["pure"] == [50, 90, 60]
    assert results.figures["own"] == {"twisted_ws": [1.2]}
    assert results.date == "2026-02-01"
    assert results.versions == {"twisted_ws": "twisted-ws 1", "stock": "", "pure": "2"}


def test_where() -> None:
    """Rows that were measured on another day or machine than the last ones are named with that; the others need no names."""
    results, later = _results(), replace(_results(), date="2026-02-01", machine={"processor": "another chip"})
    results.where = dict.fromkeys(results.figures, facts(results))
    later.figures = {"own": {"twisted_ws": [1.1]}}
    later.where = {"own": facts(later)}
    assert "except for" not in markdown([FAST, OWN], results)
    results.replace(later)
    last, before = [line for line in markdown([FAST, OWN], results).splitlines() if line.startswith("Measured on")]
    assert "2026-02-01" in last
    assert "another chip" in last
    assert last.endswith("; except for what follows.")
    assert before == f"{facts(_results())} These are: messages."


def test_tables() -> None:
    """Names of workloads, rows and servers are unique, and targets and workloads name servers that exist."""
    keys = [peer.key for peer in PEERS]
    rows = [row for workload in WORKLOADS for row in workload.rows]
    for names in (keys, [workload.name for workload in WORKLOADS], [row.key for row in rows]):
        assert len(names) == len(set(names))
    named = {name for row in rows for target in row.targets for name in (target.peer, target.against)}
    assert named | {key for workload in WORKLOADS for key in workload.peers} <= {*keys, ""}


def test_targetsMeasured() -> None:
    """Every server that a target names takes part in its workload."""
    peers = {peer.key: peer for peer in PEERS}
    for workload in WORKLOADS:
        for target in (target for row in workload.rows for target in row.targets):
            assert all(workload.takes(peers[key]) for key in (target.peer, target.against) if key)


def test_unknownName(capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown workload is refused with the names of the known ones."""
    with pytest.raises(SystemExit, match=r"unknown name 'eco'; the known names are .*echo"):
        command.main(["--only", "eco"])


def test_quickNotKept(capsys: pytest.CaptureFixture[str]) -> None:
    """The results of a quick run cannot be kept."""
    with pytest.raises(SystemExit):
        command.main(["--quick", "--save"])
    assert "cannot be kept" in capsys.readouterr().err


def test_docsTrue() -> None:
    """The documentation shows the kept results, figure by figure."""
    results = Results.load(command.KEPT)
    page = command.PAGE.read_text()
    assert filled(page, markdown(command.ROWS, results)) == page
    assert json.loads(command.KEPT.read_text())["figures"]


def test_uncounted() -> None:
    """The server that counts nothing differs by the statements that count, and has no others less."""
    source = """
def send(self, count):
    counts = self._counts
    counts.deliveries += count
    self.runtime.counts.refused.add("limit")
    self._countPublication(self)
    countedFrom = self.seconds()
    self.runtime.counts.calls.rows[count, ""] += 1
    self.total += count
    self.counted(self)
    return count
"""
    stripped, left = strip(source)
    assert left == 5
    assert [line.strip() for line in ast.unparse(stripped).splitlines() if line.strip() != "pass"] == [
        *("def send(self, count):", "counts = self._counts", "countedFrom = 0.0"),
        *("self.total += count", "self.counted(self)", "return count"),
    ]


COUNTING = (
    r"counts\.[\w.]+(?:\[.*\])? \+=.*|counts\.\w+\.add\(.*|(?<!def )(?:_countPublication|countRequest)\(.*|countedFrom = (?!0).*"
)


def test_everythingIsLeftOut() -> None:
    """In the way of a message nothing is counted that the server that counts nothing would count."""
    for module in (
        *("wire/frontdoor.py", "wire/websocket/connection.py", "wire/websocket/fanout.py", "channels/channels.py"),
        *("web/api/guard.py", "web/http/connection.py", "web/http/request.py"),
    ):
        text = (Path(twisted_ws.__file__).parent / module).read_text()
        assert re.findall(COUNTING, ast.unparse(ast.parse(text)))
        assert not re.findall(COUNTING, ast.unparse(strip(text)[0]))
