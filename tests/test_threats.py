"""The table of threats in the documentation: each row names tests that there are."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest

from tests.transcript import ROOT

PAGE = ROOT / "docs/explanation/security.md"
_TEST = re.compile(r"`(tests/[a-zA-Z_/]+\.py)::(test_\w+)`")
# What has to have a row: a part of its first cell.
THREATS = (
    *("algorithm", "`none`", "`oct`", "`kid`", "another issuer, audience or type", "200 kB", "brackets", "outlives its token"),
    *("clock jumps", "refresh to another user", "revoked, but was cached", "`orders.*` against `orders`, `ordersx`, `*`"),
    *("`a.b`, `*`, `~me`, or 128 characters of 4 bytes", "a hook hangs, drips, fails, or answers 50 MB", "redirects", "(401)"),
    *("rebinding", "posts, opens a stream or a WebSocket", "used twice, at once", "becomes a pipe", "one forbidden channel"),
    *("an empty password", "injection", "the directory is gone", "a secret in the log"),
)


def rows() -> list[list[str]]:
    """Return the rows of the table, each as its cells."""
    section = PAGE.read_text().partition("## Threats")[2].partition("\n## ")[0]
    found = [line.strip("|").split(" | ") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in cells] for cells in found[2:]]


@cache
def promisedIn(path: str) -> frozenset[str]:
    """Return the names of the tests in a module that promise something."""
    found = ast.parse((ROOT / path).read_text()).body
    return frozenset(
        each.name for each in found if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(each)
    )


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0][:40])
def test_shown(row: list[str]) -> None:
    """Each threat has an answer, and tests that show it, which exist."""
    threat, answer, shown = row
    assert threat
    assert answer
    named = _TEST.findall(shown)
    assert named
    assert _TEST.sub("", shown).replace(",", "").strip() == ""
    for path, name in named:
        assert name in promisedIn(path), f"{path} has no test {name}"


@pytest.mark.parametrize("threat", THREATS)
def test_whole(threat: str) -> None:
    """No threat that the server was built against is left out."""
    assert any(threat in row[0] for row in rows())
