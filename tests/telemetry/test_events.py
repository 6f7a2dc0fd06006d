"""The words of the log: each call has one, and each is there for a call."""

from __future__ import annotations

import importlib.util
import re
import string
import sys
from pathlib import Path
from typing import Any

import pytest

import twisted_ws
from twisted_ws.telemetry.events import EVENTS, PIECES
from twisted_ws.telemetry.records import FIELDS

PACKAGE = Path(twisted_ws.__file__).parent
ROOT = Path(__file__).parent.parent.parent
# It writes what `Throttle.info` was given.
FORWARDS = "logs.py"


def _logcalls() -> Any:
    spec = importlib.util.spec_from_file_location("_logcalls", ROOT / "docs" / "_logcalls.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["_logcalls"] = module  # its dataclass asks for it
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def calls() -> Any:
    return [call for call in _logcalls().logCalls(PACKAGE) if not call.place.startswith(FORWARDS)]


def test_allCallsAreFound(calls: Any) -> None:
    """Whatever looks like a call of a logger in the source is one that these tests have read."""
    text = "".join(path.read_text() for path in PACKAGE.rglob("*.py") if path.name != FORWARDS)
    looks = re.findall(r"\b_?[lL]og(?:ger\(\))?\.(?:debug|info|warn|error|critical|failure|emit)\(|hrottle\.info\(", text)
    assert len(calls) == len(looks) > 100


def test_words(calls: Any) -> None:
    """Each log call of the package says in a word of the catalogue what has happened."""
    assert [call.place for call in calls if call.event not in EVENTS] == []


def test_noWordUnused(calls: Any) -> None:
    """The catalogue has no word that no call has."""
    used = {call.event for call in calls} | {"log.lost"}  # of the pipe, which has no logger
    assert set(EVENTS) - used == set()
    assert list(EVENTS) == sorted(EVENTS)


def test_fields(calls: Any) -> None:
    """What a call knows is a field of the closed list, or a declared piece of its text."""
    unknown = {f"{call.place}: {name}" for call in calls for name in call.names if name not in FIELDS and name not in PIECES}
    assert unknown == set()
    assert {name for name in PIECES if not any(name in call.names for call in calls)} == set()
    assert not PIECES & set(FIELDS)


def test_texts(calls: Any) -> None:
    """A text names only what its call gives, so that none is shown as a mistake."""
    for call in calls:
        named = {re.split("[.!:[]", name or "")[0] for _, name, _, _ in string.Formatter().parse(call.text) if name is not None}
        assert named <= set(call.names), call.place


def test_refusals(calls: Any) -> None:
    """Whoever is refused is named with the path that was asked for, where there is a path."""
    refusals = [
        call
        for call in calls
        if call.event in ("handshake.refused", "request.refused", "publish.refused", "request.unread", "token.refused")
    ]
    assert len(refusals) > 4
    assert [call.place for call in refusals if not {"peer", "path", "suppressed"} <= set(call.names)] == []


def test_format() -> None:
    """A word is two, joined by a dot, that a filter can name without quotes; and it is explained."""
    assert [word for word in EVENTS if not re.fullmatch("[a-z]+\\.[a-z_]+", word)] == []
    assert all(EVENTS.values())
