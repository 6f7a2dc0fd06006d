from __future__ import annotations

import json
from pathlib import Path

import pytest

from hostile import __main__ as command
from hostile import report
from hostile.attack import Attack, Target
from hostile.attacks import ATTACKS, KINDS
from hostile.good import Stream
from hostile.peer import tally
from hostile.results import Results


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
    """A number that is jumped over is lost until it comes, and then it is out of order; one that comes twice is doubled."""
    stream = Stream()
    for number in 0, 1, 4, 3, 1, 5:
        stream.took(number, 0.0)
    assert (stream.doubled, stream.disordered) == (1, 1)
    assert stream.lost(6, set()) == 1
    assert stream.lost(8, set()) == 3
    assert stream.lost(8, {2, 7}) == 1


def test_streamBegins() -> None:
    """A new account has nothing of the one before, but what is lost stays lost."""
    stream = Stream()
    for number in 0, 0, 2:
        stream.took(number, 0.0)
    stream.begin()
    assert (stream.doubled, stream.waits, stream.lost(3, set())) == (0, [], 1)


def test_tally() -> None:
    """What all got is said once; else each with its number, the most first."""
    assert tally(["reset", "reset"]) == "reset"
    assert tally(["reset", "close 1002", "reset"]) == "2 x reset, 1 x close 1002"


@pytest.mark.parametrize(
    ("wants", "got", "met"), [("close 1002", "close 1002", True), ("close", "close 1002", False), ("", "?", True)]
)
def test_met(wants: str, got: str, met: bool) -> None:
    """What the attacker got is compared as a whole."""
    assert Attack("a", "b", "c", _nothing, wants).met(got) is met


def test_attackTable() -> None:
    """The page has a table for each kind, with what did not hold, and says how many held."""
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
    """Attacks have names of their own, a sentence, and a kind that the table knows."""
    names = [each.name for each in ATTACKS]
    assert len(names) == len(set(names))
    assert {each.group for each in ATTACKS} == set(KINDS)
    assert all(each.sentence.endswith(".") for each in ATTACKS)


def test_unknownName() -> None:
    """An attack that there is not is refused."""
    with pytest.raises(SystemExit, match="there is no attack 'fram'"):
        command.main(["--only", "fram"])


def test_quickNotKept(capsys: pytest.CaptureFixture[str]) -> None:
    """A quick run cannot be made the kept one."""
    with pytest.raises(SystemExit):
        command.main(["--quick", "--save"])
    assert "too small" in capsys.readouterr().err


def test_docsTrue() -> None:
    """The documentation shows the kept results, row by row, and only of attacks that there are."""
    results = Results.load(command.KEPT)
    page = command.PAGE.read_text()
    assert report.filled(page, command.parts(results)) == page
    assert set(json.loads(command.KEPT.read_text())["attacks"]) <= {each.name for each in ATTACKS}
    assert results.attacks
