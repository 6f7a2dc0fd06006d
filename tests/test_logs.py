from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.logger import Logger, capturedLogs, formatEvent

from twisted_ws.logs import Throttle, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("plain text, grüße", "plain text, grüße"),
        ("two\nlines\r\n", "two\\nlines\\r\\n"),
        ("tab\there", "tab\\there"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("nul\x00del\x7fc1\x85\x9b", "nul\\x00del\\x7fc1\\x85\\x9b"),
        ("\u2028\u2029", "\\u2028\\u2029"),
        ("\u202eevil\u202c\u2066\u2069\u200e\u200f\u061c", "\\u202eevil\\u202c\\u2066\\u2069\\u200e\\u200f\\u061c"),
        ("\ufeff\ud800", "\\ufeff\\ud800"),
        ("back\\slash", "back\\\\slash"),
        (b"\xff\x1b\n", "ÿ\\x1b\\n"),
        (bytearray(b"a\0"), "a\\x00"),
        (17, "17"),
        (ValueError("a\nb"), "a\\nb"),
    ],
)
def test_printable(text, shown):
    """What moves the cursor, ends a line or turns the writing is escaped; the rest stays readable."""
    assert printable(text) == shown


@pytest.mark.parametrize(
    ("text", "limit", "shown"),
    [
        ("x" * 256, 256, "x" * 256),
        ("x" * 257, 256, "x" * 256 + "…"),
        (b"x" * 100_000, 256, "x" * 256 + "…"),
        ("\n" * 3, 4, "\\n\\n…"),
        ("abc", 2, "ab…"),
    ],
)
def test_cut(text, limit, shown):
    """At most `limit` characters are kept, counted after escaping, and an ellipsis says that there was more."""
    assert printable(text, limit) == shown


@given(st.one_of(st.text(), st.binary()), st.integers(1, 300))
def test_anything(text, limit):
    """Whatever a peer sends, one short line without controls comes out, and any log file can encode it."""
    shown = printable(text, limit)
    assert len(shown) <= limit + 1
    assert len(shown.splitlines()) <= 1
    assert not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in shown)
    shown.encode()


def test_throttle():
    """After ten lines of a kind in ten seconds the rest are counted, and the count is told with the next line."""
    clock = Clock()
    throttle, log = Throttle(clock.seconds), Logger("test")
    with capturedLogs() as lines:
        for n in range(25):
            throttle.info(log, "refused", "refused {n}", n=n)
        assert [formatEvent(line) for line in lines] == [f"refused {n}" for n in range(10)]
        throttle.info(log, "broken", "another kind")
        assert len(lines) == 11
        clock.advance(10)
        throttle.info(log, "refused", "again")
        throttle.info(log, "refused", "and again")
    assert [(formatEvent(line), line["suppressed"]) for line in lines[11:]] == [("again", 15), ("and again", 0)]


def test_throttleUnderItsLimit():
    """Of a kind that stays under its limit, no line says how many were left out."""
    clock = Clock()
    throttle, log = Throttle(clock.seconds, lines=2, seconds=1), Logger("test")
    with capturedLogs() as lines:
        for _ in range(5):
            throttle.info(log, "kind", "line")
            throttle.info(log, "kind", "line")
            clock.advance(1)
    assert [(formatEvent(line), line["suppressed"]) for line in lines] == [("line", 0)] * 10
