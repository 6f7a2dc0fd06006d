from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from hostile import __main__ as command
from hostile import report
from hostile.attack import Attack, Target
from hostile.attacks import ATTACKS, KINDS
from hostile.chart import chart
from hostile.cluster import Cluster
from hostile.faults import FAULTS, Fault, Scene
from hostile.good import Stream
from hostile.moves import MOVES, Move, move
from hostile.outages import OUTAGES, Outage, Stage
from hostile.peer import tally
from hostile.results import Results
from hostile.subscribers import Reader


def _nothing(target: Target) -> str:
    return ""


KNOWN = [
    Attack("a & b", "frames", "Does <this> | that.", _nothing, "close 1002"),
    Attack("c", "floods", "Does more.", _nothing),
]
GOOD = {
    "clients": 100,
    "delivered": 1000,
    "lost": 0,
    "doubled": 0,
    "disordered": 0,
    "closed": [],
    "refused": [],
    "strange": [],
    "longest": 0.0123,
    "p99": 0.01,
    "lag": 0.0,
}


def _row(name: str, got: str, faults: list[str], **good: object) -> dict[str, object]:
    return {
        "name": name,
        "got": got,
        "good": {**GOOD, **good},
        "memory": [64 << 20, 70 << 20, 65 << 20],
        "descriptors": [115, 200, 116],
        "seconds": 3.0,
        "cpu": 1.0,
        "faults": faults,
    }


ROWS = {"a & b": _row("a & b", "close 1002", []), "c": _row("c", "3 MB", ["2 messages lost"], lost=2, closed=["Poll: x"])}


def test_streamCounts() -> None:
    """A skipped number is lost until it comes, and then it is out of order; one that comes twice is a duplicate."""
    stream = Stream()
    for number in 0, 1, 4, 3, 1, 5:
        stream.took(number, 0.0)
    assert (stream.doubled, stream.disordered) == (1, 1)
    assert stream.lost(6, set()) == 1
    assert stream.lost(8, set()) == 3
    assert stream.lost(8, {2, 7}) == 1


def test_streamBegins() -> None:
    """A new account takes over nothing from the one before, but what is lost stays lost."""
    stream = Stream()
    for number in 0, 0, 2:
        stream.took(number, 0.0)
    stream.begin()
    assert (stream.doubled, stream.waits, stream.lost(3, set())) == (0, [], 1)


def test_tally() -> None:
    """What all clients got is said once; otherwise each result is listed with its count, the most frequent first."""
    assert tally(["reset", "reset"]) == "reset"
    assert tally(["reset", "close 1002", "reset"]) == "2 x reset, 1 x close 1002"


@pytest.mark.parametrize(
    ("wants", "got", "met"), [("close 1002", "close 1002", True), ("close", "close 1002", False), ("", "?", True)]
)
def test_met(wants: str, got: str, met: bool) -> None:
    """What the attacker got is compared as a whole."""
    assert Attack("a", "b", "c", _nothing, wants).met(got) is met


def test_attackTable() -> None:
    """The page has a table for each kind, with what failed, and says how many held."""
    page = report.attacks(KNOWN, ROWS)
    assert page.startswith("1 of 2 held; of 2,000 messages to good clients 2 were lost")
    assert "### Frames" in page
    assert "| **a & b**: Does &lt;this> \\| that. | close 1002 | 0 / 0 / 0 | 0 | 12 ms | 64 / 70 / 65 | 115 / 116 |" in page
    assert "| 3 MB (**not held**: 2 messages lost) | 2 / 0 / 0 | 1 |" in page


def test_attackLine() -> None:
    """The terminal gets a line for each attack, and one for each fault."""
    first, second = report.attackLine(ROWS["c"]).splitlines()
    assert first.split()[:5] == ["c", "3", "MB", "2", "1"]
    assert second.strip() == "FAULT: 2 messages lost"


COUNTED = {"delivered": 7000, "silent": 1, "told": 20, "doubled": 2, "disordered": 3}
FAULT_ROW = {
    "name": "f",
    "published": 9000,
    "kinds": {"poll": COUNTED, "WebSocket": COUNTED},
    "seconds": 8.0,
    "faults": ["2 doubled"],
}


def _happen(scene: Scene) -> None:
    """Nothing."""


def _befall(stage: Stage, cluster: Cluster) -> None:
    """Nothing."""


def test_faultTables() -> None:
    """The page has a row for each fault, one for all of them, and one for each kind of subscriber; the terminal has a line."""
    page = report.faults([Fault("f", "It fails.", _happen)], {"f": FAULT_ROW})
    assert "| **f**: It fails. | 9,000 | 14,000 | 2 | 40 | 4 | 6 |" in page
    assert "| all | 9,000 | 14,000 | 2 | 40 | 4 | 6 |" in page
    assert "| poll | 7,000 | 1 | 20 | 2 | 3 |" in page
    first, second = report.faultLine(FAULT_ROW).splitlines()
    assert first.split() == ["f", "9,000", "14,000", "2", "40", "4", "6", "8", "s"]
    assert second.strip() == "FAULT: 2 doubled"


def test_outageTables() -> None:
    """The page has a row for each outage, with reconnects and the seconds until all was well, and says what did not hold."""
    row = {**FAULT_ROW, "subscribers": 100, "connects": 123, "whole": 4.56}
    page = report.outages([Outage("f", "It fails.", _befall, Cluster)], {"f": row})
    assert "| **f**: It fails. (**not held**: 2 doubled) | 9,000 | 14,000 | 2 | 40 | 4 | 6 | 23 | 4.6 s |" in page
    assert "| poll | 7,000 | 1 | 20 | 2 | 3 |" in page
    first, second = report.outageLine(row).splitlines()
    assert first.split() == ["f", "9,000", "14,000", "2", "40", "4", "6", "23", "4.6", "s", "8", "s"]
    assert second.strip() == "FAULT: 2 doubled"


def test_readerCounts() -> None:
    """A skipped number is lost silently, unless the subscriber was told; what nobody knows of is not due.

    An id that does not follow the one before is noted, too.
    """
    reader = Reader()
    reader.begins("a:0", recovered=False, asked=False)
    for number, position in (0, "a:1"), (2, "a:3"), (2, "a:3"), (1, "a:2"):
        reader.took(number, position)
    reader.begins("b:9", recovered=False, asked=True)
    reader.took(5, "b:10")
    found = {"delivered": 4, "doubled": 1, "disordered": 1, "alarms": 1, "jumps": 3}
    assert reader.account(7, set()) == {**found, "silent": 1, "told": 2}
    assert reader.silent(7, set()) == [6]
    assert reader.account(7, {3, 6}) == {**found, "silent": 0, "told": 1}


@pytest.mark.parametrize(("position", "jumps"), [("a:2", 0), ("a:3", 1), ("a:1", 1), ("b:3", 0), ("", 0)])
def test_readerSeesJumps(position: str, jumps: int) -> None:
    """An id has to follow the one before, unless the numbering is another one, or a loss was reported."""
    reader = Reader()
    reader.begins("a:0", recovered=True, asked=False)
    reader.took(0, "a:1")
    reader.took(1, position)
    assert reader.account(2, set())["jumps"] == jumps
    reader.begins("a:8", recovered=False, asked=True)
    reader.took(2, "a:9")
    assert reader.account(3, set())["jumps"] == jumps


@pytest.mark.parametrize(("dropping", "silent"), [(True, 0), (False, 1)])
def test_readerSeesDrops(dropping: bool, silent: int) -> None:
    """Offsets that jump tell of a loss where the policy drops messages, and nowhere else."""
    reader = Reader(dropping)
    reader.begins("a:0", recovered=True, asked=False)
    reader.took(0, "a:1")
    reader.took(2, "a:3")
    assert reader.account(3, set())["silent"] == silent


@pytest.mark.parametrize(("belated", "silent"), [(True, []), (False, [0])])
def test_belated(belated: bool, silent: list[int]) -> None:
    """Where a loss may be reported late, the report is about all that is missing by then, and about nothing later."""
    reader = Reader(belated=belated)
    reader.begins("a:0", recovered=True, asked=False)
    reader.took(1, "a:1")
    reader.begins("b:1", recovered=False, asked=True)
    reader.took(3, "b:2")
    reader.took(5, "b:4")
    assert reader.silent(6, set()) == [*silent, 4]
    assert reader.account(6, {4})["told"] == 2 - len(silent)


SAMPLES = [[0, 64 << 20, 10, 0.0], [100, 70 << 20, 58, 1.0], [1000, 71 << 20, 12, 9.0]]


def test_soakPage() -> None:
    """The page says what memory and descriptors were before, after a tenth and at the end, and what good clients lost."""
    found = {"samples": SAMPLES, "good": GOOD, "seconds": 120.0, "cpu": 1.0, "connects": {"a, cut": 1000}, "faults": ["it leaks"]}
    page = report.soak(found)
    assert "1,000 connections in 2 minutes; 1,000 us" in page
    assert "Memory was 70.0 MiB after the first tenth and 71.0 MiB after the last;" in page
    assert "descriptors were 10 before, 58 at most, and 12 after." in page
    assert "**Not held**: it leaks." in page
    assert "| a, cut | 1,000 |" in page


def test_chart() -> None:
    """The picture has a line for memory and one for descriptors, from the first sample to the last."""
    root = ElementTree.fromstring(chart(SAMPLES))
    memory, descriptors = (line.attrib["points"].split() for line in root.iter("{http://www.w3.org/2000/svg}polyline"))
    assert len(memory) == len(descriptors) == len(SAMPLES)
    # Downwards in a picture is less.
    assert [float(point.partition(",")[2]) for point in memory] == sorted(
        (float(point.partition(",")[2]) for point in memory), reverse=True
    )
    assert (
        float(descriptors[1].partition(",")[2])
        < float(descriptors[2].partition(",")[2])
        < float(descriptors[0].partition(",")[2])
    )


def test_filled() -> None:
    """Only what stands between the marks of a part is written anew."""
    page = f"a\n{report.begin('x')}\nold\n{report.end('x')}\nb\n"
    once = report.filled(page, {"x": "new"})
    assert once == f"a\n{report.begin('x')}\n\nnew\n\n{report.end('x')}\nb\n"
    assert report.filled(once, {"x": "new"}) == once
    with pytest.raises(ValueError, match="no place for y"):
        report.filled(page, {"y": "new"})


def test_resultsKept(tmp_path: Path) -> None:
    """Results are the same after they were saved and loaded; without a file there are none."""
    results = Results({"attacks": {"cores": "2"}}, {"attacks": "2026-01-31"}, ROWS)
    results.save(tmp_path / "results.json")
    assert Results.load(tmp_path / "results.json") == results
    assert Results.load(tmp_path / "none.json") == Results()


@pytest.mark.parametrize(("whole", "names"), [(True, {"d"}), (False, {"a & b", "c", "d"})])
def test_resultsReplace(whole: bool, names: set[str]) -> None:
    """A whole run takes the place of what was there; another adds its rows. Parts that did not run stay."""
    results = Results({}, {"attacks": "2026-01-31", "soak": "2026-01-01"}, dict(ROWS), soak={"x": 1})
    results.replace(Results({}, {"attacks": "2026-02-01"}, {"d": _row("d", "", [])}), whole)
    assert set(results.attacks) == names
    assert results.dates == {"attacks": "2026-02-01", "soak": "2026-01-01"}
    assert results.soak == {"x": 1}


def test_table() -> None:
    """Attacks have unique names, a sentence, and a kind that the table knows."""
    names = [each.name for each in ATTACKS]
    assert len(names) == len(set(names))
    assert {each.group for each in ATTACKS} == set(KINDS)
    assert all(each.sentence.endswith(".") for each in ATTACKS)


@pytest.mark.parametrize("words", [["--only", "fram"], ["fram"]])
def test_unknownName(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown part, attack or fault is refused."""
    with pytest.raises(SystemExit):
        command.main(words)
    assert "'fram'" in capsys.readouterr().err


def test_quickNotKept(capsys: pytest.CaptureFixture[str]) -> None:
    """The results of a quick run cannot be kept."""
    with pytest.raises(SystemExit):
        command.main(["--quick", "--save"])
    assert "cannot be kept" in capsys.readouterr().err


def test_moveTables() -> None:
    """The page has a row for each move, and one for each kind of client; the terminal has a line, and says what did not hold."""
    counts = {"clients": 5, "got": 1000, "closed": 1, "lost": 2, "doubled": 3, "disordered": 4}
    row = {"name": "f", "clients": 10, "published": 200, "kinds": {"raw": counts, "json": counts}}
    row |= {"longest": 0.25, "usual": 0.01, "faults": ["4 lost"]}
    page = report.moves([Move("f", "It moves.")], {"f": row})
    assert "| **f**: It moves. (**not held**: 4 lost) | 10 | 200 | 2 | 4 | 6 | 8 | 250 ms | 10 ms |" in page
    assert "| raw | 1,000 | 1 | 2 | 3 | 4 |" in page
    first, second = report.moveLine(row).splitlines()
    assert first.split() == ["f", "10", "200", "2,000", "2", "4", "6", "8", "250", "ms", "10", "ms"]
    assert second.strip() == "FAULT: 4 lost"


@pytest.mark.exhaustive
@pytest.mark.usefixtures("hostileForked")
def test_move(tmp_path: Path) -> None:
    """A short form of new code for open connections: nobody notices anything."""
    row = move(MOVES[0], tmp_path, 0.01)
    assert row.faults == []
    assert row.published > 0


def test_docsTrue() -> None:
    """The documentation shows the kept results, row by row, and only of attacks and faults that there are."""
    results = Results.load(command.KEPT)
    page = command.PAGE.read_text()
    assert report.filled(page, command.parts(results)) == page
    assert set(results.attacks) <= {each.name for each in ATTACKS}
    assert set(results.faults) <= {each.name for each in FAULTS}
    assert set(results.outages) <= {each.name for each in OUTAGES}
    assert set(results.moves) <= {each.name for each in MOVES}
    assert results.attacks
    if results.soak:
        assert command.PICTURE.read_text() == chart(results.soak["samples"])
