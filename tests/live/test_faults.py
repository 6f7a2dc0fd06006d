from __future__ import annotations

from pathlib import Path

import pytest

from hostile.faults import FAULTS, suffer
from hostile.outages import OUTAGES, endure

# The most telling ones; `python -m hostile faults` lets all of them happen, for longer.
SHORT = ("clients cut", "a history shorter than the outage", "publishers cut", "server killed behind HAProxy")
KNOWN = {each.name: each for each in FAULTS}

pytestmark = pytest.mark.usefixtures("hostileForked")


@pytest.mark.parametrize("name", SHORT)
def test_nothingIsLostSilently(name: str, tmp_path: Path) -> None:
    """Whatever fails, subscribers of every kind get each message once and in order, or are told that something is lost."""
    row = suffer(KNOWN[name], tmp_path, count=1, scale=0.2)
    assert row.faults == []
    assert row.published > 0
    assert all(kind["delivered"] for kind in row.kinds.values())
    if name == "clients cut":
        assert row.connects > len(row.kinds)
    if name == "publishers cut":
        assert row.tries > 0
    if name == "a history shorter than the outage":
        assert all(kind["told"] for kind in row.kinds.values())


@pytest.mark.parametrize("name", ["worker killed", "Valkey with older data"])
def test_severalProcesses(name: str, tmp_path: Path) -> None:
    """The same when one of several processes fails, or the engine between them."""
    (outage,) = [each for each in OUTAGES if each.name == name]
    row = endure(outage, tmp_path, count=1, scale=0.1)
    assert row.faults == []
    assert row.published > 0
    assert all(kind["delivered"] for kind in row.kinds.values())
